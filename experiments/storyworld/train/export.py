"""From trained networks to the files that ship: half precision, the host's key names, and all that a reader of the file
would want to know in its metadata."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

LICENCE = "Apache-2.0, the pack's own; trained from nothing on pictures that the pack draws"


def save(
    path: Path,
    part: str,
    weights: dict[str, Tensor],
    config: dict,
    recipe: dict,
    figures: dict[str, float],
    **entries,
) -> None:
    """Write one part of Storyworld. recipe: how it was trained. figures: what it reached on pictures it never saw.
    entries: further ones of the metadata, for loaders that look for them."""
    import PIL

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "part": f"storyworld {part}",
        "config": json.dumps(config),
        "recipe": json.dumps({**recipe, "drawn_with": f"Pillow {PIL.__version__}", "torch": torch.__version__}),
        "figures": json.dumps({name: round(figure, 4) for name, figure in figures.items()}),
        "license": LICENCE,
        **{name: json.dumps(value) for name, value in entries.items()},
    }
    half = {name: tensor.detach().half().contiguous().cpu() for name, tensor in weights.items()}
    save_file(half, path, metadata)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", figures)


def add_results(path: Path, results: dict[str, float]) -> None:
    """Write results that could be had only after training into a file's metadata."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    metadata["figures"] = json.dumps(results)
    save_file(load_file(path), path, metadata)


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The weights in float32 and the metadata, its JSON read. The included files spell attributes in British English;
    here they are spelled as in the code."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    for name in ("config", "recipe", "figures"):
        metadata[name] = json.loads(_american(metadata[name]))
    return {_american(name): tensor.float() for name, tensor in load_file(path).items()}, metadata


def _american(text: str) -> str:
    return text.replace("colour", "color")


def filled(network: nn.Module, path: Path) -> nn.Module:
    """A network with the weights of a file, to be used as it is."""
    network.load_state_dict(load(path)[0])
    return network.eval()


ABOUT = {
    "autoencoder": "Encodes 128 x 128 images of Storyworld into 16 x 16 latents of 12 channels and decodes them.",
    "clip": "A CLIP of 60 words. Its text encoder conditions the image model; both encoders score images.",
    "unet": "The image model of Storyworld: Stable Diffusion's UNet layout and noise schedule, v-prediction.",
    "transformer": "The same as a diffusion transformer: the layout of Flux, trained by rectified flow.",
    "video": "The image-to-video model of Storyworld, 16 frames: a small DynamiCrafter with its image projection.",
    "streaming": "The text-to-video model of Storyworld, which also extends clips: a small StreamingT2V.",
    "ip_adapter": "Conditions the image model on images: a small IP-Adapter-Plus with 16 tokens per image.",
    "domain_adapter": "A domain adapter, as a LoRA of rank 16: adapts the image model to frames of clips.",
    "motion_module": "Temporal attention for the image model, up to 32 frames, in AnimateDiff v2's layout.",
    "predictor": "Predicts the tokens of frames between two images: StoryDiffusion's Semantic Motion Predictor.",
}
FOLDERS = {
    "ip_adapter": "ipadapter",
    "domain_adapter": "loras",
    "motion_module": "animatediff_models",
    "predictor": "semantic_motion",
}
OWN_NAMES = ("video", "streaming", *FOLDERS)  # their files' names say whose they are
OPTIONAL = ("transformer", *OWN_NAMES)  # each of which ships whatever there is of the others
CLASSIFIERS = ("classifier", "video_classifier")  # they measure, and are no part of the pack
# {stage: what it makes}, of those that make something of another name, or more than one.
MADE = dict.fromkeys(("streaming_base", "streaming_cam", "streaming_apm"), ("streaming",))
MADE |= {"pictures": ("unet",), "ip_adapter": ("ip_adapter", "domain_adapter")}


def name_of(part: str) -> str:
    """Of a part that ships, in the pack's folder. What a loader lists among published files says whose it is; that of
    semantic motion lies in folders of the lists' names."""
    name = f"storyworld_{part}.safetensors" if part in OWN_NAMES else f"{part}.safetensors"
    return f"{FOLDERS[part]}/{name}" if part in FOLDERS else name


def own_file(part: str, folder: Path) -> Path:
    """Of a part in the folder of its training."""
    return folder / f"{part}.safetensors"


def find(part: str, folder: Path | None, *shipped: Path, before: str = "the stages that build on it") -> Path:
    """The file of a part: a training's own in `folder`, else that which ships in one of the others. Raises
    FileNotFoundError, which says before what it must be trained."""
    places = [own_file(part, folder)] if folder else []
    places += [place / name_of(part) for place in shipped]
    for path in places:
        if path.exists():
            return path
    raise FileNotFoundError(f"there is no {places[0]}: train it before {before}.")


def card(path: Path, part: str) -> str:
    """The model card of a shipped file, in Markdown."""
    weights, metadata = load(path)
    recipe, figures = metadata["recipe"], metadata["figures"]
    plan, pictures = recipe["plan"], recipe["pictures"]
    rows = [
        ("file", path.name),
        ("size", f"{path.stat().st_size / 1e6:.2f} MB, {sum(tensor.numel() for tensor in weights.values()):,} values"),
        ("SHA-256", hashlib.sha256(path.read_bytes()).hexdigest()),
        ("trained by", "`experiments/storyworld train`, on nothing but pictures that the pack draws"),
        ("pictures", ", ".join(f"{name} {value}" for name, value in pictures.items())),
        ("plan", ", ".join(f"{name} {value}" for name, value in plan.items())),
        ("drawn with", recipe["drawn_with"]),
        *((f"reached: {name.replace('_', ' ')}", f"{figure:.3f}") for name, figure in figures.items()),
        ("license", metadata["license"]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    about = f"{ABOUT[part]} A demo model, for trying the pack and for tests."
    return f"# Storyworld: {part}\n\n{about}\n\n| | |\n|---|---|\n{table}\n"
