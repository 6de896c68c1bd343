"""CLIP from local folders of open_clip: equal to the package, with clear messages about wrong folders. And the host's
ViT-H, image and text, equal to open_clip's on the same weights."""

import json
import os
import sys

import pytest
import torch
from harness.huggingface import OPEN_CLIP, random_clip, write_open_clip
from PIL import Image

MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.25, 0.2]
PROMPTS = ("Pim waves in the city", "a castle " * 60, "")


@pytest.fixture(scope="module")
def network():
    return random_clip()


@pytest.fixture
def put(folder, network):
    """put(name, file) -> models/clip_vision/name with the network."""

    def write(name: str, file: str = "open_clip_model.safetensors"):
        path = folder(name)
        write_open_clip(path, network, file, mean=MEAN, std=STD)
        return path

    return write


@pytest.fixture
def load(host):
    from storyreel.host.metrics.open_clip import load

    return load


def images(height=40, width=56):
    """In 8 bits, as the package reads them."""
    return (torch.rand(9, height, width, 3, generator=torch.Generator().manual_seed(5)) * 255).round() / 255


@torch.no_grad()
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_embeddings_equal_the_package(load, put, network, file):
    """Images through the package's own preprocessing, within a gray level; prompts through its tokenizer."""
    import open_clip

    put("papers/tiny", file)
    encoder = load("papers/tiny")
    preprocess = open_clip.image_transform(28, is_train=False, mean=MEAN, std=STD)
    pictures = [Image.fromarray((image * 255).byte().numpy()) for image in images()]
    expected = network.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
    found = encoder.embed_images(images())
    assert found.shape == (9, encoder.width) == (9, 24)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    square = images(28, 28)  # no resizing: the same pixels
    pixels = ((square - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, 1)
    torch.testing.assert_close(encoder.embed_images(square), network.encode_image(pixels), rtol=0, atol=1e-5)
    texts = network.encode_text(open_clip.tokenize(PROMPTS))
    torch.testing.assert_close(encoder.embed_prompts(PROMPTS), texts, rtol=0, atol=1e-6)
    assert encoder.name == (
        "clip of width 32, 2 layers, patches of 14 pixels, images of 28 (papers/tiny, by open_clip)"
    )


def test_wrong_folders_are_refused_by_name(load, put):
    with pytest.raises(
        FileNotFoundError, match="nowhere has no open_clip_config.json in models/clip_vision; a CLIP as"
    ):
        load("nowhere")
    path = put("wrong")
    config, weights = path / "open_clip_config.json", path / "open_clip_model.safetensors"
    vision, text = OPEN_CLIP["vision_cfg"], OPEN_CLIP["text_cfg"]
    for change, message in [
        ({"vision_cfg": vision | {"layers": 3}}, "wrong/open_clip_model.safetensors is not whole: it lacks visual.tr"),
        ({"vision_cfg": vision | {"layers": 1}}, "wrong/open_clip_model.safetensors also holds visual.transformer"),
        (
            {"embed_dim": 25},
            "wrong/open_clip_model.safetensors holds text_projection as 32 x 24, and 32 x 25 was expec",
        ),
        ({"vision_cfg": vision | {"layers": 10**9}}, "wrong states layers 1000000000; 1 to 256 is expected"),
        ({"vision_cfg": vision | {"image_size": [28, 28]}}, "wrong states image_size a list; 1 to 4096 is"),
        (
            {"vision_cfg": vision | {"timm_model_name": "vit"}},
            "wrong states timm_model_name 'vit'; a CLIP as open_clip",
        ),
        ({"text_cfg": text | {"hf_model_name": "a/b"}}, "wrong states hf_model_name 'a/b'"),
        ({"multimodal_cfg": {}}, "wrong states a network in open_clip_config.json that is no CLIP .*multimodal_cfg"),
        ({"text_cfg": None}, "wrong states no vision_cfg and text_cfg in open_clip_config.json"),
    ]:
        config.write_text(json.dumps({"model_cfg": OPEN_CLIP | change}))
        with pytest.raises(ValueError, match=message):
            load("wrong")
    for stated, message in [
        ({"resize_mode": "squash"}, "wrong states resize_mode 'squash' in open_clip_config.json; shortest is expected"),
        ({"mean": 0.5}, "wrong has a mean or std in open_clip_config.json that is not three numbers"),
    ]:
        config.write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": stated}))
        with pytest.raises(ValueError, match=message):
            load("wrong")
    config.write_text("[]")
    with pytest.raises(ValueError, match="wrong has an unreadable open_clip_config.json; a CLIP as"):
        load("wrong")
    config.write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ValueError, match="open_clip_model.safetensors"):
        load("wrong")
    weights.unlink()
    with pytest.raises(
        FileNotFoundError, match="wrong has no weights .open_clip_model.safetensors, .* in models/clip_vi"
    ):
        load("wrong")


def test_a_broken_package_gets_one_sentence(load, put, monkeypatch):
    put("tiny")
    monkeypatch.setitem(sys.modules, "open_clip", None)  # what Python itself does for a module that is not there
    with pytest.raises(ImportError, match="open_clip cannot be imported .*pip install open-clip-torch"):
        load("tiny")


@pytest.fixture(scope="module")
def vit_h():
    """(open_clip's ViT-H/14 with three layers in either tower, its weights), rounded as the host does on a CPU"""
    import open_clip

    config = open_clip.get_model_config("ViT-H-14")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 3
    network = random_clip(config).half().float()
    return network, network.state_dict()


def of_the_host(name: str) -> dict:
    """The host's own configuration of ViT-H, with three layers."""
    import comfy

    (folder,) = comfy.__path__
    with open(os.path.join(folder, name)) as file:
        return json.load(file) | {"num_hidden_layers": 3}


@torch.no_grad()
def test_the_hosts_vit_h_sees_what_open_clips_does(host, vit_h):
    """The tokens that DynamiCrafter reads, those that IP-Adapter reads, and the embedding."""
    import comfy.clip_vision
    from storyreel.host.common.clip_vision import from_config

    network, weights = vit_h
    ours = from_config(of_the_host("clip_vision_config_h.json"))
    vision = {key: weight for key, weight in weights.items() if key.startswith("visual.")}
    loaded = ours.load_sd(comfy.clip_vision.convert_to_transformers(vision, "visual."))
    assert not loaded.missing_keys and not loaded.unexpected_keys
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    last, penultimate, embeds, _ = ours.model(pixel_values=pixels, intermediate_output=-2)
    seen = {}
    blocks = network.visual.transformer.resblocks
    hooks = [block.register_forward_hook(lambda b, i, out: seen.update({b: out})) for block in blocks]
    expected = network.encode_image(pixels)
    for hook in hooks:
        hook.remove()
    for found, wanted in ((penultimate, seen[blocks[1]]), (last, seen[blocks[2]]), (embeds, expected)):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


@torch.no_grad()
def test_the_hosts_vit_h_reads_what_open_clips_does(host, vit_h):
    """What DynamiCrafter's cross-attention reads, which is the layer before the last, and the embedding of a prompt."""
    import comfy.sd1_clip
    import comfy.utils
    import open_clip

    network, weights = vit_h
    ours = comfy.sd1_clip.SDClipModel(
        layer="hidden",
        layer_idx=-2,
        textmodel_json_config=of_the_host("text_encoders/sd2_clip_config.json"),
        special_tokens={"start": 49406, "end": 49407, "pad": 0},
        return_projected_pooled=True,
    )
    text = {key: weight for key, weight in weights.items() if not key.startswith("visual.")}
    ours.load_sd(comfy.utils.clip_text_transformers_convert(text, "", ""))
    tokens = open_clip.tokenize(PROMPTS)
    found, pooled = ours(tokens.tolist())
    seen = []
    hook = network.transformer.resblocks[1].register_forward_hook(lambda b, i, out: seen.append(out))
    expected = network.encode_text(tokens)
    hook.remove()
    wanted = network.ln_final(seen[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
