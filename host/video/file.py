"""VIDEO and IMAGE read frame by frame, and videos in files of the pack."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import folder_paths
import numpy as np
import torch
from comfy_api.latest import Input, InputImpl, Types
from torch import Tensor

from ...core.inputs import read_images
from ...core.video import files
from ...core.video.sound import Sound, read_sound
from . import even_sizes
from .subtitles import without_subtitles

BYTES = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")  # formats that the host reads as 8 bits a channel


def rate_of(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1000)


@dataclass(frozen=True)
class FrameSource:
    """A video that is read frame by frame. frames(): [H, W, 3], float from 0 to 1 or uint8. rate: frames per second."""

    frames: Callable[[], Iterator[np.ndarray]]
    rate: Fraction
    sound: Sound | None = None


def open_video(frames, fps: float) -> FrameSource:
    """The frames of an IMAGE or VIDEO. A VIDEO in a file is never in memory as a whole. fps: of an IMAGE."""
    if isinstance(frames, Tensor):
        return FrameSource(lambda: iter(frames[..., :3].cpu().float().numpy()), rate_of(fps))
    frames = without_subtitles(frames)
    if isinstance(frames, InputImpl.VideoFromFile):
        start, duration = trim_window(frames)
        sound = read_sound(frames.get_stream_source(), start, duration)
        return FrameSource(lambda: decode(frames), frames.get_frame_rate(), sound)
    parts = frames.get_components()
    sound = parts.audio and Sound(parts.audio["waveform"][0].cpu().float().numpy(), int(parts.audio["sample_rate"]))
    images = read_images("frames", parts.images)
    return FrameSource(lambda: iter(images.cpu().numpy()), Fraction(parts.frame_rate), sound)


def trim_window(video: InputImpl.VideoFromFile) -> tuple[float, float]:
    """(start, duration) of a VIDEO in a file, in seconds. A duration of 0 lasts to the end of the file."""
    if hasattr(video, "get_active_trim_window"):
        return video.get_active_trim_window()
    hidden: Any = video  # ComfyUI 0.20 keeps both to itself
    start, duration = hidden._VideoFromFile__start_time, hidden._VideoFromFile__duration
    if start < 0:
        start = max(hidden._get_raw_duration() + start, 0.0)
    return float(start), float(duration)


def decode(video: InputImpl.VideoFromFile, deep: bool = False) -> Iterator[np.ndarray]:
    """The frames of `get_components` one at a time and upright: [H, W, 3], uint8.

    deep: float from 0 to 1 where the file has more than 8 bits a channel.
    """
    file = video.get_stream_source()
    if isinstance(file, io.BytesIO):
        file = io.BytesIO(file.getvalue())  # with a position of its own: the same video may be read twice at a time
    start, duration = trim_window(video)
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
            kept = "gbrpf32le" if deep and frame.format.name not in BYTES else "rgb24"
            yield files.upright(frame, kept)


def to_tensor(frame: np.ndarray) -> Tensor:
    """A frame of a clip, float from 0 to 1."""
    tensor = torch.from_numpy(np.array(frame))
    return tensor.float() / 255 if frame.dtype == np.uint8 else tensor


def to_bytes(frame: np.ndarray) -> np.ndarray:
    """A frame of a clip, uint8."""
    return frame if frame.dtype == np.uint8 else files.to_bytes(torch.from_numpy(frame))


class ExactVideo(InputImpl.VideoFromFile):
    """A VIDEO in a file of `write_frames`: exact as frames, H.264 in MP4 by default."""

    def get_components(self) -> Types.VideoComponents:
        clip = open_video(self, 0.0)
        sound = clip.sound
        audio = None
        if sound is not None:
            audio = Input.Audio(waveform=torch.from_numpy(sound.samples)[None], sample_rate=sound.rate)
        return Types.VideoComponents(images=files.to_images(clip.frames()), audio=audio, frame_rate=clip.rate)

    def as_trimmed(self, start_time: float = 0, duration: float = 0, strict_duration: bool = True):
        trimmed = super().as_trimmed(start_time, duration, strict_duration)
        return trimmed and ExactVideo(
            self.get_stream_source(), start_time=trim_window(self)[0] + start_time, duration=duration
        )

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, **kwargs):
        if codec == Types.VideoCodec.AUTO:
            codec = Types.VideoCodec.H264  # else the host would copy this file's codec
        if not even_sizes.is_odd(self):
            return super().save_to(path, format, codec, **kwargs)
        clip, temporary = open_video(self, 0.0), folder_paths.get_temp_directory()
        os.makedirs(temporary, exist_ok=True)
        with TemporaryDirectory(dir=temporary) as folder:
            whole = Path(folder, "even.avi")
            files.write_frames(whole, map(even_sizes.to_even, clip.frames()), clip.rate, clip.sound)
            return InputImpl.VideoFromFile(str(whole)).save_to(path, format, codec, **kwargs)
