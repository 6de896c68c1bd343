"""Encoding a story whose characters have photos, by the host's PhotoMaker."""

from comfy_api.latest import io
from torch import Tensor

from ..core.inputs import read_images, shown
from ..core.story.script import bare_name
from ..core.story.story import Story
from ..core.story.trigger_words import check_description
from ..core.text import short
from ..host.story.photos import encode_photos
from .node import StoryReelNode
from .story import CATEGORY
from .types import StoryType

MOST_CHARACTERS = 8
PHOTOS = "photos_"


class StoryReelEncodePhotos(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        photos = io.Autogrow.TemplateNames(
            io.Image.Input("photos", tooltip="One photo of a character, or a batch of several."),
            names=[f"{PHOTOS}{number}" for number in range(1, MOST_CHARACTERS + 1)],
            min=1,
        )
        return io.Schema(
            node_id="StoryReelEncodePhotos",
            display_name="Encode Story with PhotoMaker (StoryReel)",
            category=CATEGORY,
            description="Encodes the prompt of every frame into one batch, with photos of the characters. Frames "
            "without these characters are encoded as by Encode Story. For SDXL.",
            search_aliases=[
                "StoryDiffusion",
                "PhotoMaker Encode",
                "face photo",
                "identity",
                "ID embedding",
                "character from photo",
                "reference photo",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of an SDXL checkpoint."),
                io.Photomaker.Input("photomaker", tooltip="PhotoMaker version 1, from Load PhotoMaker Model."),
                StoryType.Input("story", tooltip="A story from the Story Script node."),
                io.Autogrow.Input(
                    "photos",
                    template=photos,
                    tooltip="Photos of a character whose face can be seen, one input a character. PhotoMaker looks "
                    "at a square in the middle of each.",
                ),
                io.String.Input(
                    "characters",
                    default="",
                    tooltip="The names of those in photos_1, photos_2, ..., separated by commas, as in the story's "
                    "brackets. Empty: in the order of Story Script.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="img",
                    tooltip="The word of a description that puts the photos onto the word before it: img in [Bob] a "
                    "man img in a black suit.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Use the photos from this point of the sampling on (0 is the start). Later, the style and "
                    "the scene count more and the likeness less. The published apps use 0.2.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="One prompt for each frame, in one batch."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The story's negative prompt, repeated for every frame."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, clip, photomaker, story: Story, photos: io.Autogrow.Type, characters, trigger_word, start_percent
    ) -> io.NodeOutput:
        trigger = trigger_word.strip()
        if not trigger.isalpha():
            raise ValueError(f"trigger_word is {shown(trigger_word)}; one word of letters is expected, as img.")
        given = _photos_by_name(story, photos, characters)
        for character in story.characters:
            if character.name in given:
                check_description(character, trigger)
        return io.NodeOutput(*encode_photos(clip, photomaker, story, given, trigger, start_percent))


def _photos_by_name(story: Story, photos: io.Autogrow.Type, characters: str) -> dict[str, Tensor]:
    """The photos of each character. Raises ValueError for names that do not fit the story or the photos."""
    known = [character.name for character in story.characters]
    names = [bare_name(name) for name in characters.split(",") if name.strip()] or known
    for name in names:
        if name not in known:
            there = ", ".join(filter(None, known)) or "one character without a name; leave characters empty"
            raise ValueError(f"characters has {short(name)}, who is not in the story; there are {there}.")
    if len(set(names)) < len(names):
        raise ValueError("characters has a name twice; connect all photos of a character to one input as a batch.")
    given = {}
    for name, images in photos.items():
        if images is None:
            continue
        place = int(name.removeprefix(PHOTOS)) - 1
        if place >= len(names):
            raise ValueError(
                f"{name} is connected and there {'is' if len(names) == 1 else 'are'} {len(names)} "
                f"character{'s'[: len(names) != 1]}; one input a character is expected."
            )
        given[names[place]] = read_images(name, images)
    if not given:
        raise ValueError("photos is empty; connect a photo of a character to photos_1.")
    return given


NODES = [StoryReelEncodePhotos]
