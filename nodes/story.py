"""What a sampler needs of a written story: the script, its conditioning and its latents."""

from typing import Any

from comfy_api.latest import io

from ..core.inputs import shown
from ..core.story.noise import DIFFERENT, NOISE_POLICIES, noise_indices
from ..core.story.script import read_script, unknown_style
from ..core.story.story import Story
from ..core.story.styles import DEFAULT_STYLE
from ..host.common import messages
from ..host.common.conditioning import encode_story
from ..host.story.latents import MAX_SIZE, SCALE, empty_story_latent, trained_size
from ..host.story.styles import load_styles
from .node import StoryReelNode
from .types import StoryType

CATEGORY = "StoryReel"

CHARACTERS = """\
[Mia] a girl with short red hair and a yellow raincoat
[Pip] a small white fox with a blue scarf"""

SCENES = """\
[Mia] walks along the beach at dawn with a lantern #Every morning Mia looked for what the sea had left.
[Pip] sleeps in an old wooden boat on the sand #Today it had left a boat. And in the boat, somebody.
[Mia] kneels beside the old boat and laughs #"You are a long way from the forest!"
[NC] a storm over a lighthouse, high waves, dark clouds #Then the wind turned.
[Pip] runs along a cliff path in the rain #But Pip could smell a warm stove a mile away.
[Mia] and [Pip] sit by a glowing stove in a round room #And that is how the lighthouse got its keepers."""

TRAINED = (
    "0 takes the size that the model was trained at (SD1.5 512, SD2.x 768, Qwen-Image 1328, others 1024), or 512 "
    "without a model."
)

NEGATIVE = "bad anatomy, extra limbs, deformed hands, blurry, low quality, text, watermark"


class StoryReelScript(StoryReelNode):
    @classmethod
    def define_schema(cls):
        styles, _ = load_styles()
        return io.Schema(
            node_id="StoryReelScript",
            display_name="Story Script (StoryReel)",
            category=CATEGORY,
            description="Write a story: the characters, and one line for each image.",
            search_aliases=["storydiffusion", "comic script", "story prompts", "characters"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.String.Input(
                    "characters",
                    multiline=True,
                    dynamic_prompts=True,
                    default=CHARACTERS,
                    tooltip="One character on each line: [Name] what they look like. Text after the last # is a "
                    "remark. "
                    "Write \\# for a # itself. A text without any [Name] describes one character who is in every "
                    "frame. {a|b} and // comments work as in CLIP Text Encode.",
                ),
                io.String.Input(
                    "scenes",
                    multiline=True,
                    dynamic_prompts=True,
                    default=SCENES,
                    tooltip="One frame on each line: [Name] what happens #caption. Use [NC] for a frame without "
                    "characters. The caption begins after the last # of the line. Without a # the line itself is the "
                    "caption; end the line with a # for no caption. Write \\# for a # itself, as in #We're \\#1!. "
                    "{a|b} and // comments work as in CLIP Text Encode.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(styles),
                    default=DEFAULT_STYLE,
                    tooltip="Words that are added to every prompt. Add your own styles in "
                    "default/storyreel/styles.json in the ComfyUI user folder (see the help page).",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default=NEGATIVE,
                    tooltip="What no frame should show. The negative words of the style come before it.",
                ),
            ],
            outputs=[
                StoryType.Output(display_name="story", tooltip="The story: frames, characters, prompts and captions.")
            ],
        )

    @classmethod
    def validate_inputs(cls, style):
        # This replaces the host's own check, which does not know why a style of the user's is missing. The texts are
        # read when the node runs, before any sampler, so a mistake is reported once, whether typed or linked.
        if style is None:  # it is linked
            return True
        if not isinstance(style, str):
            return f"style is {shown(style)}; a style's name is expected."
        styles, fault = load_styles()
        return style in styles or f"{unknown_style(style, styles)} {fault}".strip()

    @classmethod
    def fingerprint_inputs(cls, **_):
        # The user's styles file may have changed since the last run.
        return repr(load_styles())

    @classmethod
    def inputs_that_count(cls, characters, scenes, style, negative) -> dict:
        """What images, shots and patches read of a story, for the names of their work: no caption and no remark."""
        try:
            story, _ = read_script(characters, scenes, style, negative, load_styles()[0])
        except ValueError:  # the node will refuse it
            return dict(characters=characters, scenes=scenes, style=style, negative=negative)
        return {
            "frames": [[frame.prompt, sorted(frame.characters)] for frame in story.frames],
            "negative": story.negative,
        }

    @classmethod
    def execute(cls, characters, scenes, style, negative) -> io.NodeOutput:
        styles, fault = load_styles()
        story, remarks = read_script(characters, scenes, style, negative, styles)
        for remark in filter(None, (fault, *remarks)):
            messages.warn(remark)
        return io.NodeOutput(story)


class StoryReelEncodeStory(StoryReelNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryReelEncodeStory",
            display_name="Encode Story (StoryReel)",
            category=CATEGORY,
            description="Encodes the prompt of every frame into one batch.",
            search_aliases=["story conditioning", "batch prompts", "prompt per frame"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder of the checkpoint. Weights such as (word:1.2) and embedding:name work as "
                    "in CLIP Text Encode.",
                ),
                StoryType.Input("story", tooltip="A story from the Story Script node."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="One prompt for each frame, in one batch."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The story's negative prompt, repeated for every frame."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, story: Story) -> io.NodeOutput:
        return io.NodeOutput(*encode_story(clip, story.prompts, story.negative))


class StoryReelStoryLatent(StoryReelNode):
    @classmethod
    def define_schema(cls):
        size: dict[str, Any] = {"default": 0, "min": 0, "max": MAX_SIZE, "step": SCALE}
        return io.Schema(
            node_id="StoryReelStoryLatent",
            display_name="Empty Story Latent (StoryReel)",
            category=CATEGORY,
            description="Makes an empty latent with one sample for each frame.",
            search_aliases=["empty latent", "story noise", "same noise"],
            inputs=[
                StoryType.Input("story", tooltip="A story from the Story Script node."),
                io.Int.Input("width", **size, tooltip=f"Width of every image in pixels, a multiple of 8. {TRAINED}"),
                io.Int.Input("height", **size, tooltip=f"Height of every image in pixels, a multiple of 8. {TRAINED}"),
                io.Combo.Input(
                    "noise",
                    options=list(NOISE_POLICIES),
                    default=DIFFERENT,
                    tooltip="Which frames start from the same noise. The same noise gives similar poses and layouts. "
                    "'same per character' counts the first character of a frame. The published StoryDiffusion app "
                    "gives one noise to all frames after the first ones.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="The model that will sample. Only a width or height of 0 needs it."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="One empty sample for each frame, for a sampler.")
            ],
        )

    @classmethod
    def execute(cls, story: Story, width, height, noise, model=None) -> io.NodeOutput:
        side = trained_size(model)
        return io.NodeOutput(empty_story_latent(noise_indices(story, noise), width or side, height or side))


NODES = [StoryReelScript, StoryReelEncodeStory, StoryReelStoryLatent]
