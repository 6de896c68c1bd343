"""Videos of odd sides, which H.264 in the form that players show does not have: a saved file repeats the last column
and row. To every other node the frames stay what they are."""

from dataclasses import replace

import numpy as np
import torch
from comfy_api.latest import Input, InputImpl, Types
from torch import Tensor

from . import messages


def is_odd(video: Input.Video) -> bool:
    return any(side % 2 for side in video.get_dimensions())


def to_even(frame: np.ndarray) -> np.ndarray:
    """A frame [H, W, channels] with even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def to_even_pictures(pictures: Tensor) -> Tensor:
    """Frames [T, H, W, channels] with even sides."""
    for side in (1, 2):
        count = pictures.shape[side]
        if count % 2:
            pictures = torch.cat([pictures, pictures.narrow(side, count - 1, 1)], dim=side)
    return pictures


def warn_odd(node: str, video: Input.Video) -> None:
    """Say what will be in the file, if it is not what the video has. node: the id, for the message."""
    if is_odd(video):
        width, height = video.get_dimensions()
        messages.warn(
            f"{node}: the video is {width} x {height} pixels, and H.264 needs even sides; a saved file is "
            f"{width + width % 2} x {height + height % 2}, with the last column or row repeated."
        )


class FrameVideo(InputImpl.VideoFromComponents):
    """The host's VIDEO of frames in memory, with any sides."""

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, **kwargs):
        if not is_odd(self):
            return super().save_to(path, format, codec, **kwargs)
        parts = self.get_components()
        parts = replace(parts, images=to_even_pictures(parts.images))
        return InputImpl.VideoFromComponents(parts, self.get_bit_depth()).save_to(path, format, codec, **kwargs)


def with_any_sides(node: str, video: Input.Video) -> Input.Video:
    """A VIDEO that can be saved as H.264, whatever its sides. Said once: here for `node` if one of the host made it."""
    if type(video) is not InputImpl.VideoFromComponents or not is_odd(video):
        return video
    warn_odd(node, video)
    return FrameVideo(video.get_components(), video.get_bit_depth())
