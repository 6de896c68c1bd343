"""Frames on disk, exactly as they are in memory as 8 bits a channel: FFV1 in AVI, which common players show.

AVI counts frames. Matroska counts milliseconds, which makes 12 frames a second 12.012 in whatever is made of the file.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from .sound import Sound, Track

FRAMES_AT_ONCE = 16
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
FULL_TEXT = re.compile(r"No space left|os error (28|112|122)\b|requested and \d+ written")  # where no number is given


@contextlib.contextmanager
def appearing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A path to write to, whose file gets the name `path` when it is whole and on the disk, and else is deleted.

    A process that is killed at any moment leaves the whole file or none of that name. needed: bytes, if known.

    Raises OSError with the number ENOSPC where there is no room for it, whatever wrote the file.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except Exception as error:
        if not _is_full(error):
            raise
        raise _no_room(path, unfinished, needed) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk had no room, by an error or by one that it came from."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or FULL_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_room(path: Path, unfinished: Path, needed: int | None) -> OSError:
    folder = next(place for place in (path.parent, *path.parents) if place.exists())
    written = unfinished.stat().st_size if unfinished.exists() else 0
    needs = "more is" if needed is None else f"{needed:,} bytes are"
    error = OSError(
        f"There is no room for {path.name} in {path.parent}: {needs} needed, {written:,} bytes were written and "
        f"{shutil.disk_usage(folder).free:,} are left. Make room there and run again: the run resumes from what is "
        "finished."
    )
    error.errno = errno.ENOSPC
    return error


def write_frames(path: Path, frames: Iterable[np.ndarray], rate: Fraction, sound: Sound | None = None) -> None:
    """Write frames [H, W, 3] uint8 of one size, any. The file appears under its name when it is whole, never before.

    sound: from the first frame on; what is longer than the frames is left out.

    Raises ValueError if there are no frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path.name} would hold no frames; at least 1 is expected.")
    with appearing(path) as unfinished, av.open(str(unfinished), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.pix_fmt = "bgr0"
        stream.height, stream.width = first.shape[:2]
        if stream.width == 1:
            stream.options = {"level": "1"}  # the usual one cuts a frame into slices side by side
        track = None if sound is None else Track(container, sound)
        for number, frame in enumerate(chain([first], frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            if track is not None:
                track.write_until((number + 1) / rate)
        container.mux(stream.encode(None))


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a file, upright, [H, W, 3] uint8, one at a time.

    Raises av.error.FFmpegError for a file that is no video, and IndexError for one without frames.
    """
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield upright(frame)


def upright(frame: av.VideoFrame, format: str = "rgb24") -> np.ndarray:
    """A decoded frame as an array, turned upright as its file states; phones write rotated frames."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format=format), round(frame.rotation / 90)))


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Write a tensor; as with `write_frames`, the file appears when it is whole."""
    size = tensor.numel() * tensor.element_size()
    with appearing(path, size) as unfinished, open(unfinished, "wb") as file:
        np.save(file, tensor.cpu().numpy(), allow_pickle=False)


def read_tensor(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False))


def to_bytes(images: Tensor) -> np.ndarray:
    """[T, H, W, 3] from 0 to 1 -> uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_images(frames: Iterable[np.ndarray]) -> Tensor:
    """uint8 frames -> [T, H, W, 3] from 0 to 1. Raises ValueError for none."""
    frames, parts = iter(frames), []
    while some := list(islice(frames, FRAMES_AT_ONCE)):  # so that bytes and floats are not in memory together
        parts.append(torch.from_numpy(np.stack(some)).float() / 255)
    if not parts:
        raise ValueError("there are no frames; at least 1 is expected.")
    return torch.cat(parts)
