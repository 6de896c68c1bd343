"""The chain from a story to a long film, its models put in by their loaders.

Tiny video models of random weights stand in the places of Storyworld's own. What counts is that all parts fit together,
and that each does its part.
"""

from dataclasses import replace

import av
import pytest
import torch
from harness import dynamicrafter, motion, streaming, workflows
from harness.tools import tools
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.semantic_motion.config import PredictorConfig


@pytest.fixture(scope="module")
def graphs():
    with tools("graphs", "chain", "following") as modules:
        yield modules


@pytest.fixture(scope="module")
def toys(host, graphs, tmp_path_factory):
    """The host, with the stand-ins among Storyworld's files."""
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.common import folders

    folder = tmp_path_factory.mktemp("toys")
    frames, chain, following = workflows.SHOT["frames"], graphs.chain, graphs.following
    dynamicrafter.write_storyworld(folder / chain.TOY_VIDEO, frames, image_tokens=3, dim_head=16, head_channels=32)
    streaming.write_storyworld(folder / chain.TOY_STREAMING)
    config, width = storyworld.read_part("unet")[1]["unet"], 96  # of Storyworld's towers
    channels = config["model_channels"]
    modules = MotionConfig(((channels,),) * 2, ((channels,) * 2,) * 2, channels, 32)
    motion.write_module(folder / "animatediff_models" / following.TOY_MODULE, modules)
    motion.write_adapter(folder / "ipadapter" / following.TOY_ADAPTER, width=width, layers=[channels] * 7)
    predictor = PredictorConfig(tokens=motion.TOKENS, token_width=width, width=32, depth=1, heads=2, frames=20)
    motion.write_predictor(folder / "semantic_motion" / following.TOY_PREDICTOR, predictor)
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    motion.write_lora(folder / "loras" / storyworld.DOMAIN_ADAPTER, layer, channels)
    kinds = {kind: folder / kind for kind in ("animatediff_models", "ipadapter", "semantic_motion")}
    for kind in kinds:
        folders.file_names(kind)  # from now on the host knows of it
    with pytest.MonkeyPatch.context() as patch:
        for kind, place in {**kinds, storyworld.FOLDER: folder}.items():
            known = folder_paths.folder_names_and_paths[kind]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(place), *known[0]], known[1]))
        yield host
    for kind in (*kinds, storyworld.FOLDER):  # the host would go on listing what it found
        folder_paths.filename_list_cache.pop(kind, None)


def by_motion(graph, graphs, muted: str = ""):
    """As a user does it: the group of semantic motion is no longer muted, and maybe another node is."""
    (group,) = (group for group in graph.groups if group.title == graphs.following.BY_MOTION)
    assert set(group.nodes) == {id for id, node in graph.nodes.items() if node.muted}
    return replace(graph, nodes={id: replace(node, muted=id == muted) for id, node in graph.nodes.items()})


def small(graph, host, **extending) -> dict:
    prompt = workflows.prompt_of(graph, host.nodes)
    for id, inputs in workflows.small(prompt, seed=5).items():
        prompt[id]["inputs"].update(inputs)
    prompt[workflows.find(prompt, "StoryReelExtendVideo")]["inputs"].update(extending)
    return prompt


def film(host, run) -> str:
    """The file that was saved."""
    (saved,) = run.outputs["50"]["images"]
    return str(host.base / "output" / saved["subfolder"] / saved["filename"])


def played(host, run) -> list[tuple[int, int]]:
    """The sizes of the frames of the film that was saved."""
    with av.open(film(host, run)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def told(host, run) -> list[tuple[str, float]]:
    """(text, second at which it is seen) of the film that was saved."""
    with av.open(film(host, run)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.dts is not None]
        return [(bytes(p)[2:].decode(), float(p.pts * p.time_base)) for p in packets if len(bytes(p)) > 2]


def test_a_story_becomes_a_long_film_that_is_refined(toys, graphs):
    """Two pictures, a shot of each, two chunks of the streaming model, and all of it refined by that model."""
    prompt = small(graphs.chain.storyworld_story_to_long_video(), toys)
    run = toys.run(prompt)
    shots, long = (
        run.values[workflows.find(prompt, f"StoryReel{name}")][0] for name in ("AnimateStory", "ExtendVideo")
    )
    count = 2 * workflows.SHOT["frames"]
    added = workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - workflows.LONG["overlap"])
    rough, fine = run.values["40"][0], run.values["48"][0]
    assert shots.get_frame_count() == count and long.get_frame_count() == count + added == len(rough)
    assert torch.equal(rough[:count], shots.get_components().images)
    assert fine.shape == rough.shape and not torch.equal(fine, rough)
    assert played(toys, run) == [(64, 64)] * (count + added)
    half = workflows.SHOT["frames"] / 8  # each picture's shot at 8 frames a second
    assert told(toys, run) == [("Pim had never seen the sea.", 0.0), ("Through the town,", half)]


def test_the_loader_says_which_model_goes_on(toys, graphs):
    """The same chain by the model of shots, from the last frame; nothing refines."""
    prompt = small(graphs.chain.storyworld_story_to_long_video(graphs.chain.GOES_ON), toys, overlap=1)
    run = toys.run(prompt)
    count = 2 * workflows.SHOT["frames"] + workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - 1)
    assert played(toys, run) == [(64, 64)] * count
    assert workflows.find_all(prompt, "StoryReelRandomizedBlending") == []
    assert len(told(toys, run)) == 2


def along_motion(graphs, host, pictures: int) -> dict:
    graph = by_motion(graphs.chain.storyworld_story_to_long_video(graphs.chain.GOES_ON), graphs)
    prompt = small(graph, host, overlap=1)
    for id, text in (("2", "scenes"), ("12", "captions")):
        prompt[id]["inputs"][text] = "\n".join(graph.nodes[id].inputs[text].splitlines()[:pictures])
    return prompt


def test_shots_follow_predicted_motion_where_that_is_chosen(toys, graphs):
    """Three pictures, two transitions. DynamiCrafter's way is there, and is not gone. Where a run ended after the first
    transition, the next one begins with the second."""
    prompt = along_motion(graphs, toys, pictures=3)
    (maker,) = workflows.find_all(prompt, "StoryReelAnimateStoryByMotion")
    prompt[maker]["inputs"]["steps"] = 7

    def sampled(run) -> int:
        return sum(kind == "progress" and data["value"] == data["max"] == 7 for kind, data in run.events)

    kept = toys.base / "output" / "story" / "shots"
    before = set(kept.glob("*"))
    run = toys.run(prompt)
    (folder,) = set(kept.glob("*")) - before
    first, second = sorted(folder.glob("shot_*.avi"))
    (whole,) = folder.glob("all_*.avi")
    stamp = first.stat().st_mtime_ns
    second.unlink()
    whole.unlink()
    resumed = toys.run(prompt)
    assert (sampled(run), sampled(resumed)) == (2, 1) and first.stat().st_mtime_ns == stamp
    both = (each.values["28"][0].get_components().images for each in (run, resumed))
    assert torch.equal(*both)
    count = 2 * (workflows.SHOT["frames"] - 1) + 1
    added = workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - 1)
    said = [shown["text"][0] for id, shown in run.outputs.items() if id.startswith(f"{maker}.")]
    assert len(said) == 2 and all("predicted by" in text for text in said)
    assert "26" in prompt and "26" not in run.values
    assert played(toys, run) == [(64, 64)] * (count + added) and len(told(toys, run)) == 3
    shots = run.values["28"][0].get_components().images
    assert len(shots) == count and not torch.equal(shots[1], shots[workflows.SHOT["frames"]])


def test_one_picture_has_no_transition(toys, graphs):
    with pytest.raises(RuntimeError, match="keyframes holds 1 picture; a transition needs at least 2"):
        toys.run(along_motion(graphs, toys, pictures=1))


@pytest.mark.parametrize("chosen", ["DynamiCrafter", "motion", "motion without DynamiCrafter's file"])
def test_published_models_make_either_kind_of_shots(host, graphs, tmp_path, chosen):
    """The host takes the graph where the files that it asks for are in their folders, and no others."""
    import folder_paths
    from storyreel.host.common import folders

    graph = graphs.chain.story_to_long_video()
    if chosen != "DynamiCrafter":
        graph = by_motion(graph, graphs, muted="" if chosen == "motion" else "26")
    prompt = workflows.prompt_of(graph, host.nodes)
    wanted = {model for id, node in graph.nodes.items() if not node.muted for model in node.models}
    if "26" not in prompt:
        wanted -= set(graph.nodes["20"].models)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("checkpoints", "diffusion_models", "clip_vision", "animatediff_models", "ipadapter"):
            folders.file_names(kind)
            (tmp_path / kind).mkdir()
            suffixes = folder_paths.folder_names_and_paths[kind][1]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], suffixes))
        for address, kind in wanted:
            (tmp_path / kind / address.rpartition("/")[2]).touch()
        assert sorted(host.validate(prompt)) == ["50", "8"]


def test_of_two_videos_one_is_expected(host):
    saved = dict(video=["1", 0], filename_prefix="none", format="auto", codec="auto")
    prompt = {"1": ("StoryReelEitherVideo", {}), "2": ("SaveVideo", saved)}
    with pytest.raises(RuntimeError, match="nothing is linked to video and instead; one of them is expected"):
        host.run({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in prompt.items()})


def test_what_the_toys_lack_is_said(graphs):
    notes = [
        graphs.chain.storyworld_story_to_long_video(longer).note
        for longer in (graphs.chain.REMEMBERS, graphs.chain.GOES_ON)
    ]
    assert "SDEdit" in notes[0] and "MS-Vid2Vid, has no counterpart" in notes[0] and "not refined" in notes[1]
