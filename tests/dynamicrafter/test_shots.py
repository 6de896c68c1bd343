"""A story animated shot by shot: kept on disk, resumed after a crash, never sampled twice."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import websocket
from harness import workflows
from hosting.server import Server
from storyreel.core.video.files import read_frames, to_bytes, to_images, write_frames

STEPS, COLORS = 7, (0xFF0000, 0x00FF00, 0x0000FF, 0xFFFFFF)


def frames(count: int = 5, size=(34, 50), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_frames_come_back_from_disk_exactly(tmp_path):
    """Odd sizes too, which most codecs refuse."""
    for name, size in (("even", (34, 50)), ("odd", (33, 51))):
        written = frames(size=size)
        write_frames(tmp_path / "new folder" / f"{name}.avi", written, Fraction(25, 2))
        assert np.array_equal(np.stack(list(read_frames(tmp_path / "new folder" / f"{name}.avi"))), written)
    pictures = torch.rand(20, 6, 6, 3)
    assert torch.equal(to_images(to_bytes(pictures)), (pictures * 255).round() / 255)


def test_a_file_is_whole_or_not_there(tmp_path):
    def broken():
        yield from frames(2)
        raise KeyboardInterrupt

    path = tmp_path / "shot.avi"
    with pytest.raises(KeyboardInterrupt):
        write_frames(path, broken(), Fraction(8))
    assert list(tmp_path.iterdir()) == []


def test_shots_are_one_exact_video_that_players_show(host, tmp_path):
    from storyreel.host.story import shots

    parts = [frames(4, seed=seed) for seed in range(3)]
    run, names = "0" * 24, [f"shot_00{number}_0123456789ab" for number in (1, 2, 3)]
    for name, part in zip(names, parts, strict=True):
        write_frames(shots.shot_path(run, name), part, Fraction(8))
    video = shots.join(run, names, True, 8.0)
    expected = np.concatenate([parts[0], parts[1][1:], parts[2][1:]])
    components = video.get_components()
    assert torch.equal(components.images, to_images(expected)) and components.frame_rate == 8
    video.save_to(str(tmp_path / "video.mp4"))
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert container.streams.video[0].codec.name == "h264"
        assert len(list(container.decode(video=0))) == len(expected)
    assert len(shots.join(run, names, False, 8.0).get_components().images) == 12

    changed, names[2] = frames(4, seed=9), "shot_003_ba9876543210"
    write_frames(shots.shot_path(run, names[2]), changed, Fraction(8))
    again = shots.join(run, names, True, 8.0).get_components().images
    assert torch.equal(again[-3:], to_images(changed[1:])), "a shot that was sampled again is in the video"


def key(prompt: dict, node: str = "9", **values) -> str:
    """The run key of a node with an object, such as a MODEL, at its input `positive`."""
    from comfy_execution.graph import DynamicPrompt
    from storyreel.host.common import run_folder

    return run_folder.run_key(DynamicPrompt(prompt), node, {"positive": object(), **values})


def graph(**changes) -> dict:
    settings = {"model": "model.ckpt", "text": "a hero walks", "seed": 1, **changes}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": settings["model"]}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"text": settings["text"], "clip": ["1", 1]}},
        "9": {"class_type": "StoryReelAnimateStory", "inputs": {"positive": ["5", 0], "seed": settings["seed"]}},
    }


def test_a_runs_key_covers_all_that_it_reads(host):
    file = host.base / "models" / "checkpoints" / "model.ckpt"
    file.write_bytes(b"first")
    plain = key(graph())
    assert key(graph()) == plain
    changed = key(graph(), seed=2), key(graph(text="a hero runs")), key(graph(model="other.ckpt"))
    assert len({plain, *changed}) == 4
    unrelated = graph() | {"7": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    assert key(unrelated) == plain

    renumbered = graph()
    renumbered = {"a": renumbered["1"], "b": renumbered["5"], "c": renumbered["9"]}
    renumbered["b"]["inputs"]["clip"], renumbered["c"]["inputs"]["positive"] = ["a", 1], ["b", 0]
    assert key(renumbered, "c") == plain

    file.write_bytes(b"another model")
    assert key(graph()) != plain
    file.unlink()


def test_a_nodes_fingerprint_counts(host):
    """It covers what no input names, such as the styles file of Story Script."""
    graphs = [graph() for _ in range(3)]
    for prompt, fingerprint in zip(graphs, (["first"], ["second"], ["second"]), strict=True):
        prompt["5"]["is_changed"] = fingerprint
    first, second, again = map(key, graphs)
    assert second == again and len({first, second, key(graph())}) == 3


def test_a_model_patched_with_a_story_counts_by_what_patches_read_of_it(host):
    """Consistent Self-Attention reads who is in which frame: not captions, comments or unused characters."""

    def patched(scenes: str, characters: str = "[Pim] a blue hero") -> dict:
        inputs = dict(characters=characters, scenes=scenes, style="(No style)", negative="")
        return {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.ckpt"}},
            "2": {"class_type": "StoryReelScript", "inputs": inputs},
            "3": {"class_type": "StoryReelConsistentAttention", "inputs": {"model": ["1", 0], "story": ["2", 0]}},
            "9": {"class_type": "StoryReelAnimateStoryByMotion", "inputs": {"positive": ["3", 0]}},
        }

    plain = key(patched("[Pim] waves #Hello wrold\n[NC] rain"))
    assert key(patched("[Pim]  waves #Hello world\n\n[NC] rain")) == plain
    assert key(patched("[Pim] waves\n[NC] rain", "[Pim] a blue hero # my hero\n[Pom] another")) == plain
    assert key(patched("[Pim] waves\n[Pim] rain")) != plain != key(patched("[Pim] sits\n[NC] rain"))
    assert len({key(patched("[Nobody] walks")), key(patched("[Nobody] runs")), plain}) == 3, "a wrong script"


def test_a_file_by_its_whole_path_counts(host, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"first")
    plain = key(graph(text=str(file)))
    assert key(graph(text=str(file))) == plain
    file.write_bytes(b"another clip")
    assert key(graph(text=str(file))) != plain


def test_a_text_with_a_drive_letter_is_a_text(host, monkeypatch):
    """On Windows the host's own functions raise for it."""
    import folder_paths

    def refuse(kind, name):
        raise ValueError("path is on mount 'Q:', start on mount 'C:'")

    monkeypatch.setattr(folder_paths, "get_full_path", refuse)
    assert key(graph(text="Q: what now?")) != key(graph(text="Q: where to?"))


def test_the_seed_stays_when_run_is_pressed_again(host):
    """Otherwise files on disk would belong to another run. For every node of the pack with a seed."""
    ours = {id: node for id, node in host.nodes.items() if id.startswith("StoryReel")}
    seeds = {
        id: inputs["seed"][1] for id, node in ours.items() for inputs in node.INPUT_TYPES().values() if "seed" in inputs
    }
    assert len(seeds) >= 6 and "StoryReelRandomizedBlending" in seeds
    for id, seed in seeds.items():
        assert seed.get("control_after_generate", False) in (False, "fixed"), id


@pytest.mark.parametrize("id", ["StoryReelDynamiCrafterConditioning", "StoryReelAnimateStory"])
def test_the_size_is_that_of_the_512_checkpoints(host, id):
    inputs = host.nodes[id].INPUT_TYPES()["required"]
    assert (inputs["width"][1]["default"], inputs["height"][1]["default"]) == (512, 320)


def animation(seed: int = 5) -> dict:
    """Four images, three transitions, with the stand-ins of the published files."""
    prompt = workflows.small_prompt("story_to_shots", seed)
    node = prompt[workflows.find(prompt, "StoryReelAnimateStory")]
    pictures = {
        f"p{rgb}": {"class_type": "EmptyImage", "inputs": dict(width=96, height=64, batch_size=1, color=rgb)}
        for rgb in COLORS
    }
    batch = {f"images.image{i}": [id, 0] for i, id in enumerate(pictures)}
    node["inputs"]["keyframes"] = ["batch", 0]
    prompt[workflows.find(prompt, "StoryReelDDIMSigmas")]["inputs"]["steps"] = STEPS
    prompt |= pictures | {"batch": {"class_type": "BatchImagesNode", "inputs": batch}}
    del prompt[workflows.find(prompt, "SaveImage")]
    node["inputs"]["vae"] = ["vae", 0]
    prompt["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "vae.ckpt"}}
    return prompt


def animate(prompt: dict, **inputs) -> dict:
    """`prompt` with other inputs of Animate Story."""
    prompt[workflows.find(prompt, "StoryReelAnimateStory")]["inputs"].update(inputs)
    return prompt


def sampled(events: list) -> int:
    """How many shots were sampled to their end."""
    return len([data for kind, data in events if kind == "progress" and data["value"] == data["max"] == STEPS])


def played(client, result) -> list[bytes]:
    """The frames of the saved video."""
    assert result.status == "success", result.message
    ((video,),) = [shown["images"] for shown in result.outputs.values() if "images" in shown]
    with av.open(io.BytesIO(client.view(video))) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def test_killed_in_the_second_shot_it_resumes_there(stocked_server, base, tmp_path):
    """kill -9 of a real server; the first shot is not sampled again, and the video is that of an unbroken run."""
    from environment import ROOT
    from hosting.folders import link, make_base

    folder = make_base(tmp_path / "base", models=base / "models")
    link(folder / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
    broken = tmp_path / "broken"

    def written() -> list[Path]:
        return sorted(path for path in broken.glob("story/shots/*/*") if path.suffix == ".avi")

    with Server(folder, "--output-directory", str(broken)) as server:

        def kill(kind, data, result):
            if kind == "progress" and len(written()) == 1 and 1 < data["value"] < STEPS:
                server.kill()

        with pytest.raises((websocket.WebSocketException, OSError)):
            server.client().run(animation(), on_event=kill)
    (first,) = written()
    before = first.read_bytes(), first.stat().st_mtime_ns

    with Server(folder, "--output-directory", str(broken)) as server:
        client = server.client()
        resumed = client.run(animation())
        video = played(client, resumed)
        assert sampled(resumed.events) == 2
        assert (first.read_bytes(), first.stat().st_mtime_ns) == before
        whole, *shots = [path.name for path in written()]
        assert whole.startswith("all_") and [name[:8] for name in shots] == ["shot_001", "shot_002", "shot_003"]

    client = stocked_server.client()
    unbroken = client.run(animation())
    assert played(client, unbroken) == video and sampled(unbroken.events) == 3
    assert len(video) == 3 * (workflows.SHOT["frames"] - 1) + 1
    faster = client.run(animate(animation(), fps=12.0))
    assert len(played(client, faster)) == len(video) and sampled(faster.events) == 0, (
        "another rate samples nothing again"
    )
    exact = [np.stack(list(read_frames(path))) for path in written()]
    (run,) = {path.parent.name for path in written()}
    for path, frames in zip(written(), exact, strict=True):
        assert np.array_equal(
            np.stack(list(read_frames(stocked_server.base / "output" / "story/shots" / run / path.name))), frames
        )


def test_each_image_is_animated(stocked_server):
    """With a checkpoint that animates: one shot for each image, joined without shared frames."""
    prompt = animate(animation(seed=7), mode="animate", keyframes=["two", 0])
    pictures = {"images.image0": [f"p{COLORS[0]}", 0], "images.image1": [f"p{COLORS[1]}", 0]}
    prompt["two"] = {"class_type": "BatchImagesNode", "inputs": pictures}
    prompt[workflows.find(prompt, "StoryReelDynamiCrafterLoader")]["inputs"]["checkpoint"] = (
        "dynamicrafter_1024_stand_in.ckpt"
    )
    client = stocked_server.client()
    result = client.run(prompt)
    assert len(played(client, result)) == 2 * workflows.SHOT["frames"]
    assert sampled(result.events) == 2

    refused = client.run(animate(prompt, mode="interpolate"))
    assert refused.status == "error"
    assert "of type 1024, which does not support interpolate" in refused.message


def test_one_image_has_no_transition(stocked_server):
    prompt = animate(animation(seed=8), keyframes=[f"p{COLORS[0]}", 0])
    result = stocked_server.client().run(prompt)
    assert result.status == "error" and "keyframes holds 1 image; interpolate needs at least 2" in result.message
