"""The chain from a story to a long video, with each model from its loader.

Tiny video models of random weights replace Storyworld's own: all parts fit together, and each does its part.
"""

import av
import pytest
import torch
from harness import dynamicrafter, motion, streaming, workflows
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.semantic_motion.config import PredictorConfig

NAME = "storyworld_story_to_long_video"
MOTION_GROUP = "Semantic Motion"
GRAPH = {node["id"]: node for node in workflows.workflow(NAME)["nodes"]}  # the saved nodes
VIDEO_MODEL, STREAMING_MODEL = (GRAPH[id]["widgets_values"][0] for id in (20, 30))


@pytest.fixture(scope="module")
def demo_host(host, tmp_path_factory):
    """The host, with the stand-ins among Storyworld's files."""
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.common import folders

    folder = tmp_path_factory.mktemp("stand_ins")
    frames = workflows.SHOT["frames"]
    dynamicrafter.write_storyworld(folder / VIDEO_MODEL, frames, image_tokens=3, dim_head=16, head_channels=32)
    streaming.write_storyworld(folder / STREAMING_MODEL)
    config, width = storyworld.read_part("unet")[1]["unet"], 96  # of Storyworld's towers
    channels = config["model_channels"]
    modules = MotionConfig(((channels,),) * 2, ((channels,) * 2,) * 2, channels, 32)
    motion.write_module(folder / "animatediff_models" / "storyworld_motion_module.safetensors", modules)
    motion.write_adapter(folder / "ipadapter" / "storyworld_ip_adapter.safetensors", width=width, layers=[channels] * 7)
    predictor = PredictorConfig(tokens=motion.TOKENS, token_width=width, width=32, depth=1, heads=2, frames=20)
    motion.write_predictor(folder / "semantic_motion" / "storyworld_predictor.safetensors", predictor)
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    motion.write_lora(folder / "loras" / storyworld.DOMAIN_ADAPTER, layer, channels)
    kinds = {kind: folder / kind for kind in ("animatediff_models", "ipadapter", "semantic_motion")}
    for kind in kinds:
        folders.file_names(kind)  # from now on the host has it in its list
    with pytest.MonkeyPatch.context() as patch:
        for kind, place in {**kinds, storyworld.FOLDER: folder}.items():
            known = folder_paths.folder_names_and_paths[kind]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(place), *known[0]], known[1]))
        yield host
    for kind in (*kinds, storyworld.FOLDER):  # the host would still list these files
        folder_paths.filename_list_cache.pop(kind, None)


def by_motion(name: str, muted: int | None = None) -> dict:
    """As a user does it: the group of semantic motion is not muted; another node may be."""
    graph = workflows.workflow(name)
    (group,) = (group for group in graph["groups"] if group["title"] == MOTION_GROUP)
    left, top, width, height = group["bounding"]
    for node in graph["nodes"]:
        x, y = node["pos"]
        inside = left <= x < left + width and top <= y < top + height
        assert inside == (node["mode"] == workflows.NEVER)
        node["mode"] = workflows.NEVER if node["id"] == muted else 0
    return graph


def small(graph: dict, **extending) -> dict:
    prompt = workflows.prompt_of(graph)
    for id, inputs in workflows.small(prompt, seed=5).items():
        prompt[id]["inputs"].update(inputs)
    prompt[workflows.find(prompt, "StoryReelExtendVideo")]["inputs"].update(extending)
    return prompt


def extended_by_dynamicrafter(graph: dict) -> dict:
    """The small prompt with the shots' model as the streaming model, and without refinement."""
    prompt = small(graph, overlap=1)
    loader = prompt["30"]["inputs"] | {"checkpoint": VIDEO_MODEL}
    prompt["30"] = {"class_type": "StoryReelDynamiCrafterLoader", "inputs": loader}
    prompt["33"]["inputs"]["eta"] = 0.0
    prompt["34"]["inputs"]["spacing"] = "uniform_trailing"
    prompt["39"]["inputs"]["video"] = ["35", 0]
    return {id: node for id, node in prompt.items() if int(id) not in range(40, 50)}


def saved_path(host, run) -> str:
    """The file that was saved."""
    (saved,) = run.outputs["50"]["images"]
    return str(host.base / "output" / saved["subfolder"] / saved["filename"])


def played(host, run) -> list[tuple[int, int]]:
    """The sizes of the saved video's frames."""
    with av.open(saved_path(host, run)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def subtitles(host, run) -> list[tuple[str, float]]:
    """(text, second of its start) of the saved video's subtitles."""
    with av.open(saved_path(host, run)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.dts is not None]
        return [(bytes(p)[2:].decode(), float(p.pts * p.time_base)) for p in packets if len(bytes(p)) > 2]


def test_a_story_becomes_a_long_video_that_is_refined(demo_host):
    """Two images, one shot of each, two chunks of the streaming model, and all frames refined by that model."""
    prompt = small(workflows.workflow(NAME))
    run = demo_host.run(prompt)
    shots, long = (
        run.values[workflows.find(prompt, f"StoryReel{name}")][0] for name in ("AnimateStory", "ExtendVideo")
    )
    count = 2 * workflows.SHOT["frames"]
    added = workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - workflows.LONG["overlap"])
    rough, fine = run.values["40"][0], run.values["48"][0]
    assert shots.get_frame_count() == count and long.get_frame_count() == count + added == len(rough)
    assert torch.equal(rough[:count], shots.get_components().images)
    assert fine.shape == rough.shape and not torch.equal(fine, rough)
    assert played(demo_host, run) == [(64, 64)] * (count + added)
    half = workflows.SHOT["frames"] / 8  # each image's shot at 8 frames a second
    assert subtitles(demo_host, run) == [("Pim had never seen the sea.", 0.0), ("Through the town,", half)]


def test_the_loader_decides_which_model_extends(demo_host):
    """The same chain with the shots' model from the last frame, without refinement."""
    prompt = extended_by_dynamicrafter(workflows.workflow(NAME))
    run = demo_host.run(prompt)
    count = 2 * workflows.SHOT["frames"] + workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - 1)
    assert played(demo_host, run) == [(64, 64)] * count
    assert workflows.find_all(prompt, "StoryReelRandomizedBlending") == []
    assert len(subtitles(demo_host, run)) == 2


def along_motion(pictures: int) -> dict:
    prompt = extended_by_dynamicrafter(by_motion(NAME))
    for id, text in (("2", "scenes"), ("12", "captions")):
        values = [value for value in GRAPH[int(id)]["widgets_values"] if "\n" in value]
        prompt[id]["inputs"][text] = "\n".join(values[0].splitlines()[:pictures])
    return prompt


def test_shots_follow_predicted_motion_where_that_is_chosen(demo_host):
    """Three images, two transitions. DynamiCrafter's branch is in the graph and does not run. A run that ended after
    the first transition resumes with the second."""
    prompt = along_motion(pictures=3)
    (maker,) = workflows.find_all(prompt, "StoryReelAnimateStoryByMotion")
    prompt[maker]["inputs"]["steps"] = 7

    def sampled(run) -> int:
        return sum(kind == "progress" and data["value"] == data["max"] == 7 for kind, data in run.events)

    kept = demo_host.base / "output" / "story" / "shots"
    before = set(kept.glob("*"))
    run = demo_host.run(prompt)
    (folder,) = set(kept.glob("*")) - before
    first, second = sorted(folder.glob("shot_*.avi"))
    (whole,) = folder.glob("all_*.avi")
    stamp = first.stat().st_mtime_ns
    second.unlink()
    whole.unlink()
    resumed = demo_host.run(prompt)
    assert (sampled(run), sampled(resumed)) == (2, 1) and first.stat().st_mtime_ns == stamp
    both = (each.values["28"][0].get_components().images for each in (run, resumed))
    assert torch.equal(*both)
    count = 2 * (workflows.SHOT["frames"] - 1) + 1
    added = workflows.LONG["chunks"] * (workflows.LONG["chunk_length"] - 1)
    messages = [shown["text"][0] for id, shown in run.outputs.items() if id.startswith(f"{maker}.")]
    assert len(messages) == 2 and all("predicted by" in text for text in messages)
    assert "26" in prompt and "26" not in run.values
    assert played(demo_host, run) == [(64, 64)] * (count + added) and len(subtitles(demo_host, run)) == 3
    shots = run.values["28"][0].get_components().images
    assert len(shots) == count and not torch.equal(shots[1], shots[workflows.SHOT["frames"]])


def test_one_picture_has_no_transition(demo_host):
    with pytest.raises(RuntimeError, match="keyframes holds 1 image; a transition needs at least 2"):
        demo_host.run(along_motion(pictures=1))


@pytest.mark.parametrize("chosen", ["DynamiCrafter", "motion", "motion without DynamiCrafter's file"])
def test_published_models_make_either_kind_of_shots(host, tmp_path, chosen):
    """The host accepts the graph if its model files are in their folders, and no others."""
    import folder_paths
    from storyreel.host.common import folders

    name = "story_to_long_video"
    graph = workflows.workflow(name)
    if chosen != "DynamiCrafter":
        graph = by_motion(name, muted=None if chosen == "motion" else 26)
    prompt = workflows.prompt_of(graph)
    active = [
        node for node in graph["nodes"] if str(node["id"]) in prompt and not (node["id"] == 20 and "26" not in prompt)
    ]
    wanted = {(model["name"], model["directory"]) for node in active for model in node["properties"].get("models", [])}
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("checkpoints", "diffusion_models", "clip_vision", "animatediff_models", "ipadapter"):
            folders.file_names(kind)
            (tmp_path / kind).mkdir()
            suffixes = folder_paths.folder_names_and_paths[kind][1]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], suffixes))
        for file, kind in wanted:
            (tmp_path / kind / file).touch()
        assert sorted(host.validate(prompt)) == ["50", "8"]


def test_of_two_videos_one_is_expected(host):
    saved = dict(video=["1", 0], filename_prefix="none", format="auto", codec="auto")
    prompt = {"1": ("StoryReelEitherVideo", {}), "2": ("SaveVideo", saved)}
    with pytest.raises(RuntimeError, match="Neither video nor override is connected; one of them is expected"):
        host.run({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in prompt.items()})


def test_what_the_included_model_lacks_is_in_the_note():
    (note,) = (node["widgets_values"][0] for node in GRAPH.values() if node["type"] == "MarkdownNote")
    assert "SDEdit" in note and "MS-Vid2Vid" in note
