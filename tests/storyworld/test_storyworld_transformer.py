"""The demo model's transformer: what loads, what is refused, and what sharing tokens does with it."""

import json
import re
from pathlib import Path

import pytest
import torch

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "storyworld"
STORIES = 8


@pytest.fixture(scope="module")
def pipeline(host, lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backgrounds")
    return lab.evaluate.pictures.Pictures(network="transformer", data=folder, steps=8)


def test_it_is_the_hosts_own_flux_and_small(host):
    from comfy.ldm.flux.model import Flux

    model, *_ = host.nodes["StoryReelLoadStoryworld"].execute("auto", network="transformer").result
    assert type(model.get_model_object("diffusion_model")) is Flux
    assert (WEIGHTS / "transformer.safetensors").stat().st_size <= 6e6


def test_the_same_text_encoder_and_vae_come_with_both_networks(host):
    load = host.nodes["StoryReelLoadStoryworld"].execute
    (_, clip, vae, _), (_, other_clip, other_vae, _) = (
        load("auto", network=network).result for network in ("unet", "transformer")
    )
    text = "a red hero"
    assert torch.equal(*(one.encode_from_tokens(one.tokenize(text)) for one in (clip, other_clip)))
    image = torch.rand(1, 128, 128, 3)
    assert torch.equal(vae.encode(image), other_vae.encode(image))


def test_the_domain_adapter_is_for_the_unet(host):
    with pytest.raises(ValueError, match="domain_adapter is for the UNet; network is transformer"):
        host.nodes["StoryReelLoadStoryworld"].execute("auto", domain_adapter=True, network="transformer")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"axes_dim": [8, 12, 14]}, "states axes of positions that are not as wide as a head"),
        ({"in_channels": 16}, "in_channels"),
        ({"depth": 3}, "lacks double_blocks.2"),
    ],
)
def test_a_file_that_states_another_network_is_refused(host, tmp_path, monkeypatch, changed, expected):
    import folder_paths
    from safetensors.torch import save_file
    from storyreel.host import storyworld

    weights, config = storyworld.read_part("transformer")
    config = config | {"transformer": config["transformer"] | changed}
    metadata = {"part": "storyworld transformer", "config": json.dumps(config)}
    save_file(weights, tmp_path / "transformer.safetensors", metadata)
    known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(tmp_path)], known[1]))
    with pytest.raises(ValueError, match=rf"transformer\.safetensors.*{re.escape(expected)}"):
        storyworld.load_model(part="transformer")


def test_texts_longer_than_those_of_the_training_are_read_up_to_32_tokens(host):
    """The text encoder fills every text up to 77 tokens."""
    from storyreel.host import storyworld

    model = storyworld.load_model(part="transformer").model
    context = torch.randn(1, 77, 96)
    conds = model.extra_conds(cross_attn=context, noise=torch.zeros(1, 12, 16, 16))
    assert torch.equal(conds["c_crossattn"].cond, context[:, :32])


def test_strength_0_is_the_plain_model(pipeline, lab):
    settings, task = lab.evaluate.story_settings, lab.evaluate.pictures.make_task(seed=6, index=0, frames=3)
    plain = pipeline.draw(settings.PLAIN, task)
    assert (plain == pipeline.draw(settings.csa("strength-0", strength=0.0), task)).all()
    assert (plain != pipeline.draw(settings.CSA, task)).any()
