"""A story becomes pictures: a comic, and the same story with and without Consistent Self-Attention."""

from .parts import FIXED_SEED, PAGES, PICTURES, SD15, SDXL, Graph, Group, Node, load_checkpoint

LOADER_BOX = (570, 0, 310, 105)
TOY_SAMPLING = {**FIXED_SEED, "seed": 2057, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}


def tell(story: dict, size: int, captions: str = "") -> dict[str, Node]:
    """Nodes 2 to 4: the story, its prompts by the loader's CLIP, its latents. And 12, its captions, if there are any:
    apart from the script, so that editing one samples nothing again."""
    nodes = {
        "2": Node("StoryReelScript", "Story Script", (0, 200, 510, 620 if captions else 740), story),
        "3": Node("StoryReelEncodeStory", "Encode Story", (570, 580, 310, 80), {"clip": ("1", 1), "story": ("2", 0)}),
        "4": Node(
            "StoryReelStoryLatent",
            "Empty Story Latent",
            (570, 790, 310, 145),
            {"story": ("2", 0), "width": size, "height": size},
        ),
    }
    if captions:
        told = {"story": ("2", 0), "captions": captions}
        nodes["12"] = Node("StoryReelCaptions", "Captions", (0, 970, 510, 220), told)
    return nodes


def share(model: str, **changes) -> Node:
    """Consistent Self-Attention on the MODEL of this node, with the story of node 2."""
    inputs = {"model": (model, 0), "story": ("2", 0), **changes}
    return Node("StoryReelConsistentAttention", "Consistent Self-Attention", (925, 0, 330, 485), inputs)


def story_comic(
    name: str,
    note: str,
    loader: Node,
    story: dict,
    captions: str,
    size: int,
    sampling: dict,
    freeu: dict | None = None,
    page: dict | None = None,
    sharing: dict | None = None,
    redraws: bool = False,
) -> Graph:
    """A story, drawn in one batch with Consistent Self-Attention, and its comic page.

    loader: whatever gives MODEL, CLIP and VAE, in this order. redraws: whether a frame is drawn again, once unmuted.
    """
    patched = "11" if freeu else "1"
    drawing = {"model": ("5", 0), "positive": ("3", 0), "negative": ("3", 1), "latent_image": ("4", 0), **sampling}
    nodes = {
        "1": loader,
        **tell(story, size, captions),
        "5": share(patched, **(sharing or {})),
        "6": Node("KSampler", "Draw All Pictures", (925, 625, 330, 312), drawing),
        "7": Node("VAEDecode", "VAE Decode", (1315, 0, 310, 60), {"samples": ("6", 0), "vae": ("1", 2)}),
        "8": Node("SaveImage", "Save Pictures", (1670, 0, 420, 360), {"images": ("7", 0), "filename_prefix": PICTURES}),
        "9": Node(
            "StoryReelComicPage",
            "Comic Page",
            (1315, 445, 310, 225),
            {"images": ("7", 0), "story": ("12", 0), **(page or {})},
        ),
        "10": Node("SaveImage", "Save Page", (1670, 445, 420, 462), {"images": ("9", 0), "filename_prefix": PAGES}),
    }
    if freeu:
        nodes["11"] = Node("FreeU", "FreeU", (570, 185, 310, 130), {"model": ("1", 0), **freeu})
    groups = [
        Group("Story", "#3F789E", ("2", "12")),
        Group("Model", "#8A5A9E", ("1", "5")),
        Group("Draw", "#A86432", ("3", "4", "6")),
        Group("Page", "#4E8A5A", ("7", "8", "9", "10")),
    ]
    if redraws:
        again = redraw(sampling)
        nodes |= again
        groups.append(Group("Draw One Frame Again", "#7A7A3A", tuple(again)))
    return Graph(name, note, (0, -75, 510, 180), nodes, tuple(groups))


def redraw(sampling: dict) -> dict[str, Node]:
    """Nodes 20 to 23, muted: one frame of the story by another seed, with its own prompt."""
    story = {"positive": ("3", 0), "negative": ("3", 1), "latent": ("4", 0), "frames": "2"}
    drawing = {"model": ("1", 0), "positive": ("20", 0), "negative": ("20", 1), "latent_image": ("20", 2), **sampling}
    drawing["seed"] += 1
    top = 1500
    return {
        "20": Node("StoryReelPickFrames", "Pick Frames", (925, top, 330, 150), story, muted=True),
        "21": Node("KSampler", "Draw It Again", (1315, top, 310, 312), drawing, muted=True),
        "22": Node("VAEDecode", "Decode It", (1670, top, 310, 60), {"samples": ("21", 0), "vae": ("1", 2)}, muted=True),
        "23": Node("PreviewImage", "The Frame Again", (2145, top, 400, 480), {"images": ("22", 0)}, muted=True),
    }


def with_and_without(name: str, note: str, loader: Node, story: dict, size: int, sampling: dict) -> Graph:
    """The same story, from the same noise, with Consistent Self-Attention and without, and figures of both.

    loader: whatever gives MODEL, CLIP, VAE and CLIP_VISION, in this order.
    """
    nodes = {
        "1": loader,
        **tell(story, size),
        "5": share("1"),
    }
    groups = [Group("Story", "#3F789E", ("2",)), Group("Model", "#8A5A9E", ("1", "5"))]
    for title, model, first, top in (("With", ("5", 0), 10, 0), ("Without", ("1", 0), 20, 790)):
        draw, decode, preview, measure, report, plot = (str(first + i) for i in range(6))
        drawing = {"model": model, "positive": ("3", 0), "negative": ("3", 1), "latent_image": ("4", 0), **sampling}
        judging = {"images": (decode, 0), "story": ("2", 0), "clip_vision": ("1", 3), "clip": ("1", 1)}
        nodes |= {
            draw: Node("KSampler", f"Draw {title}", (1315, top, 330, 312), drawing),
            decode: Node("VAEDecode", f"Decode {title}", (1700, top, 400, 60), {"samples": (draw, 0), "vae": ("1", 2)}),
            preview: Node("PreviewImage", f"Pictures {title}", (1700, top + 170, 400, 480), {"images": (decode, 0)}),
            measure: Node("StoryReelMeasureStory", f"Measure {title}", (2145, top, 340, 130), judging),
            report: Node("PreviewAny", f"Report {title}", (2145, top + 300, 340, 350), {"source": (measure, 0)}),
            plot: Node("PreviewImage", f"Plot {title}", (2530, top, 400, 650), {"images": (measure, 1)}),
        }
        groups.append(Group(title, "#4E8A5A" if title == "With" else "#A86432", (draw, decode, preview, measure, plot)))
    return Graph(name, note, (0, -45, 510, 150), nodes, tuple(groups))


LIGHTHOUSE = {  # the script that the node itself comes with, its captions apart
    "style": "Comic book",
    "scenes": """\
[Mia] walks along the beach at dawn with a lantern
[Pip] sleeps in an old wooden boat on the sand
[Mia] kneels beside the old boat and laughs
[NC] a storm over a lighthouse, high waves, dark clouds
[Pip] runs along a cliff path in the rain
[Mia] and [Pip] sit by a glowing stove in a round room""",
}
LIGHTHOUSE_CAPTIONS = """\
Every morning Mia looked for what the sea had left.
Today it had left a boat. And in the boat, somebody.
"You are a long way from the forest!"
Then the wind turned.
But Pip could smell a warm stove a mile away.
And that is how the lighthouse got its keepers."""

CLOCKMAKER = {
    "style": "Pixar/Disney Character",
    "characters": """\
[Ada] an old woman with round glasses, a long grey braid and a green apron
[Tick] a small round brass robot with one big blue eye""",
    "scenes": """\
[Ada] mends a clock at a cluttered workbench by candlelight
[Tick] lies in a crate full of straw on a doorstep
[Ada] looks closely through a magnifying glass, surprised smile
[Tick] stands on the workbench and raises one arm, sparks in the air
[NC] snow falls on the crooked roofs of an old town at night, warm windows
[Ada] and [Tick] drink tea together at a small table by the window""",
}
CLOCKMAKER_CAPTIONS = """\
In Lantern Lane, Ada mended whatever people brought her.
One night a crate stood there. The note said: "It won't tick."
"Of course not," said Ada. "Nobody ever asked you to."
So she asked. Very politely.
That winter all clocks in town were right.
And the tea was ready at four. Exactly at four."""

SEASIDE = {
    "style": "(No style)",
    "negative": "",
    "characters": """\
[Pim] a blue hero with a yellow pointed hat""",
    "scenes": """\
[Pim] waving in a meadow
[Pim] walking right in a town
[Pim] walking right in the mountains, on the left
[Pim] sitting at night
[Pim] jumping on a beach
[Pim] reading in a room""",
}
SEASIDE_CAPTIONS = """\
Pim had never seen the sea. "Today," said Pim.
So Pim walked through the town,
and over the mountains,
and sat under all the stars there are.
And there it was. All of it!
Later, Pim wrote it all down: bring a bucket."""

ERRAND = {
    "style": "(No style)",
    "negative": "",
    "characters": "[Pim] a hero with a pointed hat",
    "scenes": """\
[Pim] waving in a meadow
[Pim] walking left in a town
[Pim] sitting on a beach
[Pim] reading in a room""",
}

GRAPHS = (
    story_comic(
        "storyworld_comic",
        """\
1. Press **Run**: a toy model that ships with the pack draws the story, and nothing else is needed.
2. Change the story in **Story Script**. The toy knows 60 words: the help page of **Load Storyworld** lists them.
**Captions** hold what is written below the pictures; editing them draws nothing again.
3. Bypass **Consistent Self-Attention** (Ctrl+B) and run again: what the story does not name now changes from picture to
picture. For real pictures put **Load Checkpoint** in the toy's place, or open *story_comic_sd15*.
4. One frame again? Unmute the nodes of **Draw One Frame Again** (Ctrl+M) and name it in **Pick Frames**.""",
        Node("StoryReelLoadStoryworld", "Load Storyworld", LOADER_BOX),
        SEASIDE,
        SEASIDE_CAPTIONS,
        128,
        TOY_SAMPLING,
        page={"page_width": 768},
        sharing={"seed": TOY_SAMPLING["seed"]},
        redraws=True,
    ),
    with_and_without(
        "storyworld_with_and_without",
        """\
1. Press **Run**: the same story, from the same noise, with **Consistent Self-Attention** and without.
2. Pim has a pointed hat, and no word says in which colours: look who keeps them.
3. **Measure Story** puts figures to it. They are this toy's own; put another loader in its place for real pictures.""",
        Node("StoryReelLoadStoryworld", "Load Storyworld", LOADER_BOX),
        ERRAND,
        128,
        {**TOY_SAMPLING, **FIXED_SEED},
    ),
    story_comic(
        "story_comic_sd15",
        """\
1. Choose a checkpoint of the SD1.5 family in **Load Checkpoint**.
2. Write your story in **Story Script**: who is in it, then one line a picture, [Name] what happens. Its **Captions**
are a line a picture, too; editing them draws nothing again.
3. Press **Run**. Pictures and comic page are saved in output/story; another seed draws the story anew.""",
        load_checkpoint(SD15, LOADER_BOX),
        LIGHTHOUSE,
        LIGHTHOUSE_CAPTIONS,
        512,
        {**FIXED_SEED, "steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
    ),
    story_comic(
        "story_comic_sdxl",
        """\
1. Choose a checkpoint of the SDXL family in **Load Checkpoint**. Short of memory? 768 x 768 in **Empty Story Latent**.
2. Write your story in **Story Script**: who is in it, then one line a picture, [Name] what happens. Its **Captions**
are a line a picture, too; editing them draws nothing again.
3. Press **Run**. 35 steps, CFG 5 and FreeU's values are those of the published app; FreeU may be bypassed (Ctrl+B).""",
        load_checkpoint(SDXL, LOADER_BOX),
        CLOCKMAKER,
        CLOCKMAKER_CAPTIONS,
        1024,
        {**FIXED_SEED, "steps": 35, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"},
        freeu={"b1": 1.1, "b2": 1.2, "s1": 0.6, "s2": 0.4},
    ),
)
