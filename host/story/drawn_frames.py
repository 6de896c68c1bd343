"""A story's drawn frames on disk: their images and banks, and the index that says which of them are finished.

The index is written last, in one piece, for all files of a batch at once. So a process that is killed at any moment
leaves a batch that is finished as a whole, or not at all.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.inputs import check_finite, shown
from ...core.video import files
from ..common import messages
from ..common.folders import inside

KEY = re.compile(r"[0-9a-f]{12}")
IMAGE = re.compile(r"frame_\d{3,6}_[0-9a-f]{12}\.png")
INDEX = "frames.json"
COMPRESSION = 4  # of PNG, from 0 to 9


@dataclass(frozen=True)
class Drawn:
    """The last finished image of a frame.

    file: its name. prompt: a name for the frame's prompt and how many frames before had it. own: the key of what the
    frame itself reads, without its characters' anchor frames. groups: {character: key of what it reads of that one}.
    seed: of its noise.
    """

    file: str
    prompt: str
    own: str
    groups: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass
class Index:
    """images: {key: file name} and banks: keys of groups, which are finished. frames: {number from 1: its image}.
    scores: {key: how alike an image and the anchor frames are}, see `retakes`."""

    images: dict[str, str] = field(default_factory=dict)
    banks: list[str] = field(default_factory=list)
    frames: dict[int, Drawn] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


class FrameFolder:
    """The folder of a story, output/story/frames/`name`. Raises ValueError for a name that leads out of it."""

    def __init__(self, name: str):
        root = Path(folder_paths.get_output_directory()) / "story" / "frames"
        self.path = inside(root, name, "name")

    def read(self) -> Index:
        """The index, without what is no longer on disk. A file that holds no index counts as none, with a message."""
        path = self.path / INDEX
        if not path.is_file():
            return Index()
        try:
            index = _index_of(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            messages.warn(f"{path} is not readable, so all frames are drawn again.")
            return Index()
        return Index(
            {key: file for key, file in index.images.items() if self.image_path(file).is_file()},
            [key for key in index.banks if self.bank_path(key).is_file()],
            {number: drawn for number, drawn in index.frames.items() if self.image_path(drawn.file).is_file()},
            index.scores,
        )

    def add(
        self,
        images: Mapping[str, str],
        frames: Mapping[int, Drawn],
        banks: Sequence[str] = (),
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Write down images and banks that are finished, the frames whose last images they are, and scores.

        Frames that have moved in the story leave their old numbers.
        """
        index = self.read()
        names = {drawn.prompt for drawn in frames.values()}
        others = {number: drawn for number, drawn in index.frames.items() if drawn.prompt not in names}
        images, frames = {**index.images, **images}, {**others, **frames}
        content = {
            "images": dict(sorted(images.items())),
            "banks": sorted({*index.banks, *banks}),
            "frames": {str(number): asdict(drawn) for number, drawn in sorted(frames.items())},
        }
        if scores := {**index.scores, **(scores or {})}:
            content["scores"] = dict(sorted(scores.items()))
        with files.appearing(self.path / INDEX) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def image_path(self, file: str) -> Path:
        """Raises ValueError for another name than ours."""
        if not isinstance(file, str) or not IMAGE.fullmatch(file):
            raise ValueError(f"file is {shown(file)}, which is no name of a frame's image.")
        return self.path / file

    def bank_path(self, key: str) -> Path:
        """Raises ValueError for what is no key."""
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"key is {shown(key)}, which is no key of a bank.")
        return self.path / f"bank_{key}.safetensors"

    def write_image(self, file: str, image: np.ndarray) -> None:
        """image: uint8 [H, W, 3]."""
        with files.appearing(self.image_path(file)) as unfinished:
            Image.fromarray(image).save(unfinished, format="png", compress_level=COMPRESSION)

    def size_of(self, file: str) -> tuple[int, int]:
        """(width, height) of an image. Raises ValueError for a file that is none."""
        with self._open(file) as image:
            return image.size

    def read_images(self, names: Sequence[str]) -> Tensor:
        """The images of these files, [F, H, W, 3] from 0 to 1. Raises ValueError for a file that is no image."""
        batch = None
        for number, name in enumerate(names):
            comfy.model_management.throw_exception_if_processing_interrupted()
            with self._open(name) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB")))
            if batch is None:
                batch = torch.empty(len(names), *pixels.shape)
            if pixels.shape != batch.shape[1:]:
                raise ValueError(f"{name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, unlike the images before.")
            batch[number] = pixels.float() / 255
        if batch is None:
            raise ValueError("files is empty; at least 1 image is expected.")
        return batch

    def _open(self, file: str) -> Image.Image:
        path = self.image_path(file)
        try:
            image = Image.open(path, formats=["png"])
            image.load()
            return image
        except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for broken chunks
            raise ValueError(f"{path} is no readable PNG image. Delete it to have it drawn again.") from error


def file_name(number: int, key: str) -> str:
    """The image of frame `number`, from 0. The key alone finds it again, whatever its number is then."""
    return f"frame_{number + 1:03}_{key}.png"


def decode(vae, samples: Tensor) -> np.ndarray:
    """Decoded samples as uint8 [B, H, W, 3]. Raises ValueError for NaN: the image would be kept as finished."""
    images = vae.decode(samples)
    images = images.reshape(-1, *images.shape[-3:])  # of image models with a time axis
    check_finite("the decoded batch", images, "image")
    return files.to_bytes(images[..., :3])


def _index_of(content: dict) -> Index:
    """Raises ValueError, TypeError, KeyError or AttributeError for anything else than `add` writes."""
    images, banks, scores = content["images"], content["banks"], content.get("scores", {})
    frames = {int(number): Drawn(**entry) for number, entry in content["frames"].items()}
    names = [*images.values(), *(drawn.file for drawn in frames.values())]
    keys = *images, *banks, *scores
    if not all(map(KEY.fullmatch, keys)) or not all(map(IMAGE.fullmatch, names)):
        raise ValueError("a name is none of ours")
    if not all(isinstance(drawn.groups, dict) for drawn in frames.values()):
        raise ValueError("groups is no table")
    if not all(isinstance(score, float) and isfinite(score) for score in scores.values()):
        raise ValueError("a score is no number")
    return Index(images, banks, frames, scores)
