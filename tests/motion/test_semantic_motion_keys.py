"""AnimateDiff's and IP-Adapter's files as they were published: every key has its place, in the file and in SD1.5."""

import json
from pathlib import Path

import pytest
import torch
from harness.golden import part
from harness.streaming import shapes
from storyreel.core.networks.animatediff.config import read_config
from storyreel.core.networks.animatediff.module import MotionModules
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig
from storyreel.core.networks.ip_adapter.layers import ImageLayers, numbers, read_layers
from storyreel.core.networks.ip_adapter.projection import EmbeddingConfig, build_projection, read_projection

MANIFESTS = Path(__file__).parents[1] / "manifests"
MODULES = {"mm_sd_v15": ("v1", 24, 560), "mm_sd_v15_v2": ("v2", 32, 588), "v3_sd15_mm": ("v3", 32, 560)}
ADAPTERS = {
    "ip-adapter_sd15": EmbeddingConfig(),
    "ip-adapter-plus_sd15": ResamplerConfig(768, queries=16, output_dim=768),
}


def listed(name: str) -> dict:
    return json.loads((MANIFESTS / f"{name}.json").read_text())


def manifest(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in listed(name).items()}


@pytest.fixture(scope="module")
def unet(host):
    """SD1.5's own, without its weights."""
    import comfy.supported_models

    sizes = dict(image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2] * 4)
    sizes |= dict(channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1)
    sizes |= dict(transformer_depth_output=[1] * 9 + [0] * 3, context_dim=768, use_spatial_transformer=True)
    config = comfy.supported_models.SD15(sizes | dict(use_linear_in_transformer=False, legacy=False))
    with torch.device("meta"):
        return config.get_model({}, device="meta").diffusion_model


@pytest.mark.parametrize("name", MODULES)
def test_motion_modules(name, unet):
    from storyreel.host.motion import animatediff

    weights = manifest(name)
    config = read_config(shapes(weights))
    tables = sum(key.endswith(".pos_encoder.pe") for key in weights)
    assert (config.version, config.frames, len(weights)) == MODULES[name] and tables == 2 * len(config.widths)
    with torch.device("meta"):
        assert shapes(MotionModules(config).state_dict()) == shapes(weights)
    animatediff.check_fit(name, unet, config)
    assert config.places.keys() == {key.partition(".temporal_transformer.")[0] for key in weights}
    middle = [("middle", 0)] if config.version == "v2" else []
    inputs = [("input", number) for number in (1, 2, 4, 5, 7, 8, 10, 11)]
    assert [*config.places.values()] == [*inputs, *(("output", number) for number in range(12)), *middle]


@pytest.mark.parametrize("name", ADAPTERS)
def test_ip_adapter(name, unet):
    from storyreel.host.motion import ip_adapter

    weights = manifest(name)
    projection, layers = part(weights, "image_proj."), part(weights, "ip_adapter.")
    config = read_projection(shapes(projection))
    assert config == ADAPTERS[name] and len(projection) + len(layers) == len(weights)
    with torch.device("meta"):
        assert shapes(build_projection(config).state_dict()) == shapes(projection)
        network = ImageLayers(read_layers(shapes(layers)))
        assert shapes(network.state_dict()) == shapes(layers)
    ip_adapter.check_fit(name, unet, network, config.output_dim)


def test_numbers_of_cross_attention_layers(unet):
    """The published list: down, up and last the middle, which runs between the two in a forward pass."""
    from storyreel.host.motion import ip_adapter

    order, cross_attention = listed("ip_adapter_index_order"), ip_adapter.cross_attention_layers(unet)
    assert {number: layer.layer.to_q.weight.shape[0] for number, layer in cross_attention.items()} == {
        number: width for number, (_, width) in order.items()
    }
    assert cross_attention["31"].block == ("middle", 0) and order["31"][0].startswith("mid_block.")
    assert numbers(6, 1, 9) == list(cross_attention)
    sides = {"input": "down_blocks", "middle": "mid_block", "output": "up_blocks"}
    for number, layer in cross_attention.items():
        assert order[number][0].startswith(sides[layer.block[0]])
