"""Odd sides, sides of 1 and empty clips in everything that writes a video: exact, even by one pixel, or refused."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from storyreel.core.diffusion.autoregression import extend_by_chunks
from storyreel.core.motion.trajectory import Trajectory, timing
from storyreel.core.video import files
from storyreel.core.video.clips import join, pairs
from storyreel.core.video.sound import Sound

SIZES = [(65, 65), (1, 1), (1, 9), (9, 1), (300, 1), (3, 64), (64, 33)]  # height, width


def drawn(height: int, width: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, count: int = 3) -> torch.Tensor:
    """Images that H.264 keeps nearly as they are."""
    ramp = torch.linspace(0.2, 0.8, height)[:, None].expand(-1, width)
    return ramp[None, :, :, None].expand(count, -1, -1, 3).contiguous()


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec.name == "h264"
    return np.stack(list(files.read_frames(path)))


def assert_even(path, images: torch.Tensor) -> None:
    """The frames, with their last column and row twice where there is an odd number of them."""
    height, width = images.shape[1:3]
    frames = torch.from_numpy(decoded(path)).float() / 255
    assert frames.shape == (len(images), height + height % 2, width + width % 2, 3)
    expected = images[:, [*range(height), height - 1]][:, : height + height % 2]
    expected = expected[:, :, [*range(width), width - 1]][:, :, : width + width % 2]
    assert (frames - expected).abs().mean() < 0.02


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_our_own_files_hold_any_size_exactly(size, tmp_path):
    frames = drawn(*size)
    files.write_frames(tmp_path / "any.avi", frames, Fraction(8), Sound(np.zeros((1, 3000), np.float32), 8000))
    assert np.array_equal(np.stack(list(files.read_frames(tmp_path / "any.avi"))), frames)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_video_in_our_files_is_saved_as_h264(size, host, tmp_path):
    from storyreel.host.video.file import ExactVideo

    images = smooth(*size)
    path = tmp_path / "exact.avi"
    files.write_frames(path, files.to_bytes(images), Fraction(8), Sound(np.zeros((1, 3000), np.float32), 8000))
    video = ExactVideo(str(path))
    video.save_to(str(tmp_path / "saved.mp4"))
    assert_even(tmp_path / "saved.mp4", images)
    with av.open(str(tmp_path / "saved.mp4")) as container:
        assert container.streams.audio[0].codec.name == "aac" and container.streams.video[0].average_rate == 8
    assert video.get_components().images.shape == images.shape, "to every other node it is what it was"
    video.as_trimmed(1 / 8, 1 / 8).save_to(str(tmp_path / "part.mp4"))
    assert_even(tmp_path / "part.mp4", images[1:2])


class Clips:
    """Nodes whose output is the given images."""

    @staticmethod
    def of(*clips: torch.Tensor):
        from comfy_api.latest import io

        class Given(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="Given", inputs=[], outputs=[io.Image.Output(is_output_list=True)])

            @classmethod
            def execute(cls):
                return io.NodeOutput(list(clips))

        return Given


def saved(host, kinds: dict) -> tuple:
    """(the run, the path of the file from Save Video)"""
    save = dict(filename_prefix="odd", format="auto", codec="auto")
    kinds = kinds | {"save": ("SaveVideo", dict(video=[list(kinds)[-1], 0], **save))}
    run = host.run({name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in kinds.items()})
    (file,) = run.outputs["save"]["images"]
    return run, host.base / "output" / file["subfolder"] / file["filename"]


JOIN = dict(images=["given", 0], fps=8.0, shared_ends=True, loop=False)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_join_clips_to_save_video(size, host):
    """And the node shows once the size in the file."""
    clips = smooth(*size), smooth(*size)
    height, width = size
    with host.node(Clips.of(*clips)):
        run, path = saved(host, {"given": ("Given", {}), "join": ("StoryReelJoinClips", JOIN)})
    assert_even(path, torch.cat([clips[0], clips[1][1:]]))
    even = f"{width + width % 2} x {height + height % 2}"
    (line,) = run.outputs["join"]["text"]
    assert f"{width} x {height}" in line and even in line
    assert run.values["join"][1].shape[1:3] == size


def test_even_sides_are_saved_as_by_the_host(host, tmp_path):
    from comfy_api.latest import InputImpl, Types

    images = smooth(32, 48)
    with host.node(Clips.of(images)):
        run, path = saved(host, {"given": ("Given", {}), "join": ("StoryReelJoinClips", JOIN)})
    assert "join" not in run.outputs or "text" not in run.outputs["join"]
    plain = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(8)))
    plain.save_to(str(tmp_path / "plain.mp4"))
    assert np.array_equal(decoded(path), decoded(tmp_path / "plain.mp4"))


def test_ten_bits_a_channel_are_kept(host, tmp_path):
    from comfy_api.latest import InputImpl, Types
    from storyreel.host.video.even_sizes import with_any_sides

    if not hasattr(InputImpl.VideoFromComponents, "get_bit_depth"):
        pytest.skip("this ComfyUI saves 8 bits a channel")
    parts = Types.VideoComponents(images=smooth(33, 65), frame_rate=Fraction(8))
    with_any_sides(InputImpl.VideoFromComponents(parts, 10)).save_to(str(tmp_path / "deep.mp4"))
    with av.open(str(tmp_path / "deep.mp4")) as container:
        assert container.streams.video[0].format.components[0].bits == 10
    assert_even(tmp_path / "deep.mp4", smooth(33, 65))


def test_subtitles_of_a_video_with_odd_sides(host):
    """A video of the host, which alone cannot be saved: its encoder fails."""
    kinds = {
        "story": (
            "StoryReelScript",
            dict(characters="[Runa] a girl", scenes="[Runa] sits #It rains.", style="(No style)", negative=""),
        ),
        "given": ("Given", {}),
        "video": ("CreateVideo", dict(images=["given", 0], fps=8.0)),
        "subtitled": ("StoryReelSubtitles", dict(video=["video", 0], story=["story", 0])),
    }
    with host.node(Clips.of(smooth(33, 65))):
        run, path = saved(host, kinds)
    assert_even(path, smooth(33, 65))
    with av.open(str(path)) as container:
        assert [stream.codec.name for stream in container.streams.subtitles] == ["mov_text"]
    (line,) = run.outputs["subtitled"]["text"]
    assert "65 x 33" in line and "66 x 34" in line
    joined = kinds | {"video": ("StoryReelJoinClips", JOIN), "subtitled": kinds["subtitled"]}
    with host.node(Clips.of(smooth(33, 65))):
        run, path = saved(host, joined)
    assert_even(path, smooth(33, 65))
    assert len(run.outputs["video"]["text"]) == 1 and "text" not in run.outputs.get("subtitled", {}), "reported once"


# Nothing at all


@pytest.mark.parametrize(
    ("sentence", "make"),
    {
        "loop leaves out the last frame, and the clips hold 1": lambda: join([torch.zeros(1, 4, 4, 3)], loop=True),
        "loop leaves out the last .*hold 1": lambda: join([torch.zeros(1, 4, 4, 3)] * 3, loop=True),
        "there are no clips": lambda: join([]),
        "clip 2 holds no frames": lambda: join([torch.zeros(2, 4, 4, 3), torch.zeros(0, 4, 4, 3)]),
        "0 images make no transition": lambda: pairs(torch.zeros(0, 4, 4, 3)),
        "there are no frames": lambda: files.to_images([]),
        "overlap is 0": lambda: list(extend_by_chunks(torch.zeros(2, 1), None, 0, range(1), None)),
        "The motion has no frames": lambda: Trajectory(torch.zeros(0, 4, 8), "ip-plus"),
        "The shot has 0 frames": lambda: timing([0], 0),
    }.items(),
)
def test_what_is_empty_is_refused(sentence, make):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_file_of_no_frames_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"none.avi would hold no frames; at least 1 is expected"):
        files.write_frames(tmp_path / "none.avi", [], Fraction(8))
    assert list(tmp_path.iterdir()) == []


def test_join_clips_refuses_one_closed_frame(host):
    with host.node(Clips.of(smooth(8, 8, 1))), pytest.raises(RuntimeError, match="loop leaves out the last frame"):
        saved(host, {"given": ("Given", {}), "join": ("StoryReelJoinClips", JOIN | {"loop": True})})
