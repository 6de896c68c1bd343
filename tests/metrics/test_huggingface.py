"""Image encoders from local Hugging Face folders: equal to the package, and clear messages about wrong folders."""

import json
import sys

import pytest
import torch
from harness.huggingface import PATCH, SIDE, write_folder

KINDS = ("clip_vision_model", "clip", "dinov2")


@pytest.fixture
def load(host):
    from storyreel.host.common.huggingface import load_image_encoder

    return load_image_encoder


def images(count=3, height=40, width=56):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(40, 56), (SIDE, SIDE), (20, 30)])
def test_embeddings_and_tokens_equal_the_package(load, folder, kind, size):
    """The folder's own image processor and network, on 8-bit images; ours takes floats, so one level apart."""
    import transformers

    edge = {"size": {"shortest_edge": 32}} if kind == "dinov2" else {"size": {"shortest_edge": SIDE}}
    stated = edge | {"crop_size": {"height": SIDE, "width": SIDE}, "image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    network = write_folder(folder("tiny/" + kind), kind, stated)
    encoder = load("tiny/" + kind)
    pixels = (images(3, *size) * 255).round()
    processor = transformers.CLIPImageProcessor(**stated)
    seen = processor(list(pixels.to(torch.uint8).movedim(-1, 1)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        if kind == "dinov2":
            out = network(seen)
            wanted = out.pooler_output, out.last_hidden_state
        else:
            vision = network.vision_model(seen)
            wanted = network.visual_projection(vision.pooler_output), vision.last_hidden_state
    found = encoder.encode(pixels / 255)
    assert found[0].shape == (3, encoder.embed_dim)
    assert found[1].shape == (3, encoder.token_count, encoder.token_dim) == (3, 1 + (SIDE // PATCH) ** 2, 32)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * theirs.abs().max().item())
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize("kind", KINDS)
def test_without_resizing_they_equal_the_network_exactly(load, folder, kind):
    network = write_folder(folder("tiny-" + kind), kind, {"crop_size": SIDE, "size": SIDE})
    encoder = load("tiny-" + kind)
    pixels = images(2, SIDE, SIDE)
    embeds, tokens = encoder.encode(pixels)
    mean, std = (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        if kind == "dinov2"
        else ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    seen = ((pixels - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, 1)
    with torch.no_grad():
        tower = network if kind == "dinov2" else network.vision_model
        wanted = tower(seen)
    torch.testing.assert_close(tokens, wanted.last_hidden_state, rtol=0, atol=1e-5)
    head = network.visual_projection(wanted.pooler_output) if kind != "dinov2" else wanted.pooler_output
    torch.testing.assert_close(embeds, head.detach(), rtol=0, atol=1e-5)


def test_folders_are_listed_where_both_files_are(host, folder):
    from storyreel.host.common.huggingface import encoder_folders

    write_folder(folder("listed/here"), "dinov2")
    (folder("not-listed") / "model.safetensors").write_bytes(b"")
    listed = encoder_folders()
    assert "listed/here" in listed and "not-listed" not in listed


def test_wrong_folders_are_refused_by_name(load, folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere has no config.json and no model.safetensors"):
        load("nowhere")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load("../../../../etc")
    path = folder("wrong")
    write_folder(path, "dinov2")
    config = json.loads((path / "config.json").read_text())
    for change, message in [
        ({"model_type": "bert"}, "wrong is a model of the type 'bert'"),
        ({"num_hidden_layers": 10**9}, "wrong states num_hidden_layers 1000000000; 1 to 256 is expected"),
        (
            {"hidden_size": 64},
            "wrong cannot be loaded as Dinov2Model .config.json and model.safetensors have different sizes",
        ),
        ({"num_hidden_layers": 3}, "wrong has no .* in model.safetensors"),
    ]:
        (path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load("wrong")
    (path / "config.json").write_text("no json")
    with pytest.raises(ValueError, match="wrong has an unreadable config.json"):
        load("wrong")
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps({"crop_size": 15}))
    with pytest.raises(ValueError, match="image size 15; a multiple of 14"):
        load("wrong")
    (path / "model.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(ValueError, match="model.safetensors"):
        load("wrong")


def test_a_broken_transformers_gets_one_sentence(load, folder, monkeypatch):
    write_folder(folder("tiny"), "dinov2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers cannot be imported .*pip install transformers"):
        load("tiny")
