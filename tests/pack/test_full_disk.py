"""A disk without room: the message names the folder, what was needed and what is left, and nothing is lost."""

import errno
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import banks
from safetensors.torch import load_file
from storyreel.core import training
from storyreel.core.attention.bank import Level
from storyreel.core.video import files
from torch import nn

ROOM = 300  # kB


@pytest.fixture
def small_disk(tmp_path):
    """A folder on its own small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None:
        pytest.skip("mounts a small disk, which takes Linux")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounts a small disk, which takes root: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def noise(count: int) -> list[np.ndarray]:
    """Frames that no codec compresses."""
    return list(np.random.default_rng(0).integers(0, 255, (count, 96, 96, 3), dtype=np.uint8))


def write_video(path: Path) -> None:
    files.write_frames(path, noise(24), Fraction(8))


def write_tensor(path: Path) -> None:
    files.write_tensor(path, torch.arange(200_000, dtype=torch.float32))


def write_state(path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(300, 200)
    run = training.Run(network, nn.Linear(300, 200), training.optimizer_of(list(network.parameters()), 1e-3, 0.0))
    run.write(path)


def write_weights(path: Path) -> None:
    from storyreel.host.motion import clips

    clips.write(path, {"tokens": torch.arange(200_000).float()}, {"clip": "a.mp4"})


def write_bank(path: Path) -> None:
    from storyreel.host.attention import bank_files

    bank = banks.bank(torch.float32)
    (made,) = bank.recordings
    step = made.steps[0]
    made.levels[8] = Level(8, 5000, 40)
    made.layers[step, 8] = (0,)
    made.indices[0, step, 8] = torch.arange(5000, dtype=torch.int32)
    made.tokens[0, step, 8, 0] = torch.arange(200_000).float().view(1, 5000, 40)
    bank_files.save(bank, path)


WRITERS = {
    "shot.avi": (write_video, "more is"),
    "chunk.npy": (write_tensor, "800,000 bytes are"),
    "state.safetensors": (write_state, "481,600 bytes are"),
    "tokens.safetensors": (write_weights, "800,000 bytes are"),
    "bank.safetensors": (write_bank, "844,273 bytes are"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("folder", ["", "runs/shots"])
def test_the_message_names_folder_need_and_rest_and_the_next_run_is_the_same(host, small_disk, tmp_path, name, folder):
    write, needed = WRITERS[name]
    path = small_disk / folder / name
    kept = small_disk / "finished.avi"
    kept.write_bytes(b"finished")
    with pytest.raises(OSError) as caught:
        write(path)
    message = str(caught.value)
    assert caught.value.errno == errno.ENOSPC and "\n" not in message and len(message) < 400 + len(str(path))
    assert message.startswith(f"There is no room for {name} in {path.parent}: {needed} needed, ")
    assert "bytes were written and" in message and "are left. Make room there and run again" in message
    assert not path.exists() and not list(small_disk.rglob("*.part"))
    assert kept.read_bytes() == b"finished"
    subprocess.run(["mount", "-o", f"remount,size={40 * ROOM}k", small_disk], check=True)
    write(path)
    write(tmp_path / name)
    if name.endswith("safetensors"):
        written, expected = load_file(path), load_file(tmp_path / name)
        assert all(torch.equal(written[key], expected[key]) for key in expected) and written.keys() == expected.keys()
    else:
        assert path.read_bytes() == (tmp_path / name).read_bytes()


def test_a_disk_without_any_room(small_disk):
    """Not even for the folder's own entry or the file's first byte."""
    with open(small_disk / "others", "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(os.urandom(1024))
    for name, (write, _) in WRITERS.items():
        if name != "tokens.safetensors":
            with pytest.raises(OSError, match=f"There is no room for {name} in .* and 0 are left"):
                write(small_disk / "new" / name)


def test_other_errors_are_not_reported_as_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match="^another fault$"), files.appearing(tmp_path / "a.npy") as unfinished:
        unfinished.write_bytes(b"begun")
        raise ValueError("another fault")
    assert not list(tmp_path.iterdir())
