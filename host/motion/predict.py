"""Predicting a motion: images become tokens, and tokens become the motion of a shot."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from ..common.folders import path_of
from ..common.loading import check_nothing_else, check_whole, judging, patcher_of, put_weights, read_with_metadata
from ..common.ops import host_ops
from .token_encoders import TokenEncoder, check_clip_vision

FOLDER = "semantic_motion"
UNTRAINED = "none"


@dataclass(frozen=True)
class Predictor:
    """Predicts motions of one encoder's tokens; without a network it interpolates. description: for the reader."""

    encoder: TokenEncoder
    network: ModelPatcher | None = None
    description: str = "interpolation, untrained"


def load_predictor(name: str, encoder: TokenEncoder) -> Predictor:
    """Read a file of the folder, or "none", for the tokens of `encoder`.

    Raises ValueError for another file, and for a predictor that was trained on other tokens.
    """
    if name == UNTRAINED:
        return Predictor(encoder)
    path = path_of(FOLDER, name)
    weights, metadata = read_with_metadata(path)
    try:
        config, stated = read_config(metadata), read_training(metadata)
    except ValueError as error:
        raise ValueError(f"{name} is no motion predictor: {str(error).removesuffix('.')}.") from error
    expected = (encoder.token_space, *encoder.shape)
    if (config.token_space, config.tokens, config.token_width) != expected:
        raise ValueError(
            f"{name} was trained for {config.token_space} ({config.tokens} x {config.token_width}), and "
            f"{encoder.name} makes {expected[0]} ({expected[1]} x {expected[2]})."
        )
    try:
        with judging("motion predictor"):
            network = MotionPredictor(config, host_ops(device="meta"))
            check_whole(network, weights)
        check_nothing_else(network, weights)
        put_weights(network, weights)
    except (KeyError, Unreadable) as error:
        why = f"it lacks {short(error.args[0])}" if isinstance(error, KeyError) else f"it {error}"
        raise ValueError(f"{name} does not hold the weights that its metadata state: {why}.") from error
    description = f"predicted by {name}"
    if not stated.get("beats_interpolation", True):
        description += ", which is not known to beat interpolation"
    if (trained_on := stated.get("tokens_of", encoder.name)) != encoder.name:
        description += f", which was trained on tokens of {trained_on}; these are of {encoder.name}"
    return Predictor(encoder, patcher_of(network), description)


def collect_images(start_image: Tensor, keyframes: Tensor | None, end_image: Tensor | None) -> list[Tensor]:
    """All images [1, H, W, 3] in their order. Raises ValueError if start or end is more than one."""
    for name, image in (("start_image", start_image), ("end_image", end_image)):
        if image is not None and len(image) != 1:
            raise ValueError(f"{name} holds {len(image)} images; 1 is expected.")
    between = () if keyframes is None else keyframes.split(1)
    return [start_image, *between, *(() if end_image is None else (end_image,))]


def parse_keyframe_indices(keyframes: int, positions: str, has_end: bool, frames: int) -> list[int]:
    """The frame of each image: of the start, of so many keyframes, and of the end if there is one.

    positions: numbers of the keyframes' frames, with commas; empty = evenly spaced. Raises ValueError for other text,
    and for another count.
    """
    if not positions.strip():
        return trajectory.spread_evenly(1 + keyframes + has_end, frames)
    try:
        chosen = [int(number) for number in positions.split(",")]
    except ValueError as error:
        raise ValueError(
            f"keyframe_positions is {positions!r}; frame numbers with commas are expected: 5, 11."
        ) from error
    if len(chosen) != keyframes:
        raise ValueError(f"keyframe_positions names {len(chosen)} frames, and keyframes holds {keyframes} images.")
    return [0, *chosen, *([frames - 1] if has_end else [])]


def predict(
    predictor: Predictor,
    clip_vision,
    images: Sequence[Tensor],
    keyframe_indices: Sequence[int],
    frames: int,
    easing: str = "linear",
    hold_start: int = 0,
    hold_end: int = 0,
    strength: float = 1.0,
) -> Trajectory:
    """The tokens of every frame.

    images: [1, H, W, 3] each, at the frames `keyframe_indices`. strength: scales what the predictor adds to the
    interpolation.

    Raises ValueError for what the predictor was not trained for, and for images that do not fit the shot.
    """
    trajectory.check_keyframe_indices(keyframe_indices, frames)
    check_clip_vision(predictor.encoder, clip_vision)
    if strength:
        check_image_count(predictor, len(keyframe_indices))
    times = trajectory.timing(keyframe_indices, frames, easing, hold_start, hold_end)
    encoder = predictor.encoder
    keyframes = torch.cat([encoder.encode(clip_vision, image, frames) for image in images]).float()
    tokens = trajectory.interpolate(keyframes, keyframe_indices, times)
    description, network = predictor.description, predictor.network if strength else None
    if network is not None:
        added, remark = _difference(network, keyframes, keyframe_indices, frames)
        tokens = tokens + strength * trajectory.retime(added, times)
        description += remark
    elif predictor.network is not None:
        description = f"interpolation; strength is 0, so nothing is {description}"
    elif strength != 1:
        messages.warn(f"strength {strength:g} has no effect because no predictor is loaded.")
    if len(images) == 1 and network is None and encoder.frames_per_image == 1:
        messages.warn("start_image is the only image, so all frames have the same tokens and nothing moves.")
    return Trajectory(tokens, encoder.token_space, encoder.uncond(clip_vision), description)


def check_image_count(predictor: Predictor, images: int) -> None:
    """Raise ValueError unless the predictor was trained with so many images."""
    if predictor.network is None:
        return
    config = predictor.network.model.config
    if images == 1 and config.ends == 2:
        raise ValueError("the predictor was trained with a start and an end image; connect end_image.")
    if images > 1 and config.ends == 1:
        raise ValueError("the predictor was trained with a start image only; disconnect the other images.")


def _difference(
    network: ModelPatcher, keyframes: Tensor, keyframe_indices: Sequence[int], frames: int
) -> tuple[Tensor, str]:
    """(what the predictor adds at even steps [L, N, D], a remark on its use)"""
    config = network.model.config
    untrained_for = len(keyframe_indices) > 2 and not config.keyframes
    remark = " (trained without images between start and end)" if untrained_for else ""
    comfy.model_management.load_model_gpu(network)
    interpolated = trajectory.interpolate(keyframes, keyframe_indices, trajectory.timing(keyframe_indices, frames))
    is_keyframe = trajectory.keyframe_mask(keyframe_indices, frames)
    device = network.load_device
    added = network.model.difference(interpolated[None].to(device), is_keyframe.to(device))[0]
    return added.to(keyframes), remark
