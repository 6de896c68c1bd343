"""The chain from a story to a long film, its models put in by their loaders.

Storyworld's own video models are not trained yet: tiny ones of random weights stand in their places. What counts is
that all parts fit together, and that each does its part.
"""

import av
import pytest
import torch
from harness import dynamicrafter, streaming, workflows
from harness.tools import tools


@pytest.fixture(scope="module")
def graphs():
    with tools("graphs", "chain") as modules:
        yield modules.chain


@pytest.fixture(scope="module")
def toys(host, graphs, tmp_path_factory):
    """The host, with the stand-ins among Storyworld's files."""
    import folder_paths
    from storyreel.host import storyworld

    folder = tmp_path_factory.mktemp("toys")
    frames = workflows.SHOT["frames"]
    dynamicrafter.write_storyworld(folder / graphs.TOY_VIDEO, frames, image_tokens=3, dim_head=16, head_channels=32)
    streaming.write_storyworld(folder / graphs.TOY_STREAMING)
    with pytest.MonkeyPatch.context() as patch:
        known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
        patch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(folder), *known[0]], known[1]))
        yield host


def small(graph, host, **extending) -> dict:
    prompt = workflows.prompt_of(graph, host.nodes)
    for id, inputs in workflows.small(prompt, seed=5).items():
        prompt[id]["inputs"].update(inputs)
    prompt[workflows.find(prompt, "StoryReelExtendVideo")]["inputs"].update(extending)
    return prompt


def played(host, run) -> list[tuple[int, int]]:
    """The sizes of the frames of the film that was saved."""
    (saved,) = run.outputs["50"]["images"]
    with av.open(str(host.base / "output" / saved["subfolder"] / saved["filename"])) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def test_a_story_becomes_a_long_film_that_is_refined(toys, graphs):
    """Two pictures, a shot of each, two chunks of the streaming model, and all of it refined by that model."""
    prompt = small(graphs.storyworld_story_to_long_video(), toys)
    run = toys.run(prompt)
    shots, long = (
        run.values[workflows.find(prompt, f"StoryReel{name}")][0] for name in ("AnimateStory", "ExtendVideo")
    )
    count = 2 * workflows.SHOT["frames"]
    added = workflows.LONG["chunks"] * (workflows.LONG["chunk_frames"] - workflows.LONG["overlap"])
    rough, fine = run.values["40"][0], run.values["48"][0]
    assert shots.get_frame_count() == count and long.get_frame_count() == count + added == len(rough)
    assert torch.equal(rough[:count], shots.get_components().images)
    assert fine.shape == rough.shape and not torch.equal(fine, rough)
    assert played(toys, run) == [(64, 64)] * (count + added)


def test_the_loader_says_which_model_goes_on(toys, graphs):
    """The same chain by the model of shots, from the last frame; nothing refines."""
    prompt = small(graphs.storyworld_story_to_long_video(graphs.GOES_ON), toys, overlap=1)
    run = toys.run(prompt)
    count = 2 * workflows.SHOT["frames"] + workflows.LONG["chunks"] * (workflows.LONG["chunk_frames"] - 1)
    assert played(toys, run) == [(64, 64)] * count
    assert workflows.find_all(prompt, "StoryReelRandomizedBlending") == []


def test_what_the_toys_lack_is_said(graphs):
    notes = [graphs.storyworld_story_to_long_video(longer).note for longer in (graphs.REMEMBERS, graphs.GOES_ON)]
    assert "SDEdit" in notes[0] and "MS-Vid2Vid, has no counterpart" in notes[0] and "not refined" in notes[1]
