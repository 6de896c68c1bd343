"""The frames of a VIDEO or an IMAGE one at a time: what a file holds is never in memory as a whole."""

from collections.abc import Iterator

from comfy_api.latest import Input, InputImpl
from torch import Tensor

from ...core.inputs import read_images
from .file import decode, to_tensor
from .subtitles import without_subtitles


def frames_of(source: Input.Video | Tensor) -> tuple[int, Iterator[Tensor]]:
    """(about how many, the frames [H, W, 3] from 0 to 1). source: VIDEO or IMAGE [T, H, W, C].

    A VIDEO that is not a file is in memory anyway.
    """
    source = source if isinstance(source, Tensor) else without_subtitles(source)
    if isinstance(source, InputImpl.VideoFromFile):
        return round(source.get_duration() * source.get_frame_rate()), map(to_tensor, decode(source, deep=True))
    images = read_images("video", source if isinstance(source, Tensor) else source.get_components().images)
    return len(images), (image.cpu() for image in images)
