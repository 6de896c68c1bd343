"""Animate Story shows its shot and step on the node; the progress text does not change the samples."""

import copy
import shutil
import struct

import pytest

STEPS, FRAMES = 2, 3


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def images(count: int) -> dict:
    batch = {f"images.image{number}": [f"p{number}", 0] for number in range(count)}
    single = dict(width=64, height=64, batch_size=1)
    return {"images": node("BatchImagesNode", **batch)} | {
        f"p{number}": node("EmptyImage", color=0x3060F0 * (number + 1) % 0xFFFFFF, **single) for number in range(count)
    }


def story(shots: dict) -> dict:
    return {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "text": node("CLIPTextEncode", clip=["world", 1], text="a blue hero waving in a meadow"),
        "none": node("CLIPTextEncode", clip=["world", 1], text=""),
        "shots": shots,
        "save": node("SaveVideo", video=["shots", 0], filename_prefix="progress", format="auto", codec="auto"),
        **images(3),
    }


SHARED = dict(clip_vision=["world", 3], vae=["world", 2], positive=["text", 0], negative=["none", 0])
SHARED |= dict(keyframes=["images", 0], width=64, height=64, frames=FRAMES, fps=8.0, seed=3)


def by_dynamicrafter() -> dict:
    settings = dict(mode="interpolate", fs=0, cfg_text=2.0, cfg_image=2.0, cfg_rescale=0.0, sampler=["sampler", 0])
    shots = node("StoryReelAnimateStory", model=["model", 0], sigmas=["sigmas", 0], **settings, **SHARED)
    loader = dict(checkpoint="storyworld_video.safetensors", model_type="auto", precision="auto")
    return story(shots) | {
        "model": node("StoryReelDynamiCrafterLoader", **loader),
        "sampler": node("StoryReelDDIMSampler", eta=1.0, keep_clean=False),
        "sigmas": node("StoryReelDDIMSigmas", model=["model", 0], spacing="uniform_trailing", steps=STEPS),
    }


def by_motion() -> dict:
    names = {part: f"storyworld_{part}.safetensors" for part in ("ip_adapter", "motion_module", "predictor")}
    decoder = {"decoder": "IP-Adapter", "decoder.motion_module": names["motion_module"], "decoder.strength": 1.0}
    decoder |= {"decoder.ip_adapter": names["ip_adapter"], "decoder.noise_schedule": "the model's"}
    settings = dict(predictor=["predictor", 0], steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="normal")
    chosen = {
        "predictor": names["predictor"],
        "token_space": "IP-Adapter",
        "token_space.ip_adapter": names["ip_adapter"],
    }
    return story(node("StoryReelAnimateStoryByMotion", model=["clips", 0], **settings, **decoder, **SHARED)) | {
        "clips": node("StoryReelLoadStoryworld", precision="auto", domain_adapter=True),
        "predictor": node("StoryReelMotionPredictorLoader", **chosen),
    }


MAKERS = pytest.mark.parametrize("make", [by_dynamicrafter, by_motion])
EVERY_STEP = [f"shot {shot} of 2, step {step} of {STEPS}" for shot in (1, 2) for step in range(1, STEPS + 1)]


@pytest.fixture
def output(host, tmp_path):
    """A folder for the host's output that starts empty."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def progress_texts(run) -> list[tuple[str, str]]:
    """(node, text) of every progress message to the page."""
    from server import BinaryEventTypes

    messages = []
    for kind, data in run.events:
        if kind == BinaryEventTypes.TEXT:
            (length,) = struct.unpack(">I", data[:4])
            messages.append((data[4 : 4 + length].decode(), data[4 + length :].decode()))
    return messages


def kept(output) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.glob("story/shots/*/*.avi")}


@MAKERS
def test_each_step_of_each_shot_is_shown_on_the_node(host, output, make):
    run = host.run(copy.deepcopy(make()))
    assert progress_texts(run) == [("shots", text) for text in EVERY_STEP]
    (second,) = output.glob("story/shots/*/shot_002_*.avi")
    second.unlink()
    (whole,) = output.glob("story/shots/*/all_*.avi")
    whole.unlink()
    resumed = host.run(copy.deepcopy(make()))
    assert progress_texts(resumed) == [("shots", text) for text in ("1 of 2 shots were on disk", *EVERY_STEP[STEPS:])]
    assert progress_texts(host.run(copy.deepcopy(make()))) == [("shots", "2 of 2 shots were on disk")]


@MAKERS
def test_the_shots_are_those_of_the_plain_model(host, output, make, monkeypatch):
    """Bit by bit, under the same names: run keys ignore the progress text."""
    from storyreel.nodes import shot_graph

    host.run(copy.deepcopy(make()))
    files = kept(output)
    shutil.rmtree(output / "story")
    with monkeypatch.context() as patch:
        patch.setattr(shot_graph, "with_progress", lambda model, **_: model)
        silent = host.run(copy.deepcopy(make()))
    assert progress_texts(silent) == [] and kept(output) == files and len(files) == 3


def test_inside_another_expansion_the_users_node_shows_it(host, output):
    from comfy_api.latest import io
    from comfy_execution.graph_utils import GraphBuilder

    class Outer(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs, outputs = [io.Int.Input("number")], [io.Video.Output()]
            return io.Schema(node_id="TestOuter", enable_expand=True, inputs=inputs, outputs=outputs)

        @classmethod
        def execute(cls, number) -> io.NodeOutput:
            graph, nodes = GraphBuilder(), {}
            prompt = {id: entry for id, entry in by_dynamicrafter().items() if id != "save"}

            def add(id: str):
                if id not in nodes:
                    inputs = prompt[id]["inputs"]
                    linked = {
                        name: add(value[0]).out(value[1]) for name, value in inputs.items() if isinstance(value, list)
                    }
                    nodes[id] = graph.node(prompt[id]["class_type"], **{**inputs, **linked})
                return nodes[id]

            return io.NodeOutput(add("shots").out(0), expand=graph.finalize())

    with host.node(Outer) as name:
        save = dict(filename_prefix="progress", format="auto", codec="auto")
        run = host.run({"5:7": node(name, number=1), "save": node("SaveVideo", video=["5:7", 0], **save)})
    assert progress_texts(run) == [("5:7", text) for text in EVERY_STEP]
