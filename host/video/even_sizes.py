"""Videos with odd sides. The form of H.264 that players show has even sides, so a saved file repeats the last column or
row. Every other node gets the frames as they are."""

from dataclasses import replace

import numpy as np
import torch
from comfy_api.latest import Input, InputImpl, Types
from torch import Tensor


def is_odd(video: Input.Video) -> bool:
    return any(side % 2 for side in video.get_dimensions())


def to_even(frame: np.ndarray) -> np.ndarray:
    """A frame [H, W, channels] with even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def to_even_images(images: Tensor) -> Tensor:
    """Frames [T, H, W, channels] with even sides."""
    for side in (1, 2):
        count = images.shape[side]
        if count % 2:
            images = torch.cat([images, images.narrow(side, count - 1, 1)], dim=side)
    return images


def describe_padding(video: Input.Video) -> str:
    """What a saved file has in place of the video's odd sides, in a sentence; "" for a video of even sides."""
    if not is_odd(video):
        return ""
    width, height = video.get_dimensions()
    return (
        f"The video is {width} x {height} pixels, and H.264 needs even sides. A saved file is "
        f"{width + width % 2} x {height + height % 2}: it repeats the last column or row."
    )


class FrameVideo(InputImpl.VideoFromComponents):
    """The host's VIDEO of frames in memory, with any sides."""

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, **kwargs):
        if not is_odd(self):
            return super().save_to(path, format, codec, **kwargs)
        parts = self.get_components()
        parts = replace(parts, images=to_even_images(parts.images))
        return InputImpl.VideoFromComponents(parts, *_bit_depth(self)).save_to(path, format, codec, **kwargs)


def with_any_sides(video: Input.Video) -> Input.Video:
    """The video, or a copy that can be saved as H.264 if it is one of the host's with odd sides."""
    if type(video) is not InputImpl.VideoFromComponents or not is_odd(video):
        return video
    return FrameVideo(video.get_components(), *_bit_depth(video))


def _bit_depth(video: Input.Video) -> tuple[int, ...]:
    """The bits a channel that a video is saved with, where this host has a choice."""
    return (video.get_bit_depth(),) if hasattr(video, "get_bit_depth") else ()
