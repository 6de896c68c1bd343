"""A run that drifts stops at the chunk where it does, at the same one each time, and keeps what was made before."""

import pytest
import torch
from harness import extending
from harness.chunks import chunk_inputs, noise_images

CLIP, CHUNK, OVERLAP, CHUNKS = 6, 6, 3, 5
NEW = CHUNK - OVERLAP


def brighter(frames: torch.Tensor) -> torch.Tensor:
    return frames + 0.02


def softer(frames: torch.Tensor) -> torch.Tensor:
    images = frames.movedim(-1, 1)
    return (0.9 * images + 0.1 * torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)).movedim(
        1, -1
    )


def another(frames: torch.Tensor) -> torch.Tensor:
    """A step towards another image."""
    return frames.lerp(noise_images(1, 9), 0.2)


def same(frames: torch.Tensor) -> torch.Tensor:
    return frames


def sampled(host, folder, change, limits: dict, color_match=0.0, number=0):
    """(how many chunks are in range, the departure, the store) of chunks whose every frame is `change` of the one
    before."""
    from storyreel.host.extend import extend
    from storyreel.host.extend.drift import DriftLimits, DriftWatch
    from storyreel.host.extend.families import StreamingT2VExtender
    from storyreel.host.video import file

    class Changing(StreamingT2VExtender):
        def generate(self, number, before, anchor, callback=None):
            frames = list(before)
            while len(frames) < self.chunk_length:
                frames.append(change(frames[-1][None])[0])
            return torch.stack(frames)

    inputs = chunk_inputs(host, "streaming_t2v", chunk_length=CHUNK, overlap=OVERLAP)
    extender = Changing(inputs)
    clip = 0.5 * noise_images(1).expand(CLIP, -1, -1, -1)
    start = extend.read_start(file.open_video(clip, 8.0), OVERLAP, number)
    store = extend.Store(folder, [f"{number:012}" for number in range(CHUNKS)])
    progress = extend.Progress(inputs.model, CHUNKS, 2, None)
    with torch.no_grad():
        watch = DriftWatch(DriftLimits(**limits), start.frame, inputs.clip_vision)
        return *extend.sample_chunks(extender, start, store, color_match, watch, progress), store


@pytest.mark.parametrize(
    "change, limits, kept, text",
    [
        (brighter, dict(max_color_drift=15.0), 2, "red +16.0 % (max_color_drift 15), green +16.0 %"),
        (softer, dict(max_sharpness_drift=10.0), 2, "sharpness -"),
        (another, dict(min_likeness=0.9), 2, "likeness 0."),
        (brighter, dict(max_sharpness_drift=10.0), CHUNKS, None),
        (softer, dict(max_color_drift=10.0), CHUNKS, None),
        (same, dict(max_color_drift=0.5, max_sharpness_drift=0.5, min_likeness=0.999), CHUNKS, None),
    ],
)
def test_a_planted_drift_stops_the_run(host, tmp_path, change, limits, kept, text):
    """And no other limit does. A finished run stops at the same chunk as one that samples."""
    found, departure, store = sampled(host, tmp_path, change, limits)
    assert found == kept
    assert (departure is None) == (text is None)
    if text is not None:
        assert departure.text.startswith(text), departure.text
        assert store.finished() == kept + 1  # the chunk that drifts is on disk, for another limit
        written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        again, resumed, _ = sampled(host, tmp_path, change, limits)
        assert (again, resumed) == (kept, departure)
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
        assert sampled(host, tmp_path, change, {name: 0.0 for name in limits} | dict(max_color_drift=99.0))[0] == CHUNKS


def test_the_frame_that_leaves_the_range(host, tmp_path):
    """Chunks of 3 new frames, each 2 % brighter: the mean of chunk 3 is 16 %, of which the second frame passes 15."""
    kept, departure, _ = sampled(host, tmp_path, brighter, dict(max_color_drift=15.0))
    assert (kept, departure.frame) == (2, 1)


def test_color_match_holds_a_drift(host, tmp_path):
    assert sampled(host, tmp_path, brighter, dict(max_color_drift=5.0), color_match=1.0)[0] == CHUNKS


def test_what_cannot_be_measured_is_refused(host):
    from storyreel.host.extend.drift import DriftLimits, DriftWatch

    with pytest.raises(ValueError, match="min_likeness needs an image encoder: connect clip_vision"):
        DriftLimits(min_likeness=0.5).check(None)
    with pytest.raises(ValueError, match="max_sharpness_drift is set, but the anchor frame has one color"):
        DriftWatch(DriftLimits(max_sharpness_drift=5.0), torch.full((64, 64, 3), 0.5), None)
    assert not DriftLimits() and DriftLimits(min_likeness=0.5)


@pytest.fixture(scope="module")
def world(host):
    path = extending.write_model(host.base / "models")
    yield host
    path.unlink()


def test_in_a_graph(world):
    """The video ends before the chunk; with another limit, or the colors held, it goes on from what is on disk."""

    def extended(**changed):
        run = world.run(extending.extend(seed=31, chunks=2, output_images=True, **changed))
        return run.values["extend"][1], " ".join(run.outputs.get("extend", {}).get("text", []))

    whole, text = extended()
    assert len(whole) == 3 + 2 * NEW and "Stopped" not in text
    folder = world.base / "output" / "story" / "long"
    chunks = {path: path.stat().st_mtime_ns for path in folder.glob("*/chunk_*")}
    stopped, text = extended(max_color_drift=0.1)
    assert "Stopped at chunk 1 of 2, which drifts from frame 0 of the clip, at frame " in text
    assert torch.equal(stopped, whole[:3])
    assert torch.equal(extended(max_color_drift=100.0)[0], whole)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/chunk_*")} == chunks  # nothing was sampled
