"""The shipped workflows, and how a test runs one in seconds: a tiny checkpoint, two steps, two small frames."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
if not NAMES:
    raise FileNotFoundError(f"there is no workflow in {FOLDER}")  # else a test of every workflow would test nothing

FRAMES, WIDTH, HEIGHT, STEPS = 2, 64, 96, 2
TINY = {  # a published checkpoint and its stand-in, a name of `harness.tiny.CHECKPOINTS`
    "v1-5-pruned-emaonly-fp16.safetensors": "sd15",
    "sd_xl_base_1.0.safetensors": "sdxl",
}


def workflow(name: str) -> dict:
    """The graph as the frontend saved it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def prompt(name: str) -> dict:
    """The graph in API form."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def models(name: str) -> list[dict]:
    """The published files that a graph asks for, as the frontend's properties name them."""
    return [model for node in workflow(name)["nodes"] for model in node["properties"].get("models", [])]


def find(prompt: dict, class_type: str) -> str:
    """The id of the only node of this type."""
    (node,) = find_all(prompt, class_type)
    return node


def find_all(prompt: dict, class_type: str) -> list[str]:
    """The ids of the nodes of this type."""
    return [id for id, node in prompt.items() if node["class_type"] == class_type]


def shown(prompt: dict) -> dict[str, int]:
    """{node id: pictures that it shows when the workflow is small}: one of a page or a plot, else one a frame."""
    single = ("StoryReelComicPage", "StoryReelMeasureStory")
    return {
        id: 1 if prompt[prompt[id]["inputs"]["images"][0]]["class_type"] in single else FRAMES
        for kind in ("SaveImage", "PreviewImage")
        for id in find_all(prompt, kind)
    }


def small(prompt: dict, seed: int) -> dict[str, dict]:
    """{node id: {input: value}} that make a workflow small; with another seed the host has nothing in its cache."""
    changes = {}
    for id, node in prompt.items():
        inputs = node["inputs"]
        match node["class_type"]:
            case "CheckpointLoaderSimple":
                changes[id] = {"ckpt_name": f"{TINY[inputs['ckpt_name']]}.ckpt"}
            case "StoryReelScript":
                changes[id] = {"scenes": "\n".join(inputs["scenes"].splitlines()[:FRAMES])}
            case "StoryReelStoryLatent":
                changes[id] = {"width": WIDTH, "height": HEIGHT}
            case "KSampler":
                changes[id] = {"steps": STEPS, "seed": seed}
    return changes


def small_prompt(name: str, seed: int) -> dict:
    """The workflow in API form, small."""
    whole = prompt(name)
    for id, inputs in small(whole, seed).items():
        whole[id]["inputs"].update(inputs)
    return whole
