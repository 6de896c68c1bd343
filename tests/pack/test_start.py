"""The host starts with the pack, all of it, in the process and as a server."""

from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def text_to_image(seed: int) -> dict:
    """The smallest graph from a checkpoint to images."""
    sampling = dict(seed=seed, steps=2, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    links = dict(model=["1", 0], positive=["2", 0], negative=["2", 0], latent_image=["3", 0])
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.ckpt"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "4": {"class_type": "KSampler", "inputs": {**sampling, **links}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }


def test_the_server_starts_with_the_pack(server):
    assert "IMPORT FAILED" not in server.log
    assert "Cannot import" not in server.log
    start, ready, _ = server.log.partition("To see the GUI go to")
    assert ready and [line for line in start.splitlines() if "rror" in line and "StoryReel" in line] == []


def test_the_server_offers_every_node(server, host):
    """The two hosts load the pack in different ways, by another name: they must find the same nodes."""
    assert host.pack_loaded, host.pack_log
    here = {name for name, cls in host.nodes.items() if cls.__module__.startswith("storyreel.")}
    there = {
        name: info
        for name, info in server.client().object_info().items()
        if info["python_module"] == "custom_nodes.ComfyUI-StoryReel"
    }
    declared = {path.stem for path in (ROOT / "js" / "docs").glob("*.md")}
    assert here == set(there)
    assert {name for name, info in there.items() if not info.get("dev_only")} == declared


def test_the_host_loaded_what_the_tests_import(host):
    import storyreel

    assert host.pack is storyreel
    for name, cls in host.nodes.items():
        if name.startswith("StoryReel"):
            module = cls.__module__.removeprefix("storyreel.nodes.")
            assert getattr(getattr(storyreel.nodes, module), cls.__name__) is cls


def test_a_prompt_runs_in_the_process(host, tiny_checkpoint):
    tiny_checkpoint("sd15")
    run = host.run(text_to_image(seed=7))
    (images,) = run.values["5"]
    assert images.shape == (2, 64, 64, 3) and images.isfinite().all()
    assert not torch.equal(images[0], images[1])
    assert len(run.outputs["6"]["images"]) == 2
    assert any(name == "progress" and data["value"] == data["max"] == 2 for name, data in run.events)


def test_a_prompt_runs_on_the_server(server, tiny_checkpoint):
    tiny_checkpoint("sd15")
    client = server.client()
    result = client.run(text_to_image(seed=8))
    assert result.status == "success"
    assert "progress" in {kind for kind, _ in result.events}
    images = [client.view(image) for image in result.outputs["6"]["images"]]
    assert [data[:8] for data in images] == [b"\x89PNG\r\n\x1a\n"] * 2
