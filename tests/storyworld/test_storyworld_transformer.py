"""The demo model's transformer: what loads, what is refused, and what sharing tokens does with it."""

import json
import re
from dataclasses import replace
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


@pytest.mark.programs  # for a minute of drawing
def test_single_blocks_keep_the_hero_and_all_blocks_lose_it(pipeline, lab):
    """The default of Flux: sharing in all blocks at rate 1 leaves fewer images with a hero whose looks are right."""
    settings = lab.evaluate.story_settings
    choices = settings.PLAIN, settings.CSA, settings.csa("all-1", 1.0, blocks="all")
    plain, single, every = (pipeline.measure(replace(choice, frames=4), STORIES, seed=5) for choice in choices)
    assert single["named"] > plain["named"] - 0.15 and single["vanished"] <= 0.1, (plain, single)
    assert every["named"] < single["named"], (single, every)


@pytest.mark.programs
def test_sharing_copies_where_the_hero_stands(pipeline, lab):
    """What the page of measurements says of shared positions, and that dimmed ones do not."""
    settings = lab.evaluate.story_settings
    choices = settings.PLAIN, settings.csa("1", 1.0), settings.csa("dimmed", 1.0, positions="dimmed")
    plain, same, dimmed = (pipeline.measure(replace(choice, frames=4), STORIES, seed=5) for choice in choices)
    assert same["place"] > plain["place"] + 0.15 and dimmed["place"] < same["place"], (plain, same, dimmed)
