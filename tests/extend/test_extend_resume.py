"""A long video on a real server: killed in a chunk and in a write, interrupted, changed, and resumed."""

import io
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from environment import ROOT
from harness import extending
from harness.killing import run_until
from hosting.folders import link, make_base
from hosting.server import Server
from PIL import Image
from safetensors.torch import save_file
from storyreel.core.video.files import read_frames

STEPS = 3
LORA = "tiny_streaming_lora.safetensors"


def prompt(**changed) -> dict:
    """Five chunks from a clip whose first frame is a file, by a model with a LoRA."""
    strength = changed.pop("strength", 0.5)
    graph = extending.extend(**{"model": ["lora", 0], "seed": 21} | changed)
    graph["sigmas"]["inputs"]["steps"] = STEPS
    graph["f0"] = extending.node("LoadImage", image="first.png")
    lora = dict(model=["load", 0], lora_name=LORA, strength_model=strength)
    return graph | {"lora": extending.node("LoraLoaderModelOnly", **lora)}


def write_first_frame(folder: Path, color: tuple):
    path, size = folder / "input" / "first.png", extending.SIZE
    Image.new("RGB", (size, size), color).save(path)
    os.utime(path, (sum(color), sum(color)))  # a copy on another machine is the same file


@pytest.fixture(scope="module")
def models(base) -> Path:
    """The hosts' models, with the tiny StreamingT2V and a LoRA for it."""
    extending.write_model(base / "models")
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    down, up = torch.randn(2, 96), torch.randn(64, 2)
    (base / "models" / "loras").mkdir(exist_ok=True)
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)},
        base / "models" / "loras" / LORA,
    )
    return base / "models"


def chunks(output: Path, pattern: str = "chunk_*.avi") -> list[Path]:
    return sorted(output.glob(f"story/long/*/{pattern}"), key=lambda path: path.name)


def played(client, result) -> list[bytes]:
    """The frames of the saved video."""
    assert result.status == "success", result.message
    (video,) = result.outputs["save"]["images"]
    with av.open(io.BytesIO(client.view(video))) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def steps(result) -> list[int]:
    """The values of the node's progress bar."""
    return [data["value"] for kind, data in result.events if kind == "progress" and data["node"] == "extend"]


def contents(path: Path):
    return np.load(path) if path.suffix == ".npy" else np.stack(list(read_frames(path)))


def test_killed_in_a_chunk_and_in_a_write(server, models, base, tmp_path):
    """kill -9 in chunk 3 of 5, then in the write of chunk 4: each time it resumes from the whole files, and every file
    that it leaves is that of an unbroken run, the frames that start a chunk included."""
    folder, output = make_base(tmp_path / "base", models=models), tmp_path / "output"
    link(folder / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
    for place in (folder, server.base):
        write_first_frame(place, (40, 90, 160))
    for condition in ("chunk_0002_*.avi", "chunk_0004_*.part"):
        with Server(folder, "--output-directory", str(output)) as broken:
            run_until(broken, prompt(), lambda: chunks(output, condition))  # noqa: B023 - it is called in the loop
        if condition.endswith(".avi"):
            assert [path.name[:10] for path in chunks(output)] == ["chunk_0001", "chunk_0002"]
            first = {path.name: path.stat().st_mtime_ns for path in chunks(output)}
    assert [path.name[:10] for path in chunks(output)] == ["chunk_0001", "chunk_0002", "chunk_0003"]
    assert chunks(output, "chunk_0004_*.part")  # it was killed within the write

    client = server.client()
    unbroken = played(client, client.run(prompt()))
    assert len(unbroken) == 3 + 5 * (extending.CHUNK - extending.OVERLAP)
    (run,) = {path.parent.name for path in chunks(output)}
    here = server.base / "output" / "story" / "long" / run
    here.rename(tmp_path / "unbroken")
    shutil.copytree(output / "story" / "long" / run, here)
    result = client.run(prompt(images=True))  # which the host has not in its cache, and which is the same run
    assert played(client, result) == unbroken
    assert steps(result)[0] == 3 * STEPS and steps(result)[-1] == 5 * STEPS
    whole = {path.name: path for path in here.iterdir()}
    assert sorted(whole) == sorted(path.name for path in (tmp_path / "unbroken").iterdir())
    assert {name: whole[name].stat().st_mtime_ns for name in first} == first
    assert all(np.array_equal(contents(path), contents(tmp_path / "unbroken" / name)) for name, path in whole.items())


def test_a_change_restarts_or_resumes(server, models):
    """On the server that has the five chunks: another prompt 4 keeps the first three; another seed, strength of the
    LoRA or input frame keeps none."""
    write_first_frame(server.base, (50, 90, 160))
    client, output = server.client(), server.base / "output"

    def new_chunks(**changed) -> list[str]:
        before = set(chunks(output))
        result = client.run(prompt(**changed))
        assert result.status == "success", result.message
        return [path.name[:10] for path in chunks(output) if path not in before]

    assert len(new_chunks()) == 5
    scenes = list(extending.SCENES)
    scenes[3] = "sitting on a beach"
    assert new_chunks(scenes=scenes) == ["chunk_0004", "chunk_0005"]
    assert new_chunks(chunks=2, seed=22) == new_chunks(chunks=2, strength=0.6) == ["chunk_0001", "chunk_0002"]
    assert new_chunks(chunks=2, fps=12.0) == []
    write_first_frame(server.base, (50, 90, 161))
    assert new_chunks(chunks=2) == ["chunk_0001", "chunk_0002"]


def test_an_interrupt_within_a_chunk(server, models):
    """It stops within a step; finished chunks are kept, and the progress text names the chunk and the step."""
    write_first_frame(server.base, (60, 90, 160))
    client, graph = server.client(), prompt(chunks=2)
    graph["sigmas"]["inputs"]["steps"] = 12
    done = []

    def interrupt_in_the_second_chunk(kind, data, result):
        if kind == "progress" and data["node"] == "extend":
            done.append(data["value"])
            if data["value"] > 12:
                client.interrupt(result.prompt_id)

    result = client.run(graph, on_event=interrupt_in_the_second_chunk)
    assert result.status == "interrupted" and 12 < done[-1] < 24
    texts = b"".join(result.previews)
    assert b"chunk 1 of 2, step 12 of 12" in texts and b"chunk 2 of 2, step 1 of 12" in texts
    result = client.run(graph)
    assert result.status == "success" and steps(result)[0] == 12, result.message
    assert b"1 of 2 chunks were on disk" in b"".join(result.previews)


def test_previews_while_a_chunk_samples(server, models):
    """One for each step of every chunk, if previews are on."""
    write_first_frame(server.base, (70, 90, 160))
    result = server.client().run(prompt(chunks=2), extra_data={"preview_method": "latent2rgb"})
    assert result.status == "success", result.message
    pictures = result.pictures("extend")
    assert len(pictures) == 2 * STEPS == len(set(pictures))
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.format == "JPEG" and picture.width == picture.height
    without = server.client().run(prompt(chunks=3))
    assert without.status == "success" and without.previews and not without.pictures("extend")
