"""A story becomes pictures, and the pictures a video, shot by shot."""

from dataclasses import replace

from .parts import FIXED_SEED, PAGES, PICTURES, SD15, VIDEOS, Graph, Group, Node, load_checkpoint
from .pictures import LOADER_BOX, TOY_SAMPLING, share, tell
from .shots import DYNAMICRAFTER_INTERP, FPS, SD21, load_video_model, load_vision

TOP = 1340  # of the lower row, where the video model is


def draw(story: dict, captions: str, size: tuple[int, int], sampling: dict, **sharing) -> dict[str, Node]:
    """Nodes 2 to 8, and 12: a story, its captions if there are any, and its pictures, by MODEL, CLIP and VAE of
    node 1."""
    told = tell(story, size[0], captions)
    latent = told["4"]
    told["4"] = Node(latent.type, latent.title, latent.box, {**latent.inputs, "height": size[1]})
    drawing = {"positive": ("3", 0), "negative": ("3", 1), "latent_image": ("4", 0), **sampling}
    return told | {
        "5": share("1", **sharing),
        "6": Node("KSampler", "Draw All Pictures", (925, 625, 330, 312), {"model": ("5", 0), **drawing}),
        "7": Node("VAEDecode", "VAE Decode", (1315, 0, 330, 60), {"samples": ("6", 0), "vae": ("1", 2)}),
        "8": Node(
            "SaveImage", "Save Pictures", (1315, 170, 330, 360), {"images": ("7", 0), "filename_prefix": PICTURES}
        ),
    }


def animate(prompts: str, vision: tuple, noise: dict, steps: dict, **told) -> dict[str, Node]:
    """Nodes 24 to 27: shots of the pictures by the video model of node 20. prompts: the id of the encoded story."""
    animating = {"model": ("20", 0), "clip_vision": vision, "vae": ("1", 2), "sampler": ("24", 0)}
    animating |= {"sigmas": ("25", 0), "positive": (prompts, 0), "negative": (prompts, 1), "keyframes": ("7", 0)}
    animating |= {**FIXED_SEED, "fps": FPS, **told}
    spacing = {"model": ("20", 0), **steps}
    saving = {"video": ("26", 0), "filename_prefix": VIDEOS}
    return {
        "24": Node("StoryReelDDIMSampler", "DDIM Sampler", (925, TOP, 330, 90), noise),
        "25": Node("StoryReelDDIMSigmas", "DDIM Sigmas", (925, TOP + 250, 330, 110), spacing),
        "26": Node("StoryReelAnimateStory", "Animate Story", (1720, 0, 330, 500), animating),
        "27": Node("SaveVideo", "Save Video", (2110, 0, 520, 480), saving),
    }


def framed(
    story: tuple[str, ...], pictures: tuple[str, ...], model: tuple[str, ...], video: tuple[str, ...]
) -> tuple[Group, ...]:
    return (
        Group("Story", "#3F789E", story),
        Group("Pictures", "#A86432", pictures),
        Group("Video Model", "#8A5A9E", model),
        Group("Video", "#4E8A5A", video),
    )


STORM = {
    "style": "Digital/Oil Painting",
    "characters": "[Runa] a girl with a red raincoat and short black hair",
    "scenes": """\
[Runa] sits at a window, rain outside
[Runa] opens a blue door, rain outside
[Runa] stands in a wide puddle, clouds reflected in it
[Runa] looks up, the sun breaks through the clouds""",
}
STORM_CAPTIONS = """\
It had rained for a week.
On the eighth day Runa went out
to see where all that water goes.
And then it stopped."""


def story_to_shots() -> Graph:
    sampling = {"steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", **FIXED_SEED}
    video, vision = load_video_model(DYNAMICRAFTER_INTERP), load_vision(0)
    encoding = {"clip": ("21", 1), "story": ("2", 0)}
    nodes = {
        "1": load_checkpoint(SD15, (570, 0, 310, 105)),
        **draw(STORM, "", (768, 480), sampling),
        "20": Node(video.type, video.title, (570, TOP, 310, 240), video.inputs, video.models),
        "21": load_checkpoint(SD21, (0, TOP, 510, 105), "Load Text Encoder"),
        "22": Node(vision.type, vision.title, (0, TOP + 215, 510, 60), vision.inputs, vision.models),
        "23": Node("StoryReelEncodeStory", "Encode Story for Video", (1315, TOP, 310, 80), encoding),
        **animate("23", ("22", 0), {}, {}),
    }
    note = """\
1. Write your story in **Story Script**: who is in it, then one line a picture. **Run** draws it and animates from each
picture to the next, 16 frames each.
2. Every shot is on disk (output/story/shots) before the next begins. Stopped or crashed? Press **Run** again with the
same seed: it goes on where it was.
3. With ToonCrafter's checkpoint and its VAE the shots keep lines and colours of drawings."""
    groups = framed(("2",), ("1", "3", "4", "5", "6", "7", "8"), ("20", "21", "22", "23", "24", "25"), ("26", "27"))
    return Graph("story_to_shots", note, (0, -45, 510, 170), nodes, groups)


TOY_VIDEO = "storyworld_video.safetensors"
TOY_FILM = TOY_SAMPLING | {"seed": 6}  # of the first ten, the one whose pictures are the best to animate
WAVES = {
    "style": "(No style)",
    "negative": "",
    "characters": "[Pim] a blue hero with a yellow pointed hat",
    "scenes": """\
[Pim] waving in a meadow
[Pim] hopping in a town
[Pim] nodding in a forest
[Pim] standing on a beach""",
}
WAVES_CAPTIONS = """\
Pim had never seen the sea.
Through the town,
through the forest,
and there it was. All of it!"""


def come_to_life() -> dict[str, Node]:
    """Nodes 24 to 27: the toy's video model moves each of the toy's pictures."""
    told = {"mode": "animate", "width": 128, "height": 128, "cfg_text": 2.0, "cfg_image": 2.0}
    return animate("3", ("1", 3), {}, {"steps": 16}, **told)


def storyworld_story_to_shots() -> Graph:
    video, moving = load_video_model(TOY_VIDEO), come_to_life()
    film, page = moving["27"], {"images": ("7", 0), "story": ("12", 0), "page_width": 768}
    nodes = {
        "1": Node("StoryReelLoadStoryworld", "Load Storyworld", LOADER_BOX),
        **draw(WAVES, WAVES_CAPTIONS, (128, 128), TOY_FILM, seed=TOY_FILM["seed"]),
        "9": Node("StoryReelComicPage", "Comic Page", (1315, 640, 330, 225), page),
        "10": Node("SaveImage", "Save Page", (2110, 600, 520, 462), {"images": ("9", 0), "filename_prefix": PAGES}),
        "20": Node(video.type, video.title, (570, TOP, 310, 240), video.inputs),
        **moving,
        "27": replace(film, inputs={**film.inputs, "video": ("28", 0)}),
        "28": Node("StoryReelSubtitles", "Subtitles", (1720, 960, 330, 100), {"video": ("26", 0), "story": ("12", 0)}),
    }
    note = """\
1. Press **Run**: toy models that ship with the pack draw a story and bring every picture to life, 16 frames each.
Nothing else is needed.
2. Change the story in **Story Script**. The toys know 60 words, and of motion what a hero does in its place: *waving,
nodding, hopping, sitting, turning, blinking, standing*. **Captions** are for the page and the subtitles: editing them
draws nothing again.
3. Every shot is on disk (output/story/shots) before the next begins. Stopped? Press **Run** again.
4. For real pictures open *story_to_shots*: the same graph with published models."""
    groups = framed(("2", "12"), ("1", "3", "4", "5", "6", "7", "8", "9"), ("20", "24", "25"), ("26", "27", "28", "10"))
    return Graph("storyworld_story_to_shots", note, (0, -165, 510, 270), nodes, groups)


GRAPHS = (story_to_shots(), storyworld_story_to_shots())
