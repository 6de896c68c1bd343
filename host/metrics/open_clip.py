"""CLIP from local folders as open_clip publishes them: the image and the text encoder that papers report scores of.

Such a folder holds open_clip_config.json and open_clip_model.safetensors or open_clip_pytorch_model.bin. The package
open_clip builds the network and reads prompts. The weights are read here, as all others are; nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor, nn

from ...core.inputs import shown
from ...core.video.images import CLIP_MEAN, CLIP_STD, square_pixels
from ..common.huggingface import FOLDER, LARGEST_IMAGE, MOST_LAYERS, is_color, read_json
from ..common.loading import (
    check_nothing_else,
    check_whole,
    is_short_of_memory,
    read_with_metadata,
    reject_incomplete,
)
from ..common.plain_network import plain_patcher, run_on
from .features import in_parts, name_of_sizes

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
EXPECTED = "a CLIP as open_clip publishes it is expected"
NOT_WEIGHTS = ("attn_mask", "text.attn_mask")  # that old files hold, too


class OpenClip:
    """An `Encoder`."""

    source = "encoder_folder"

    def __init__(self, folder: str, network: Any, config: dict, preprocess: dict, tokenizer):
        vision = config["vision_cfg"]
        sizes = vision["width"], vision["layers"], vision["patch_size"], vision["image_size"]
        self.architecture = name_of_sizes("clip", sizes)
        self.name = f"{self.architecture} ({folder}, by open_clip)"
        self.width = config["embed_dim"]
        self._side = vision["image_size"]
        self._mean, self._std = preprocess.get("mean", CLIP_MEAN), preprocess.get("std", CLIP_STD)
        self._tokenizer = tokenizer
        patcher = plain_patcher(network)
        self._encode_image, self._encode_text = (
            run_on(patcher, function) for function in (network.encode_image, network.encode_text)
        )

    def no_text(self) -> None:
        return None

    def embed_images(self, images: Tensor) -> Tensor:
        """[F, D] of the center squares of images [F, H, W, 3] from 0 to 1."""
        sizes = self._side, self._side, self._mean, self._std
        pixels = (square_pixels(part, *sizes, round_offset=True) for part in in_parts(images))
        return torch.cat([self._encode_image(part).float().cpu() for part in pixels])

    def embed_prompts(self, prompts: tuple[str, ...]) -> Tensor:
        """[F, D] of as many first tokens of each prompt as the text encoder reads, which is usually 77."""
        tokens = (self._tokenizer(list(part)) for part in in_parts(prompts))
        return torch.cat([self._encode_text(part).float().cpu() for part in tokens])


def encoder_folders() -> list[str]:
    """The folders inside models/clip_vision that hold open_clip_config.json and weights."""
    names = (Path(name) for name in folder_paths.get_filename_list(FOLDER))
    parents = {path.parent for path in names if path.name in WEIGHTS and path.parent.name}
    return sorted(str(path) for path in parents if folder_paths.get_full_path(FOLDER, str(path / CONFIG)))


def load(folder: str) -> OpenClip:
    """The CLIP in a folder inside models/clip_vision, by its name there.

    Raises ImportError if the package open_clip does not work, FileNotFoundError for a folder without the files, and
    ValueError for a folder that holds another model or is not complete.
    """
    config_path = folder_paths.get_full_path(FOLDER, str(Path(folder, CONFIG)))
    paths = [path for name in WEIGHTS if (path := folder_paths.get_full_path(FOLDER, str(Path(folder, name))))]
    if config_path is None or not paths:
        lacking = CONFIG if config_path is None else f"weights ({', '.join(WEIGHTS)})"
        raise FileNotFoundError(f"{folder} has no {lacking} in models/{FOLDER}; {EXPECTED}.")
    stated = read_json(Path(config_path), folder, EXPECTED)
    config, preprocess = _config(folder, stated), _preprocess(folder, stated)
    open_clip = import_open_clip()
    network = _build(open_clip, folder, config, read_with_metadata(paths[0])[0], Path(paths[0]).name)
    tokenizer = open_clip.SimpleTokenizer(context_length=network.context_length)
    return OpenClip(folder, network, config, preprocess, tokenizer)


def import_open_clip():
    """The package. Raises ImportError with a sentence if it does not work."""
    try:
        import open_clip
    except (ImportError, AttributeError, RuntimeError) as error:  # a torchvision for another torch raises the last two
        raise ImportError(
            f"open_clip cannot be imported ({error}): pip install open-clip-torch, with the Python that runs ComfyUI."
        ) from None
    return open_clip


def _config(folder: str, stated: dict) -> dict:
    """The arguments of open_clip's CLIP. Raises ValueError for a network that needs other packages, or downloads."""
    config = stated.get("model_cfg")
    config = config if isinstance(config, dict) else {}
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ValueError(f"{folder} states no vision_cfg and text_cfg in {CONFIG}; {EXPECTED}.")
    for name in ("timm_model_name", "hf_model_name", "hf_tokenizer_name"):
        if found := vision.get(name) or text.get(name):
            raise ValueError(f"{folder} states {name} {shown(found)}; {EXPECTED}, with open_clip's own two encoders.")
    bounds = {"layers": MOST_LAYERS, "image_size": LARGEST_IMAGE, "width": 2**15, "patch_size": LARGEST_IMAGE}
    bounds |= {"context_length": 2**12, "heads": 2**10, "head_width": 2**15}
    vision, text = {"head_width": 64, "patch_size": 16} | vision, {"context_length": 77} | text
    for part, names in ((vision, ("layers", "image_size", "width", "patch_size")), (text, ("layers", "width"))):
        for name in {*names, *(part.keys() & bounds)}:
            if type(part.get(name)) is not int or not 0 < part[name] <= bounds[name]:
                raise ValueError(f"{folder} states {name} {shown(part.get(name))}; 1 to {bounds[name]} is expected.")
    return {key: value for key, value in config.items() if key != "custom_text" or value} | {
        "vision_cfg": vision,
        "text_cfg": text,
    }


def _preprocess(folder: str, stated: dict) -> dict:
    found = stated.get("preprocess_cfg", {})
    found = found if isinstance(found, dict) else {}
    for name, expected in (("resize_mode", "shortest"), ("interpolation", "bicubic")):
        if found.get(name, expected) != expected:
            raise ValueError(f"{folder} states {name} {shown(found[name])} in {CONFIG}; {expected} is expected.")
    if not all(is_color(found.get(name, CLIP_MEAN)) for name in ("mean", "std")):
        raise ValueError(f"{folder} has a mean or std in {CONFIG} that is not three numbers.")
    return found


def _build(open_clip, folder: str, config: dict, weights: dict[str, Tensor], file: str) -> Any:
    weights = {key: weight.float() for key, weight in weights.items() if key not in NOT_WEIGHTS}

    def network(device: str) -> nn.Module:
        try:
            with torch.device(device):
                return open_clip.CLIP(**config)
        except Exception as error:
            if is_short_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise ValueError(
                f"{folder} states a network in {CONFIG} that is no CLIP ({reason}); {EXPECTED}."
            ) from error

    with reject_incomplete(f"{folder}/{file}", "open_clip's CLIP", EXPECTED):
        empty = network("meta")  # needs no memory, however large the stated sizes are
        check_whole(empty, weights)
        check_nothing_else(empty, weights)
    built = network("cpu")
    built.load_state_dict(weights)
    return built
