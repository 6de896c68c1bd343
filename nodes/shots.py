"""From pictures to transitions, and from transitions to one clip."""

from comfy_api.latest import Types, io

from ..core.video import clips
from ..host.common import messages
from ..host.common.conditioning import pick_row
from ..host.common.kept_files import kept_files
from ..host.story import shots
from ..host.story.shots import join as join_shots
from ..host.video import even_sizes
from ..host.video.file import rate_of
from .node import InnerNode, PreflightNode, StoryReelNode
from .story import CATEGORY

OUTER = (shots.BY_DYNAMICRAFTER, shots.BY_MOTION)


class StoryReelKeyframePairs(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeyframePairs",
            display_name="Keyframe Pairs (StoryReel)",
            category=CATEGORY,
            description="Pictures of a story, two by two: every node that follows runs once for each transition.",
            search_aliases=["transitions", "keyframes", "interpolate"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures in the story's order, at least two."),
                io.Conditioning.Input(
                    "prompts",
                    optional=True,
                    tooltip="One prompt a transition, as Encode Story gives them; the last one holds on.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="start", is_output_list=True, tooltip="Where each transition starts."),
                io.Image.Output(display_name="end", is_output_list=True, tooltip="Where it ends."),
                io.Conditioning.Output(
                    display_name="prompt", is_output_list=True, tooltip="Its prompt, if there are any."
                ),
            ],
        )

    @classmethod
    def execute(cls, images, prompts=None) -> io.NodeOutput:
        starts, ends = zip(*clips.pairs(images), strict=True)
        told = [pick_row(prompts, number) for number in range(len(starts))] if prompts else []
        return io.NodeOutput(list(starts), list(ends), told)


class StoryReelJoinClips(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelJoinClips",
            display_name="Join Clips (StoryReel)",
            category=CATEGORY,
            description="Transitions one after the other as one clip.",
            search_aliases=["concatenate video", "loop"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Clips of one size, in their order."),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames a second of the video."
                ),
                io.Boolean.Input(
                    "shared_ends",
                    default=True,
                    tooltip="A clip begins with the picture that the one before ends with: keep it once.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="The last frame repeats the first, as a loop's does: leave it out.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="For Save Video."),
                io.Image.Output(tooltip="The frames."),
            ],
        )

    @classmethod
    def execute(cls, images, fps, shared_ends, loop) -> io.NodeOutput:
        joined = clips.join(images, shared_ends[0], loop[0])
        rate = rate_of(fps[0])
        video = even_sizes.FrameVideo(Types.VideoComponents(images=joined, audio=None, frame_rate=rate))
        if padding := even_sizes.describe_padding(video):
            messages.warn(padding)
        return io.NodeOutput(video, joined)


def seed_and_rate() -> list[io.Input]:
    """The last inputs of what makes a story's shots."""
    seed = io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="Of the first shot; each further one has the next. A story goes on where it was stopped only under the "
        "same seed.",
    )
    rate = io.Float.Input("fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames a second of the video.")
    return [seed, rate]


class StoryReelAnimateStory(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAnimateStory",
            display_name="Animate Story (StoryReel)",
            category=CATEGORY,
            description="A whole story of pictures as one video, shot by shot. Each shot is on disk before the next "
            "begins: after an interrupt or a crash, press Run again and it goes on from there.",
            search_aliases=["story to video", "keyframes", "resume", "interpolate", "image to video"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input(
                    "vae",
                    tooltip="The autoencoder. That of ToonCrafter decodes transitions with details of their ends.",
                ),
                io.Sampler.Input("sampler", tooltip="DDIM Sampler, or any of the host's."),
                io.Sigmas.Input("sigmas", tooltip="From DDIM Sigmas, or any scheduler."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One prompt a shot, as Encode Story gives them with the text encoder of SD2.x; the last "
                    "one holds on.",
                ),
                io.Conditioning.Input("negative", tooltip="The same, or a single one for all."),
                io.Image.Input("keyframes", lazy=True, tooltip="The pictures of the story, in their order."),
                io.Combo.Input(
                    "mode",
                    options=list(shots.MODES),
                    default="interpolate",
                    tooltip="interpolate: from each picture to the next, with 512_interp or ToonCrafter. animate: each "
                    "picture comes to life by itself, with 256, 512 or 1024, and the shots are cut together.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the video; a multiple of 64."),
                io.Int.Input(
                    "height", default=320, min=64, max=4096, step=8, tooltip="Of the video; a multiple of 64."
                ),
                io.Int.Input("frames", default=16, min=3, max=4096, tooltip="Of each shot; 16 as trained."),
                io.Int.Input(
                    "fs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="As in DynamiCrafter Conditioning; 0: what the checkpoint is used with.",
                ),
                io.Float.Input(
                    "cfg_text", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompts lead."
                ),
                io.Float.Input(
                    "cfg_image", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the pictures lead."
                ),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance rescale, .7 as published, 0 for the 256 checkpoint.",
                ),
                *seed_and_rate(),
            ],
            outputs=[io.Video.Output(tooltip="The whole story, for Save Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        shots.check_dynamicrafter(inputs)

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        graph, video = shots.expand_dynamicrafter(cls.hidden.dynprompt, cls.hidden.unique_id, inputs)
        return io.NodeOutput(video, expand=graph)


UNLINKED = object()  # in the place of an input that nothing is linked to; None is one that was not looked at yet


class StoryReelEitherVideo(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelEitherVideo",
            display_name="Switch Video (StoryReel)",
            category=CATEGORY,
            description="Where two ways of making a video meet. The second one counts where it is there, so that "
            "muting or unmuting its nodes is the choice; the other one is then not made.",
            search_aliases=["switch", "choose", "any", "fallback"],
            inputs=[
                io.Video.Input(
                    "video", optional=True, lazy=True, tooltip="What is taken as long as there is no other."
                ),
                io.Video.Input(
                    "override",
                    optional=True,
                    lazy=True,
                    tooltip="What takes its place. Mute the node that it comes from, and it does not.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="The one that is taken.")],
        )

    @classmethod
    def check_lazy_status(cls, video=UNLINKED, override=UNLINKED):
        if override is not UNLINKED:
            return ["override"]
        return [] if video is UNLINKED else ["video"]

    @classmethod
    def execute(cls, video=None, override=None) -> io.NodeOutput:
        if video is None and override is None:
            raise ValueError("Switch Video: nothing is linked to video and override; one of them is expected.")
        return io.NodeOutput(video if override is None else override)


def _expansion() -> io.String.Input:
    return io.String.Input("expansion", tooltip="Which expansion of Animate Story the node is part of.")


class StoryReelTakeKeyframes(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTakeKeyframes",
            display_name="Take Keyframes (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: the ends of one shot, once the shot before it is on disk.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Image.Input("images", tooltip="The pictures of the story."),
                io.Int.Input("index", default=0, min=0, tooltip="Which shot, counted from 0."),
                io.String.Input("after", default="", tooltip="The shot before."),
                _expansion(),
            ],
            outputs=[
                io.Image.Output(display_name="start", tooltip="Its picture."),
                io.Image.Output(display_name="end", tooltip="The next one's."),
            ],
        )

    @classmethod
    def execute(cls, images, index, after, expansion) -> io.NodeOutput:
        return io.NodeOutput(*shots.take(images, index))


class StoryReelKeepShot(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeepShot",
            display_name="Keep Shot (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: decodes a shot and writes it to the output folder.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled shot."),
                io.Vae.Input("vae", tooltip="The autoencoder."),
                io.Image.Input("start_image", tooltip="The picture that it starts from."),
                io.Image.Input("end_image", optional=True, tooltip="The picture that it ends at."),
                io.String.Input("run", tooltip="The key of the run."),
                io.String.Input("shot", tooltip="The name of the shot."),
                io.Float.Input("fps", min=0.1, max=240.0, tooltip="Frames a second."),
                _expansion(),
            ],
            outputs=[io.String.Output(tooltip="Says that the shot is on disk.")],
        )

    @classmethod
    def execute(cls, samples, vae, start_image, run, shot, fps, expansion, end_image=None) -> io.NodeOutput:
        shots.keep(samples["samples"], vae, start_image, end_image, run, shot, fps)
        return io.NodeOutput(f"{run} {shot}")


class StoryReelJoinShots(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelJoinShots",
            display_name="Join Shots (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: the shots on disk as one video.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.String.Input("run", tooltip="The key of the run."),
                io.String.Input("shots", tooltip="The names of the shots, in their order."),
                io.String.Input("after", default="", tooltip="The last shot."),
                io.Boolean.Input("shared_ends", tooltip="A shot begins with the frame that the one before ends with."),
                io.Float.Input("fps", min=0.1, max=240.0, tooltip="Frames a second."),
                _expansion(),
            ],
            outputs=[io.Video.Output(tooltip="The whole story.")],
        )

    @classmethod
    def execute(cls, run, shots, after, shared_ends, fps, expansion) -> io.NodeOutput:
        video = join_shots(run, shots.split(), shared_ends, fps)
        kept_files.add(video.get_stream_source())
        return io.NodeOutput(video)


INSIDE = [StoryReelTakeKeyframes, StoryReelKeepShot, StoryReelJoinShots]
NODES = [StoryReelKeyframePairs, StoryReelJoinClips, StoryReelAnimateStory, StoryReelEitherVideo, *INSIDE]
