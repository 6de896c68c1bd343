"""Pairs of images and joined clips, alone and through the host's list mapping."""

import numpy as np
import pytest
import torch
from harness.clips import TURNS, write_turned
from storyreel.core.video import files
from storyreel.core.video.clips import join, pairs


def clip(*values: float, size=(4, 6)) -> torch.Tensor:
    """Frames of one color each."""
    return torch.stack([torch.full((*size, 3), value) for value in values])


def shown(frames: torch.Tensor) -> list[float]:
    return [round(frame.mean().item(), 3) for frame in frames]


def test_pairs_are_neighbors():
    result = pairs(clip(0.1, 0.2, 0.3))
    assert [(shown(a), shown(b)) for a, b in result] == [([0.1], [0.2]), ([0.2], [0.3])]
    with pytest.raises(ValueError, match="1 image makes no transition; at least 2"):
        pairs(clip(0.1))


def test_a_shared_frame_is_kept_once():
    first, second = clip(0.1, 0.2, 0.3), clip(0.3, 0.4, 0.5)
    assert shown(join([first, second])) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert shown(join([first, second], shared_ends=False)) == [0.1, 0.2, 0.3, 0.3, 0.4, 0.5]
    assert shown(join([clip(0.1, 0.2, 0.1)], loop=True)) == [0.1, 0.2]


def test_clips_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="clip 1 is 6 x 4, clip 2 is 8 x 4; clips of one size"):
        join([clip(0.1), clip(0.1, size=(4, 8))])


def test_a_story_passes_through_list_mapping(host, tmp_path):
    """Three images become two transitions, which stock nodes process one by one, and one clip again."""
    joined = {"images": ["3", 0], "fps": 8, "shared_ends": True, "loop": False}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 3, "color": 0xFF0000}},
        "2": {"class_type": "StoryReelKeyframePairs", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["2", 0], "image2": ["2", 1]}},
        "4": {"class_type": "StoryReelJoinClips", "inputs": joined},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}},
    }
    run = host.run(prompt)
    assert len(run.values["2"][0]) == 2 and len(run.outputs["5"]["images"]) == 3
    video = run.values["4"][0][0] if isinstance(run.values["4"][0], list) else run.values["4"][0]
    assert float(video.get_components().frame_rate) == 8


@pytest.mark.parametrize("degrees", TURNS)
def test_frames_stand_upright(degrees, host, tmp_path):
    """Whatever rotation the file states: the coded image's right side, top and so on."""
    from comfy_api.latest import InputImpl
    from storyreel.host.video.file import decode

    turned = write_turned(tmp_path / "phone.mp4", degrees)
    coded = np.stack(list(files.read_frames(write_turned(tmp_path / "coded.mp4", 0))))
    frames = np.stack(list(files.read_frames(turned)))
    assert np.array_equal(frames, np.rot90(coded, -degrees // 90, axes=(1, 2)))
    assert np.array_equal(frames, np.stack(list(decode(InputImpl.VideoFromFile(str(turned))))))


@pytest.mark.parametrize("degrees", TURNS)
def test_frames_stand_as_in_the_hosts_load_video(degrees, host, tmp_path):
    from comfy_api.latest import InputImpl

    turned, plain = (write_turned(tmp_path / name, angle) for name, angle in (("phone.mp4", degrees), ("coded.mp4", 0)))
    loaded, coded = (InputImpl.VideoFromFile(str(file)).get_components().images for file in (turned, plain))
    if degrees and torch.equal(loaded, coded):
        pytest.skip("this ComfyUI's own Load Video shows frames as they are coded, whatever rotation the file states")
    frames = files.to_images(np.stack(list(files.read_frames(turned))))
    assert loaded.shape == frames.shape and (loaded - frames).abs().mean() < 0.02
