"""The published chains of chunks, computed as StoryReelExtendVideo does: in memory, on disk, and in its VIDEO."""

import pytest
import torch
from harness.golden import Golden, difference, files

SYSTEM = "streamingt2v"
BITS = 0.5 / 255  # rounding of frames on disk


LOGGED = {"ms": ("cam_frames", "anchor"), "svd": ("ctrl_frames", "svd_input_frame")}  # inputs of the data's network


@pytest.mark.parametrize("stopped", [False, True], ids=["unbroken", "stopped after each chunk"])
@pytest.mark.parametrize("name", LOGGED)
@torch.no_grad()
def test_a_published_chain(name, stopped, host, tmp_path):
    """The model is the data's linear network, which logs its inputs. "ms" counts the clip among the chunks."""
    (parameter,) = files(SYSTEM, f"autoregressive_{name}.safetensors")
    golden = Golden(parameter.values[0])
    from storyreel.core.video.files import to_images
    from storyreel.host.extend import extend
    from storyreel.host.extend.extender import ChunkInputs, Extender
    from storyreel.host.video import file

    length, memory = golden.value("F"), golden.value("n_cond")
    chunks = golden.value("n_autoregressive_generations") - (name == "ms")
    anchor = 0 if name == "ms" else int(golden.value("anchor"))
    lowest = 0.0 if name == "ms" else -1.0  # the network of "svd" works from -1 to 1
    inputs = []

    class LinearExtender(Extender):
        def generate(self, number, before, anchor, callback=None):
            before, anchor = (part * (1 - lowest) + lowest for part in (before, anchor))
            inputs.append((before.movedim(-1, 1), anchor.movedim(-1, 1)))
            places = torch.arange(length)
            drift = (0.05 * places / (length - 1))[:, None, None, None]
            frames = (0.8 * before[3 * places % memory] + 0.15 * anchor + drift).clamp(lowest, 1)
            return (frames - lowest) / (1 - lowest)

    models = dict(model=None, vae=None, sampler=None, sigmas=None)
    extender = LinearExtender(ChunkInputs(**models, seed=0, chunk_length=length, overlap=memory))
    first = (golden["in.first_chunk"].movedim(1, -1) - lowest) / (1 - lowest)
    start = extend.read_start(file.open_video(first, 8.0), extender.overlap, anchor)
    names, new = [f"{number:012}" for number in range(chunks)], []
    for there in range(1, chunks + 1) if stopped else [chunks]:
        store = extend.Store(tmp_path, names[:there])
        new += extend.generate_chunks(extender, start, store, color_match=0.0)

    expected = golden["out.video"] if name == "ms" else golden["out.video_0_255"] / 255
    output = torch.cat([first, *new]).movedim(-1, 1)
    assert difference(output, expected) <= 1e-5
    on_disk = to_images(extend.all_frames(start, store)).movedim(-1, 1)
    assert difference(on_disk, expected) <= BITS + 1e-5
    befores, anchors = (torch.stack(parts) for parts in zip(*inputs, strict=True))
    if name == "ms":
        befores, anchors = befores * 2 - 1, anchors * 2 - 1
    logged = [golden[f"log.{part}"] for part in LOGGED[name]]
    assert difference(befores, logged[0]) <= 1e-5
    assert difference(anchors.view_as(logged[1]), logged[1]) <= 1e-5
