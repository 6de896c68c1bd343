"""Predicting a motion: pictures become tokens, and tokens the path through a shot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.motion import trajectory
from ...core.motion.trajectory import Trajectory
from ...core.networks.semantic_motion.config import read_config, read_training
from ...core.networks.semantic_motion.predictor import MotionPredictor
from ...core.text import short
from ...core.weights.refusal import Unreadable
from ..common import messages
from ..common.clip_vision import GREY, vision_tokens
from ..common.folders import path_of
from ..common.loading import check_nothing_else, check_whole, judging, patcher_of, put_weights, read_with_metadata
from ..common.ops import host_ops
from ..dynamicrafter.model import parts_of

NODE = "Load Motion Predictor"
PREDICT = "Predict Motion"
FOLDER = "semantic_motion"
UNTRAINED = "none"


class Space(Protocol):
    """Makes tokens of pictures. name: for messages. space: see `Trajectory`. shape: (tokens of a frame, width). slots:
    of how many frames a picture has tokens of its own, 1 if it has the same for every frame."""

    name: str
    space: str
    shape: tuple[int, int]
    slots: int

    def encode(self, clip_vision, pictures: Tensor, frames: int) -> Tensor:
        """[K, N, D] of pictures [K, H, W, 3], or [K, L, N, D] where each of L frames has tokens of its own."""

    def nothing(self, clip_vision) -> Tensor | None:
        """[N, D] of no picture, if the space has such."""


@dataclass(frozen=True)
class DynamiCrafterTokens:
    """The tokens that a DynamiCrafter checkpoint makes of a picture: other ones for every frame."""

    model: ModelPatcher
    space: str = "dynamicrafter"

    @property
    def name(self) -> str:
        kind = parts_of(self.model).kind
        return "DynamiCrafter" + (f" {kind.name}" if kind is not None else "")

    @property
    def shape(self) -> tuple[int, int]:
        inner = parts_of(self.model)
        return inner.sizes.image_tokens, inner.image_proj_model.config.output_dim

    @property
    def slots(self) -> int:
        return parts_of(self.model).image_proj_model.config.queries // self.shape[0]

    def encode(self, clip_vision, pictures: Tensor, frames: int) -> Tensor:
        """A clip of another length than the checkpoint's takes those of the frame at the same share of it."""
        comfy.model_management.load_model_gpu(self.model)
        inner = parts_of(self.model)
        path = []
        for picture in pictures.split(1):
            # As the conditioning does, next to the grey that stands for no picture: an encoder rounds by its batch.
            seen = vision_tokens(clip_vision, torch.cat([picture, torch.full_like(picture, GREY)]))[:1]
            path.append(inner.image_tokens(seen, self.model.load_device)[0].unflatten(0, (-1, self.shape[0])))
        return (
            torch.stack(path)[:, trajectory.even(frames, self.slots)]
            .float()
            .to(comfy.model_management.intermediate_device())
        )

    def nothing(self, clip_vision) -> None:
        return None


@dataclass(frozen=True)
class Predictor:
    """What predicts a motion in a space; without a network, interpolation. trained: by whom, for the reader."""

    space: Space
    network: ModelPatcher | None = None
    trained: str = "interpolation, untrained"


def load_predictor(name: str, space: Space) -> Predictor:
    """Read a file of the folder, or "none", for tokens of `space`.

    Raises ValueError for another file, and for a predictor that was trained on other tokens.
    """
    if name == UNTRAINED:
        return Predictor(space)
    path = path_of(FOLDER, name)
    weights, metadata = read_with_metadata(path)
    try:
        config, stated = read_config(metadata), read_training(metadata)
    except ValueError as error:
        raise ValueError(f"{NODE}: {name} is no motion predictor: {str(error).removesuffix('.')}.") from error
    asked = (space.space, *space.shape)
    if (config.space, config.tokens, config.token_width) != asked:
        raise ValueError(
            f"{NODE}: {name} was trained for {config.space} ({config.tokens} x {config.token_width}), and {space.name} "
            f"makes {asked[0]} ({asked[1]} x {asked[2]})."
        )
    try:
        with judging("motion predictor"):
            network = MotionPredictor(config, host_ops(device="meta"))
            check_whole(network, weights)
        check_nothing_else(network, weights)
        put_weights(network, weights)
    except (KeyError, Unreadable) as error:
        why = f"it lacks {short(error.args[0])}" if isinstance(error, KeyError) else f"it {error}"
        raise ValueError(f"{NODE}: {name} does not hold the weights that its metadata state: {why}.") from error
    trained = f"predicted by {name}"
    if not stated.get("beats_interpolation", True):
        trained += ", which is not known to beat interpolation"
    if (learnt := stated.get("tokens_of", space.name)) != space.name:
        trained += f", which learnt tokens of {learnt}, and these are of {space.name}"
    return Predictor(space, patcher_of(network), trained)


def pictures_of(start: Tensor, between: Tensor | None, end: Tensor | None) -> list[Tensor]:
    """The given pictures [1, H, W, 3] in their order. Raises ValueError for more than one at an end."""
    for name, picture in (("start", start), ("end", end)):
        if picture is not None and len(picture) != 1:
            raise ValueError(f"Predict Motion: {name} holds {len(picture)} pictures; 1 is expected.")
    return [start, *(() if between is None else between.split(1)), *(() if end is None else (end,))]


def knots_of(between: int, at: str, end: bool, frames: int) -> list[int]:
    """The frames of the given pictures: the start, so many between, and the end, if there is one.

    at: numbers of those between, with commas; evenly spread if empty. Raises ValueError for other numbers.
    """
    if at.strip():
        try:
            chosen = [int(number) for number in at.split(",")]
        except ValueError as error:
            raise ValueError(
                f"keyframe_positions is {at!r}; numbers of frames with commas are expected: 5, 11."
            ) from error
        if len(chosen) != between:
            raise ValueError(f"keyframe_positions names {len(chosen)} frames, and keyframes holds {between} images.")
        return [0, *chosen, *([frames - 1] if end else [])]
    return trajectory.even(1 + between + end, frames)


def predict(
    predictor: Predictor,
    clip_vision,
    pictures: Sequence[Tensor],
    knots: Sequence[int],
    frames: int,
    easing: str = "linear",
    hold_start: int = 0,
    hold_end: int = 0,
    strength: float = 1.0,
) -> Trajectory:
    """The tokens of every frame.

    pictures: [1, H, W, 3] each, of frames `knots`. strength: of what the predictor adds to the interpolation.

    Raises ValueError for what the predictor was not trained for, and for pictures that do not fit the shot.
    """
    trajectory.check_knots(knots, frames)
    if strength:
        check_given(predictor, len(knots))
    times = trajectory.clock(knots, frames, easing, hold_start, hold_end)
    encoded = [predictor.space.encode(clip_vision, picture, frames) for picture in pictures]
    given = torch.cat(encoded).float()
    tokens = trajectory.follow(given, knots, times)
    told = predictor.trained
    if predictor.network is not None and strength:
        added, remark = _difference(predictor.network, given, knots, frames)
        tokens = tokens + strength * trajectory.retime(added, times)
        told += remark
    elif predictor.network is not None:
        told = f"interpolation, of {told} nothing (strength 0)"
    elif strength != 1:
        messages.warn(f"{PREDICT}: strength {strength:g} has no effect: no predictor is loaded that adds anything.")
    if len(knots) == 1 and (predictor.network is None or not strength) and predictor.space.slots == 1:
        messages.warn(f"{PREDICT}: start is the only picture, so all frames have its tokens: nothing moves by them.")
    return Trajectory(tokens, predictor.space.space, predictor.space.nothing(clip_vision), told)


def check_given(predictor: Predictor, pictures: int) -> None:
    """Raise ValueError unless the predictor was trained to be given so many pictures."""
    if predictor.network is None:
        return
    config = predictor.network.model.config
    if pictures == 1 and config.ends == 2:
        raise ValueError("The motion predictor was trained on a start and an end picture, and end is empty.")
    if pictures > 1 and config.ends == 1:
        raise ValueError("The motion predictor was trained on a start picture alone; leave the other pictures empty.")


def _difference(network: ModelPatcher, given: Tensor, knots: Sequence[int], frames: int) -> tuple[Tensor, str]:
    """(what the predictor adds at even steps [L, N, D], what there is to say about its use)"""
    config = network.model.config
    remark = "" if config.keyframes or len(knots) < 3 else " (which saw no pictures between when it was trained)"
    comfy.model_management.load_model_gpu(network)
    interpolated = trajectory.follow(given, knots, trajectory.clock(knots, frames))
    known = torch.zeros(frames, dtype=torch.bool)
    known[list(knots)] = True
    device = network.load_device
    added = network.model.difference(interpolated[None].to(device), known.to(device))[0]
    return added.to(given), remark
