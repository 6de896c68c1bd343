"""Measure Video on a real host: real clips as files and as frames, its report, its curves and its JSON file."""

import io
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from harness import clips
from harness.encoders import image_encoder
from storyreel.core.metrics.motion import Motion
from storyreel.core.metrics.reductions import mawe_frames

PROMPT = "Pim waves in the city"


@pytest.fixture(scope="module")
def carphone():
    return clips.frames(clips.CARPHONE, 24)


@pytest.fixture
def file():
    """file(name, ...): a VIDEO in a file of the host's kind."""
    from comfy_api.latest import InputImpl

    return lambda name, **trim: InputImpl.VideoFromFile(str(clips.path_of(name)), **trim)


@pytest.fixture
def output(host, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def measure(video, **changes):
    """(report, plot, slice, what the JSON file holds)."""
    from storyreel.nodes.video_metrics import StoryReelMeasureVideo

    inputs = dict(chunk_length=0, overlap=8, prompt="", filename_prefix="story/measured", slice_height=0.5)
    words, plot, slice, path = StoryReelMeasureVideo.execute(video=video, **(inputs | changes)).result
    return words, plot, slice, json.loads(Path(path).read_text(), parse_constant=pytest.fail)


@pytest.fixture
def squares(host, monkeypatch):
    """squares(side): the flow on smaller squares than the published ones."""
    from storyreel.host.metrics import video_metrics

    return lambda side: monkeypatch.setattr(video_metrics, "Motion", partial(Motion, side=side))


@pytest.fixture
def quick(squares):
    """For tests that look at something else than the flow."""
    squares(64)


def test_a_file_is_read_as_the_host_reads_it(host, file):
    """Whole and trimmed."""
    from storyreel.host.video.frames import frames_of

    for name, trim in ((clips.CARPHONE, {}), (clips.CARPHONE, dict(start_time=1.0, duration=1.5))):
        video = file(name, **trim)
        count, frames = frames_of(video)
        expected = video.get_components().images
        assert torch.equal(torch.stack(list(frames)), expected) and abs(count - len(expected)) <= 1


def test_a_video_in_memory_is_read_twice_at_a_time(host):
    from comfy_api.latest import InputImpl
    from storyreel.host.video.frames import frames_of

    video = InputImpl.VideoFromFile(io.BytesIO(clips.path_of(clips.CARPHONE).read_bytes()))
    pairs = zip(frames_of(video)[1], frames_of(video)[1], strict=True)
    assert sum(torch.equal(*pair) for pair in pairs) == 120


def test_a_file_is_read_no_further_than_asked(host, file, monkeypatch):
    from storyreel.host.video import file as video_file
    from storyreel.host.video import frames as video_frames

    taken = []
    monkeypatch.setattr(video_file.np, "rot90", lambda picture, k: taken.append(k) or picture)
    _, frames = video_frames.frames_of(file(clips.BUNNY))
    next(frames), next(frames)
    assert len(taken) == 2


def test_everything_that_the_graph_has_is_measured(host, file, output, carphone):
    """A file in chunks of 16 and 8 frames, and the clip that a poor connection made it from; Storyworld's encoders."""
    from storyreel.host import storyworld
    from storyreel.host.metrics.features import embed_images, embed_prompts

    vision, clip = storyworld.load_clip_vision(), storyworld.load_clip()
    options = dict(chunk_length=16, overlap=8, clip_vision=vision, clip=clip, prompt=PROMPT)
    video, reference = file(clips.CARPHONE_BLURRED, duration=0.8), carphone
    words, plot, slice, found = measure(video, reference_image=carphone[5:7], reference_video=reference, **options)

    frames = video.get_components().images
    assert (found["frames"], found["width"], found["height"]) == (24, 176, 144)
    assert torch.allclose(slice[0], frames[:, 72], atol=0.5 / 255)
    assert plot.ndim == 4 and plot.shape[0] == 1 and 0 <= plot.min() < plot.max() <= 1
    assert all(len(values) == 24 for values in found["series"].values())
    assert found["borders"]["at"] == [16] and set(found["borders"]["jump_ratio"]) == {"change", "motion", "warp_error"}
    motion = found["series"]["motion"][1:]
    jump = motion[15] / ((sum(motion) - motion[15]) / 22)
    assert found["borders"]["jump_ratio"]["motion"] == pytest.approx(jump)

    rows = torch.nn.functional.normalize(embed_images(vision, frames), dim=-1)
    (prompt,) = torch.nn.functional.normalize(embed_prompts(clip, (PROMPT,), rows.shape[1]), dim=-1)
    likeness = found["likeness"]
    assert likeness["encoder"] == "Storyworld's CLIP" and "Cosines of Storyworld's CLIP" in words
    assert likeness["prompt_likeness"] == pytest.approx((rows @ prompt).mean().item(), abs=1e-5)
    assert likeness["consistency"] == pytest.approx((rows[1:] * rows[:-1]).sum(-1).mean().item(), abs=1e-5)
    (towards,) = torch.nn.functional.normalize(embed_images(vision, carphone[5:6]), dim=-1)
    assert likeness["anchor_likeness"] == pytest.approx((rows @ towards).mean().item(), abs=1e-5)

    assert 20 < found["fidelity"]["psnr"] < 30 and 0.6 < found["fidelity"]["ssim"] < 0.9
    difference = (frames.mean((1, 2)) - carphone[5].mean((0, 1)))[-8:].mean(0) * 100
    assert [found["drift"][name]["at_the_end"] for name in ("red", "green", "blue")] == pytest.approx(
        difference.tolist(), abs=1e-3
    )
    assert set(found["not_computed"]) == {
        "PIC by DreamSim", "LPIPS", "re-identification", "aesthetic score", "FVD, KVD"
    }  # fmt: skip
    for figure in (found["motion"]["mawe_paper"], found["motion"]["mawe_code"], likeness["prompt_likeness"]):
        assert f"{figure:.4g}" in words


def test_what_is_not_there_is_listed_and_the_rest_computed(output, quick, monkeypatch, carphone):
    for name in ("cv2", "scenedetect"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python itself does for a module that is not there
    words, _, _, found = measure(carphone, chunk_length=30)
    assert "cuts" not in found and "motion" not in found and found["drift"]["red"]
    listed = found["not_computed"]
    assert "pip install scenedetect-headless" in listed["SCuts"]
    assert "pip install opencv-python-headless" in listed["MAWE, flow deviation"]
    for score in ("CLIP text-image score", "frame consistency", "PIC"):
        assert "connect clip_vision" in listed[score]
    assert "no second chunk" in listed["chunk borders"]
    assert all(f"  {name}: {why}" in words for name, why in listed.items())
    assert all("\n" not in why and why.endswith(".") for why in listed.values())


def test_without_matplotlib_all_figures_are_there(output, quick, monkeypatch, caplog, carphone):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words, plot, _, found = measure(carphone)
    assert "SCuts" in words and found["drift"]["red"] and "pip install matplotlib" in caplog.text
    assert plot.ndim == 4 and plot.shape[-1] == 3 and plot.max() == 1


def test_raft_comes_from_the_hosts_own_loader(host, output, squares, carphone):
    """Random weights in a file, on squares of the least size that RAFT takes."""
    from torchvision.models.optical_flow import raft_large

    if "OpticalFlowLoader" not in host.nodes:
        pytest.skip("this ComfyUI has no Load Optical Flow")
    squares(128)
    torch.manual_seed(0)
    network = raft_large().eval()
    folder = host.base / "models" / "optical_flow"
    folder.mkdir(exist_ok=True)
    torch.save(network.state_dict(), folder / "raft.pth")
    (loaded,) = host.nodes["OpticalFlowLoader"].execute("raft.pth").result
    _, _, _, found = measure(carphone[:2], optical_flow=loaded)
    (folder / "raft.pth").unlink()

    first, second = mawe_frames((carphone[:2].movedim(-1, 1) * 255).round(), 128)
    with torch.no_grad():
        flow = network(first[None] / 127.5 - 1, second[None] / 127.5 - 1)[-1]
    assert found["motion"]["flow"].startswith("RAFT")
    assert found["motion"]["motion"] == pytest.approx(flow.norm(dim=1).mean().item(), rel=1e-4)


def test_what_does_not_fit_is_said(host, output, quick, tiny_checkpoint, carphone):
    with pytest.raises(ValueError, match="overlap is 16: a chunk of 16 frames has nothing new"):
        measure(carphone, chunk_length=16, overlap=16)
    with pytest.raises(ValueError, match="has 1 frame; at least 2"):
        measure(carphone[:1])
    with pytest.raises(ValueError, match="video holds no images"):
        measure(carphone[:0])
    with pytest.raises(ValueError, match="The reference ends after 3 frames"):
        measure(carphone, reference_video=carphone[:3])
    sd15 = host.load_checkpoint(tiny_checkpoint("sd15"))
    with pytest.raises(ValueError, match="optical_flow holds a BaseModel; RAFT from Load Optical Flow"):
        measure(carphone, optical_flow=sd15[0])
    with pytest.raises(ValueError, match="load the text encoder that was trained together with it"):
        measure(carphone, clip_vision=image_encoder(640), clip=sd15[1], prompt=PROMPT)


@pytest.mark.parametrize("prefix", ["../escaped", "/etc/escaped", "", "story/.."])
def test_the_file_stays_in_the_output_folder(output, prefix, carphone):
    with pytest.raises(ValueError, match="^Measure Video: filename_prefix"):
        measure(carphone, filename_prefix=prefix)
    assert list(output.rglob("*.json")) == [] == list(output.parent.glob("escaped*"))


def test_each_file_has_a_number(output, quick, carphone):
    for _ in range(2):
        measure(carphone[:3], filename_prefix="a/b")
    assert sorted(path.name for path in (output / "a").iterdir()) == ["b_00001_.json", "b_00002_.json"]


@pytest.mark.parametrize("as_frames", [False, True])
def test_it_stands_at_the_end_of_a_graph(host, output, quick, as_frames):
    """A VIDEO and an IMAGE go into the same input, and nothing needs to follow."""
    shutil.copy(clips.path_of(clips.CARPHONE), host.base / "input" / "clip.mp4")
    prompt = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "cut": {
            "class_type": "Video Slice",
            "inputs": {"video": ["load", 0], "start_time": 0.0, "duration": 0.5, "strict_duration": False},
        },
        "split": {"class_type": "GetVideoComponents", "inputs": {"video": ["cut", 0]}},
        "measure": {
            "class_type": "StoryReelMeasureVideo",
            "inputs": {
                "video": ["split" if as_frames else "cut", 0],
                **dict(chunk_length=8, overlap=0, prompt="", filename_prefix="graph", slice_height=0.0),
            },
        },
    }
    run = host.run(prompt)
    (words,) = run.outputs["measure"]["text"]
    assert "Jump at chunk borders at 8" in words and words == run.values["measure"][0]
    done = [(data["value"], data["max"]) for name, data in run.events if name == "progress"]
    assert done[-1][0] == done[-1][1] == 15
    assert (output / "graph_00001_.json").is_file()
