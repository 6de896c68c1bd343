"""A clip extended by each kind of model in the real host: what a chunk is told, what comes out, what is refused."""

import pytest
import torch
from harness import extending
from harness.extending import CHUNK, CLIP, OVERLAP, SIZE, extend

NEW = CHUNK - OVERLAP


@pytest.fixture(scope="module")
def world(host):
    """The host, with the tiny model among its files."""
    extending.write_model(host.base / "models")
    return host


def test_smoke(world):
    import time
    t=time.time()
    run = world.run(extend(images=True))
    print(time.time()-t)
    video, frames = run.values["extend"]
    print(frames.shape, video.get_frame_count(), video.get_frame_rate(), run.outputs)
    assert len(frames) == 3 + 5 * NEW
    print([d for k,d in run.events if k=="progress"])
    print(frames.std(), frames.mean((1,2)))
