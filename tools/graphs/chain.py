"""A story becomes a long film: consistent pictures, shots of them, more of the last scene, and a finer whole.

What makes each of them is a matter of the loaders: published models, or the toy's. Shots are made by DynamiCrafter or
along predicted motion: both are drawn, and the one that is not muted makes them.
"""

from dataclasses import dataclass

from .films import (
    STORM,
    STORM_CAPTIONS,
    TOP,
    TOY_FILM,
    TOY_VIDEO,
    WAVES,
    WAVES_CAPTIONS,
    animate,
    come_to_life,
    draw,
)
from .following import ALONG_TOKENS, BY_MOTION, CHOICE, TOY_MOTION, follow
from .long import STREAMING_T2V, VID2VID, load_streaming, save_video, write
from .parts import FIXED_SEED, PAGES, SD15, Graph, Group, Node, load_checkpoint
from .pictures import LOADER_BOX
from .shots import DYNAMICRAFTER_INTERP, SD21, load_video_model, load_vision

EITHER, FIT = 2120, 2510  # columns: where both kinds of shots meet; where these get the size of another model
TOY_STREAMING = "storyworld_streaming.safetensors"


@dataclass(frozen=True)
class Longer:
    """What makes a film longer. loader: of its MODEL. sampler, sigmas: what its DDIM nodes are told. told: what Extend
    Video is. refines: whether it denoises a film by text alone."""

    loader: Node
    sampler: dict
    sigmas: dict
    told: dict
    refines: bool


def shoot(nodes: dict[str, Node]) -> dict[str, Node]:
    """Nodes 24 to 26 of `animate`, and 28: its shots, or those of `follow`."""
    either = {"video": ("26", 0), "instead": ("61", 0)}
    which = Node("StoryReelEitherVideo", "Shots of Either Kind", (EITHER, 0, 330, 90), either)
    return {id: nodes[id] for id in ("24", "25", "26")} | {"28": which}


def lengthen(
    longer: Longer, film: tuple, clip: tuple, vae: tuple, vision: tuple, story: dict, left: int
) -> dict[str, Node]:
    """Nodes 30 to 35: more of the last scene of `film`, one line of `story` a chunk. left: where Extend Video is."""
    told = {"model": ("30", 0), "vae": vae, "clip_vision": vision, "sampler": ("33", 0), "sigmas": ("34", 0)}
    told |= {"frames": film, "positive": ("32", 0), "negative": ("32", 1), **FIXED_SEED, **longer.told}
    x, model = 2290, {"model": ("30", 0)}
    loader = longer.loader
    return {
        "30": Node(loader.type, loader.title, (x, TOP, 360, 240), loader.inputs, loader.models),
        "31": Node("StoryReelScript", "What Happens Next, a Line a Chunk", (1720, TOP, 510, 600), story),
        "32": Node(
            "StoryReelEncodeStory",
            "Encode What Happens Next",
            (x, TOP + 400, 360, 80),
            {"clip": clip, "story": ("31", 0)},
        ),
        "33": Node("StoryReelDDIMSampler", "DDIM Sampler of Chunks", (x, TOP + 630, 360, 90), longer.sampler),
        "34": Node(
            "StoryReelDDIMSigmas", "DDIM Sigmas of Chunks", (x, TOP + 890, 360, 110), {**model, **longer.sigmas}
        ),
        "35": Node("StoryReelExtendVideo", "Extend Video", (left, 0, 360, 620), told),
    }


def resize(film: tuple, size: int) -> dict[str, Node]:
    """Nodes 36 to 38: a film in the size of another model, with its frame rate."""
    x = FIT
    scaled = {"image": ("36", 0), "upscale_method": "bicubic", "width": size, "height": size, "crop": "center"}
    return {
        "36": Node("GetVideoComponents", "Frames of the Shots", (x, 0, 340, 110), {"video": film}),
        "37": Node("ImageScale", f"To {size} x {size}", (x, 230, 340, 140), scaled),
        "38": Node("CreateVideo", "Shots in That Size", (x, 490, 340, 110), {"images": ("37", 0), "fps": ("36", 2)}),
    }


def save_told(film: str, told: tuple[int, int], saved: tuple[int, int]) -> dict[str, Node]:
    """Nodes 39 and 50: the film of node `film` with the captions of node 12 over its shots, those of node 28,
    saved. told, saved: where they stand."""
    save, titles = save_video("39", 0), {"video": (film, 0), "story": ("12", 0), "shots": ("28", 0)}
    return {
        "39": Node("StoryReelSubtitles", "Subtitles", (*told, 340, 100), titles),
        "50": Node(save.type, "Save Film", (*saved, 520, 480), save.inputs),
    }


def refine(
    film: str,
    pixels: tuple,
    vae: tuple,
    clip: tuple,
    prompts: tuple[str, str],
    model: tuple,
    sigmas: tuple,
    sampler: str,
    left: int,
    **blending,
) -> dict[str, Node]:
    """Nodes 39 to 50: noise over the frames of the film of node `film`, and away again, in chunks that blend.

    pixels: the frames, from node 40 or larger. model, sigmas, sampler: what denoises, from where on, and how. left:
    where the first of these nodes stand.
    """
    sampling = {"model": ("45", 0), "positive": ("41", 0), "negative": ("42", 0), "sampler": ("46", 0)}
    sampling |= {"sigmas": sigmas, "latent_image": ("43", 0), "cfg": 1.0, "noise_seed": FIXED_SEED["seed"]}
    sampling |= {"add_noise": True, "control_after_generate": "fixed"}
    blended = {"model": model, **FIXED_SEED, **blending}
    video = {"images": ("48", 0), "audio": ("40", 1), "fps": ("40", 2)}
    prompt, noise, x = (left + column for column in (420, 880, 1280))
    return {
        "40": Node("GetVideoComponents", "Frames of the Film", (left, 0, 360, 110), {"video": (film, 0)}),
        "41": write("Prompt", prompts[0], 400, 150, clip, prompt),
        "42": write("Negative Prompt", prompts[1], 660, 90, clip, prompt),
        "43": Node("VAEEncode", "Encode Film", (left, 490, 360, 60), {"pixels": pixels, "vae": vae}),
        "45": Node("StoryReelRandomizedBlending", "Randomized Blending", (noise, 310, 340, 230), blended),
        "46": Node("KSamplerSelect", "Sampler", (noise, 700, 340, 60), {"sampler_name": sampler}),
        "47": Node("SamplerCustom", "Refine", (x, 0, 340, 250), sampling),
        "48": Node("VAEDecode", "Decode Film", (x, 610, 340, 60), {"samples": ("47", 0), "vae": vae}),
        "49": Node("CreateVideo", "Create Film", (x, 740, 340, 110), video),
        **save_told("49", (x, 920), (x + 410, 0)),
    }


def refine_by_vid2vid(film: str, clip: tuple, vae: tuple, left: int) -> dict[str, Node]:
    """As published, larger too."""
    loader = load_streaming(VID2VID)
    larger = {"image": ("40", 0), "upscale_method": "bicubic", "width": 720, "height": 720, "crop": "center"}
    prompts = "high quality, detailed", "blurry, low resolution, noise, watermark, text"
    return {
        **refine(film, ("51", 0), vae, clip, prompts, ("44", 0), ("44", 1), "dpmpp_2m_sde", left),
        "44": Node("StoryReelRefineSigmas", "Refine Sigmas", (left + 880, 0, 340, 140), {"model": ("52", 0)}),
        "51": Node("ImageScale", "Upscale", (left, 230, 360, 140), larger),
        "52": Node(loader.type, "Load MS-Vid2Vid", (left + 420, 0, 400, 240), loader.inputs, loader.models),
    }


def refine_by_base(film: str, clip: tuple, vae: tuple, model: tuple, left: int) -> dict[str, Node]:
    """By the model that made the film longer: a little noise (SDEdit), for it has learned to begin with much.

    In so few steps a sampler that adds noise of its own would leave some. The prompt names neither looks nor scene:
    those are in the film, and another story has others; so it is to guide little.
    """
    noise = {"model": model, "scheduler": "normal", "steps": 4, "denoise": 0.1}
    blending = dict(chunk_length=16, overlap=8, cfg=1.5, cfg_rescale=0.0)
    return {
        **refine(film, ("40", 0), vae, clip, ("a hero", ""), model, ("44", 0), "dpmpp_2m", left, **blending),
        "44": Node("BasicScheduler", "A Little Noise", (left + 880, 0, 340, 140), noise),
    }


def framed(
    pictures: str, video: str, shots: str, longer: str, film: str, refined: str, motion: str
) -> tuple[Group, ...]:
    """Coloured frames, each around nodes whose ids are given with blanks between; without ids there is none."""
    told = (
        ("Story", "#3F789E", "2 12"),
        ("Pictures", "#A86432", pictures),
        ("Video Model", "#8A5A9E", video),
        ("Shots", "#4E8A5A", shots),
        (BY_MOTION, "#A86432", motion),
        ("What Happens Next", "#3F789E", "31"),
        ("Model That Goes On", "#8A5A9E", longer),
        ("Long Film", "#4E8A5A", film),
        ("Finer Film", "#7A7A3A", refined),
    )
    return tuple(Group(title, colour, tuple(ids.split())) for title, colour, ids in told if ids)


PICTURES = "1 3 4 5 6 7 8"
AFTER_THE_STORM = STORM | {
    "scenes": """\
[Runa] looks up at the sun and smiles
[Runa] closes her eyes, the wind in her hair
[Runa] laughs, sunlight on wet leaves""",
}


def story_to_long_video() -> Graph:
    sampling = {"steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", **FIXED_SEED}
    video, vision = load_video_model(DYNAMICRAFTER_INTERP), load_vision(0)
    longer = Longer(load_streaming(STREAMING_T2V), {}, {"spacing": "leading"}, {"anchor": -1}, refines=False)
    nodes = {
        "1": load_checkpoint(SD15, LOADER_BOX),
        **draw(STORM, STORM_CAPTIONS, (768, 480), sampling),
        "20": Node(video.type, video.title, (570, TOP, 310, 240), video.inputs, video.models),
        "21": load_checkpoint(SD21, (0, TOP, 510, 105), "Load Text Encoder"),
        "22": Node(vision.type, vision.title, (0, TOP + 215, 510, 60), vision.inputs, vision.models),
        "23": Node(
            "StoryReelEncodeStory",
            "Encode Story for Video",
            (1315, TOP, 310, 80),
            {"clip": ("21", 1), "story": ("2", 0)},
        ),
        **shoot(animate("23", ("22", 0), {}, {})),
        **follow(ALONG_TOKENS, ("22", 0)),
        **resize(("28", 0), 256),
        **lengthen(longer, ("38", 0), ("30", 1), ("30", 2), ("30", 3), AFTER_THE_STORM, FIT + 410),
        **refine_by_vid2vid("35", ("21", 1), ("30", 2), FIT + 840),
    }
    note = (
        """\
1. Write your story in **Story Script**, its subtitles in **Captions** (editing these samples nothing again), and under
**What Happens Next** how its last scene goes on, a line a chunk.
**Run** draws it, animates from each picture to the next, adds 4 chunks of 8 frames, and refines all of it, enlarged.
2. Every shot and every chunk is on disk (output/story) before the next begins. Stopped or crashed? Press **Run** again.
3. The loaders say which model does what: another checkpoint for the pictures, ToonCrafter for the shots. With a 512 or
1024 file in a **Load DynamiCrafter** that leads to **Extend Video** and its sigmas, a film goes on by its last frame.
4. """
        + CHOICE
        + """ Nobody published its predictor: *none* interpolates, untrained.
5. **Subtitles** are a track that players switch on; bypass it (Ctrl+B), and there is none."""
    )
    groups = framed(PICTURES, "20 21 22 23 24 25", "26 28", "30 32 33 34", "35", "39 40 43 46 49 50", "60 61")
    return Graph("story_to_long_video", note, (0, -165, 510, 305), nodes, groups)


AT_THE_SEA = WAVES | {
    "scenes": """\
[Pim] waving on a beach
[Pim] nodding on a beach
[Pim] sitting on a beach""",
}
# The toy's StreamingT2V remembers, and its denoiser reads text alone. Its DynamiCrafter goes on from the last frame.
REMEMBERS = Longer(
    Node("StoryReelStreamingLoader", "Load StreamingT2V", LOADER_BOX, {"checkpoint": TOY_STREAMING}),
    {},
    {"spacing": "leading", "steps": 14},
    {"guidance": 3.0, "chunks": 3, "anchor": -16},
    refines=True,
)
GOES_ON = Longer(
    Node("StoryReelDynamiCrafterLoader", "Load DynamiCrafter", LOADER_BOX, {"checkpoint": TOY_VIDEO}),
    {"eta": 0.0},
    {"steps": 16},
    {"guidance": 3.0, "chunks": 3, "anchor": -16},
    refines=False,
)
REFINED = """\
3. **Refine** is a small step back and forth (SDEdit): a little noise over the whole film, *denoise* .1, and the video
model takes it away again, in chunks that blend. The published refiner, MS-Vid2Vid, has no counterpart here."""
NOT_REFINED = """\
3. Each chunk goes from the last frame back to the anchor. The film is not refined: this model cannot do it by text
alone."""


def storyworld_story_to_long_video(longer: Longer = REMEMBERS) -> Graph:
    """The same chain on the toy's models."""
    video, moving, left = load_video_model(TOY_VIDEO), come_to_life(), 2720
    page = {"images": ("7", 0), "story": ("12", 0), "page_width": 768}
    nodes = {
        "1": Node("StoryReelLoadStoryworld", "Load Storyworld", LOADER_BOX),
        **draw(WAVES, WAVES_CAPTIONS, (128, 128), TOY_FILM, seed=TOY_FILM["seed"]),
        "20": Node(video.type, video.title, (570, TOP, 310, 240), video.inputs),
        **shoot(moving),
        **follow(TOY_MOTION, ("1", 3)),
        "9": Node("StoryReelComicPage", "Comic Page", (1315, 640, 330, 225), page),
        "10": Node("SaveImage", "Save Page", (EITHER, 250, 340, 500), {"images": ("9", 0), "filename_prefix": PAGES}),
        **lengthen(longer, ("28", 0), ("1", 1), ("1", 2), ("1", 3), AT_THE_SEA, left),
    }
    if longer.refines:
        nodes |= refine_by_base("35", ("1", 1), ("1", 2), ("30", 0), left + 430)
    else:
        nodes |= save_told("35", (left + 430, 0), (left + 840, 0))
    note = """\
1. Press **Run**: the toys draw the story, bring every picture to life, and go on with the last one, which **What
Happens Next** tells a line a chunk. **Captions** are for page and subtitles: editing them samples nothing again.
2. Every shot and every chunk is on disk (output/story) before the next begins. Stopped? Press **Run** again.
"""
    note += REFINED if longer.refines else NOT_REFINED
    note += f"\n4. {CHOICE}"
    film = "39 40 43 46 49 50" if longer.refines else "39 50"
    groups = framed(f"{PICTURES} 9", "20 24 25", "26 28 10", "30 32 33 34", "35", film, "60 61 62")
    return Graph("storyworld_story_to_long_video", note, (0, -165, 510, 305), nodes, groups)


GRAPHS = (story_to_long_video(), storyworld_story_to_long_video())
