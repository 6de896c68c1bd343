"""The frames of a VIDEO or an IMAGE one at a time: what a file holds is never in memory as a whole."""

import io
from collections.abc import Iterator

import av
import numpy as np
import torch
from comfy_api.latest import Input, InputImpl
from torch import Tensor

from .subtitles import without_subtitles

BYTES = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")  # formats that the host reads as 8 bits a channel


def frames_of(source: Input.Video | Tensor) -> tuple[int, Iterator[Tensor]]:
    """(about how many, the frames [H, W, 3] from 0 to 1). source: VIDEO or IMAGE [T, H, W, C].

    A VIDEO that is not a file is in memory anyway.
    """
    source = without_subtitles(source)
    if isinstance(source, InputImpl.VideoFromFile):
        return round(source.get_duration() * source.get_frame_rate()), _decoded(source)
    images = source if isinstance(source, Tensor) else source.get_components().images
    return len(images), (image[..., :3].float().cpu() for image in images)


def _decoded(video: InputImpl.VideoFromFile) -> Iterator[Tensor]:
    """The frames of `get_components`, number for number, which would hand them over all at once."""
    file = video.get_stream_source()
    if isinstance(file, io.BytesIO):
        file = io.BytesIO(file.getvalue())  # with a place of its own: the same video may be read twice at a time
    start, duration = video.get_active_trim_window()
    with av.open(file) as container:
        stream = container.streams.video[0]
        first, end = (int(seconds / stream.time_base) for seconds in (start, start + duration))
        if first:
            container.seek(first, stream=stream)
        for frame in container.decode(stream):
            if frame.pts < first:
                continue
            if duration and frame.pts >= end:
                return
            picture = frame.to_ndarray(format="rgb24" if frame.format.name in BYTES else "gbrpf32le")
            picture = np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
            yield torch.from_numpy(picture) if picture.dtype == np.float32 else torch.from_numpy(picture).float() / 255
