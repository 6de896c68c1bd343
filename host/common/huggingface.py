"""Image encoders from local Hugging Face folders: CLIP vision with projection, and DINOv2.

Such a folder holds config.json, model.safetensors and usually preprocessor_config.json. The package transformers builds
the network and reads the weights; nothing is downloaded, and no code and no pickle of a folder is used.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import folder_paths
import torch
from torch import Tensor, nn

from ...core.inputs import shown
from ...core.video.images import CLIP_MEAN, CLIP_STD, square_pixels
from .loading import is_short_of_memory, read_metadata
from .plain_network import on_device

FOLDER = "clip_vision"  # of models, where image encoders are kept
CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
CLASSES = {  # model_type in config.json: (configuration, network)
    "clip": ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),  # the image encoder of a whole CLIP
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
    "dinov2": ("Dinov2Config", "Dinov2Model"),
}
EXPECTED = "a folder of CLIPVisionModelWithProjection, CLIPModel or Dinov2Model is expected"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_LAYERS, LARGEST_IMAGE = 256, 4096


class ImageEncoder:
    """name: of its folder. model_type, sizes: kind of network; its width, layers, patch size and image size in pixels.
    embed_dim, token_dim: widths of what `encode` returns. token_count: N below.

    resize: the shorter side that images are scaled to. crop: the side of the center square that the network gets.
    """

    def __init__(self, name: str, network: Any, resize: int, crop: int, mean: Sequence, std: Sequence):
        config = network.config
        self.name, self.model_type = name, config.model_type
        self.sizes = config.hidden_size, config.num_hidden_layers, config.patch_size, config.image_size
        self.embed_dim = getattr(config, "projection_dim", config.hidden_size)
        self.token_dim = config.hidden_size
        self.token_count = 1 + (crop // config.patch_size) ** 2
        self._resize, self._crop, self._mean, self._std = resize, crop, mean, std
        self._run = on_device(network)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, D] and tokens [B, N, D'] of images [B, H, W, 3] from 0 to 1, float32 on the CPU.

        CLIP: the projected class token, and all tokens of the last layer. DINOv2: the class token, and all tokens, both
        after the last norm. The class token is the first token. The center square of each image is encoded.
        """
        out = self._run(square_pixels(images, self._resize, self._crop, self._mean, self._std))
        embeds = out.image_embeds if "image_embeds" in out else out.pooler_output
        return embeds.float().cpu(), out.last_hidden_state.float().cpu()


def encoder_folders() -> list[str]:
    """The folders inside models/clip_vision that hold config.json and model.safetensors."""
    found = set()
    for name in folder_paths.get_filename_list(FOLDER):
        path = Path(name)
        if path.name == WEIGHTS and path.parent.name and folder_paths.get_full_path(FOLDER, str(path.parent / CONFIG)):
            found.add(str(path.parent))
    return sorted(found)


def load_image_encoder(folder: str) -> ImageEncoder:
    """The image encoder in a folder inside models/clip_vision, by its name there.

    Raises ImportError if the package transformers does not work, FileNotFoundError for a folder that is not there, and
    ValueError for a folder that holds another model or is not complete.
    """
    paths = {name: folder_paths.get_full_path(FOLDER, str(Path(folder, name))) for name in (CONFIG, WEIGHTS)}
    if missing := [name for name, path in paths.items() if path is None]:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)} in models/{FOLDER}; {EXPECTED}.")
    root = Path(cast(str, paths[WEIGHTS])).parent
    read_metadata(root / WEIGHTS)  # checks the file before transformers opens it
    config = read_json(root / CONFIG, folder, EXPECTED)
    if (kind := config.get("model_type")) not in CLASSES:
        raise ValueError(f"{folder} is a model of the type {shown(kind)}; {EXPECTED}.")
    for part in (config, config.get("vision_config")):  # a configuration allocates lists of that length
        layers = part.get("num_hidden_layers", 1) if isinstance(part, dict) else 1
        if not isinstance(layers, int) or not 0 < layers <= MOST_LAYERS:
            raise ValueError(f"{folder} states num_hidden_layers {shown(layers)}; 1 to {MOST_LAYERS} is expected.")
    network = _load(root, folder, *CLASSES[kind])
    return _encoder(folder, network, root)


def _load(root: Path, folder: str, config_class: str, network_class: str) -> nn.Module:
    try:
        import transformers

        classes = getattr(transformers, config_class), getattr(transformers, network_class)
    except (ImportError, AttributeError, RuntimeError) as error:  # transformers imports its modules when they are used
        raise ImportError(
            f"transformers cannot be imported ({error}): pip install transformers, with the Python that runs ComfyUI."
        ) from None
    try:
        config = classes[0].from_pretrained(root, local_files_only=True)
        options = dict(config=config, dtype=torch.float32, local_files_only=True, use_safetensors=True)
        with _quiet(transformers):
            network, info = classes[1].from_pretrained(root, **options, output_loading_info=True)
    except Exception as error:
        if is_short_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if "ignore_mismatched_sizes" in reason:  # an option of transformers, which no user of the node can set
            reason = f"{CONFIG} and {WEIGHTS} have different sizes"
        raise ValueError(f"{folder} cannot be loaded as {network_class} ({reason}); {EXPECTED}.") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{folder} has no {missing[0]} in {WEIGHTS}; {EXPECTED}.")
    return network


def _encoder(folder: str, network: Any, root: Path) -> ImageEncoder:
    config = network.config
    path = root / PREPROCESSOR
    stated = read_json(path, folder, EXPECTED) if path.is_file() else {}
    if config.model_type == "dinov2":  # its position embeddings are interpolated to the size of the image
        crop, mean, std = _side(stated.get("crop_size"), 16 * config.patch_size), IMAGENET_MEAN, IMAGENET_STD
    else:
        crop, mean, std = config.image_size, CLIP_MEAN, CLIP_STD
    resize = max(crop, _side(stated.get("size"), crop))
    if not 0 < crop <= resize <= LARGEST_IMAGE or crop % config.patch_size:
        raise ValueError(f"{folder} has the image size {crop}; a multiple of {config.patch_size} is expected.")
    mean, std = stated.get("image_mean", mean), stated.get("image_std", std)
    if not all(is_color(values) for values in (mean, std)):
        raise ValueError(f"{folder} has an image_mean or image_std in {PREPROCESSOR} that is not three numbers.")
    return ImageEncoder(folder, network, resize, crop, mean, std)


def is_color(values) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)


def _side(stated, default: int) -> int:
    """The side of a square from an image processor's size: a number, {"shortest_edge": n} or {"height": n, ...}."""
    if isinstance(stated, dict):
        stated = stated.get("shortest_edge", stated.get("height"))
    return stated if isinstance(stated, int) else default


def read_json(path: Path, folder: str, expected: str) -> dict:
    """The dictionary in a file of a folder. Raises ValueError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} has an unreadable {path.name}; {expected}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{folder} has an unreadable {path.name}; {expected}.")
    return found


@contextlib.contextmanager
def _quiet(transformers):
    """Without progress bars and reports of weights that are not needed: what matters is checked here."""
    log = transformers.utils.logging
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
