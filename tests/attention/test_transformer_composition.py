"""Consistent Self-Attention on transformers with reference images, ControlNet, masks and the patches of other packs."""

import logging

import pytest
import torch
from harness import transformers
from harness.log import messages
from harness.masks import left_half
from harness.transformers import FAMILIES, FLUX, assert_close, brute_force, conds, grid_of, with_override

# Reference images


REFERENCES = {
    "flux": ["offset", "index", "uxo"],
    "flux2": ["index"],
    "qwen": ["index", "negative_index", "index_timestep_zero"],
    "krea2": ["index", "index_timestep_zero"],
}


@pytest.mark.parametrize("name, method", [(name, method) for name in REFERENCES for method in REFERENCES[name]])
def test_reference_images(shared, host, name, method):
    """Reference tokens stand behind the image: all its queries read them as before, nobody else's are shared."""
    model = transformers.build(name, default_ref_method=method)
    latents = transformers.latent(name)
    generator = torch.Generator().manual_seed(9)
    tiny = FAMILIES[name]
    shape = (1, tiny.channels, *tiny.times)
    references = [torch.randn(*shape, *size, generator=generator) for size in ((4, 4), (6, 4))]
    tokens = sum(reference.shape[-1] * reference.shape[-2] // tiny.patch**2 for reference in references)
    both = conds(reference_latents=references)
    ours = transformers.sample(shared(model, positions="reference"), *both, latents)
    definition = brute_force(name, latents, references=tokens, positions="reference")
    assert_close(ours, transformers.sample(with_override(model, definition), *both, latents))


def test_reference_images_of_z_image_stand_before_the_image(shared, models):
    latents, model = transformers.latent("zimage"), models("zimage")
    generator = torch.Generator().manual_seed(9)
    both = conds(
        reference_latents=[torch.randn(1, 16, 4, 4, generator=generator)],
        reference_latents_text_embeds=[torch.randn(1, 5, 12, generator=generator)],
    )
    ours = transformers.sample(shared(model), *both, latents)
    assert_close(ours, transformers.sample(with_override(model, brute_force("zimage", latents)), *both, latents))


# ControlNet


def test_controlnet(shared, host):
    import comfy.controlnet
    import comfy.ldm.flux.controlnet
    import comfy.ops
    import nodes

    model, latents = transformers.build("flux"), transformers.latent("flux", height=8, width=8)
    sizes = {key: value for key, value in FLUX.items() if key != "image_model"}
    network = comfy.ldm.flux.controlnet.ControlNetFlux(dtype=torch.float32, operations=comfy.ops.manual_cast, **sizes)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
    hint = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    both = nodes.ControlNetApplyAdvanced().apply_controlnet(*conds(guidance=3.5), control, hint, 1.0, 0.0, 1.0)
    ours = transformers.sample(shared(model), *both, latents)
    definition = with_override(model, brute_force("flux", latents))
    assert_close(ours, transformers.sample(definition, *both, latents))
    assert not torch.equal(ours, transformers.sample(shared(model), *conds(guidance=3.5), latents))


# The host's other patches


def test_lora(shared, models):
    """A LoRA on a layer that shares; its weights are in the shared keys."""
    import comfy.sd

    latents, model = transformers.latent("flux", 2), models("flux")
    generator = torch.Generator().manual_seed(0)
    width = model.model.diffusion_model.single_blocks[0].linear1.weight.shape[0]
    name = "diffusion_model.single_blocks.0.linear1.lora_{}.weight"
    lora = {
        name.format("A"): torch.randn(4, 32, generator=generator) / 4,
        name.format("B"): torch.randn(width, 4, generator=generator) / 4,
    }
    loaded, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    before = transformers.sample(shared(loaded), *conds(2), latents)
    after, _ = comfy.sd.load_lora_for_models(shared(model), None, lora, 1.0, 0.0)
    definition = with_override(loaded, brute_force("flux", latents))
    reference = transformers.sample(definition, *conds(2), latents)
    assert_close(before, reference)
    assert_close(transformers.sample(after, *conds(2), latents), reference)
    assert not torch.equal(before, transformers.sample(shared(model), *conds(2), latents))


# Masks


@pytest.mark.parametrize("name", ["flux", "qwen", "cosmos"])
@pytest.mark.parametrize("mask", [left_half(0.5), left_half(0.5, 0.25, 0.75)], ids=["one for all", "one each"])
def test_a_mask_says_which_image_tokens_are_shared_and_read(shared, models, name, mask):
    latents, model = transformers.latent(name, height=8, width=8), models(name)
    height, width = grid_of(name, latents)[-2:]
    inside = [(torch.arange(width) < width * share).repeat(height) for share in (mask.mean((1, 2)).tolist() * 3)[:3]]
    definition = brute_force(name, latents, borrows=inside)
    drawn = definition.drawn
    definition.drawn = lambda frame, step: (index := drawn(frame, step))[inside[frame][index]]
    ours = transformers.sample(shared(model, mask=mask), *conds(), latents)
    assert_close(ours, transformers.sample(with_override(model, definition), *conds(), latents))


def test_an_area_with_a_mask(host, shared, models, caplog):
    """A conditioning of an area gives the model that part alone, which the mask of the whole does not fit."""
    (positive,), negative = conds()
    (part,) = host.nodes["ConditioningSetArea"]().append([positive], 32, 64, 32, 0, 1.0)[0]
    latents, model = transformers.latent("flux", height=8, width=8), models("flux")
    plain = transformers.sample(model, [part], negative, latents, cfg=1.0)
    with caplog.at_level(logging.WARNING):
        masked = transformers.sample(shared(model, mask=left_half(0.5)), [part], negative, latents, cfg=1.0)
    (message,) = messages(caplog)
    assert "an area of 8 x 4 of 8 x 8 latent pixels" in message and torch.equal(masked, plain)
    unmasked = transformers.sample(shared(model), [part], negative, latents, cfg=1.0)
    assert not torch.equal(unmasked, plain), "without a mask, areas share"


# Texts of unequal length


def test_masked_text_is_never_read(shared, models):
    """Qwen-Image: each row with its padding masked is the row of the definition, whatever stands in the padding."""
    latents, model = transformers.latent("qwen"), models("qwen")
    mask = torch.ones(3, transformers.TEXT, dtype=torch.long)
    mask[0, 3:] = 0
    mask[2, 1:] = 0
    (positive, extras), negative = conds()[0][0], conds()[1]
    filled = positive.clone()
    filled[0, 3:] = 4.0
    both = [[positive, extras | {"attention_mask": mask}]], negative
    ours = transformers.sample(shared(model), *both, latents)
    definition = with_override(model, brute_force("qwen", latents))
    assert_close(ours, transformers.sample(definition, *both, latents))
    other = [[filled, extras | {"attention_mask": mask}]], negative
    assert_close(transformers.sample(shared(model), *other, latents), ours, 1e-6)


def test_a_mask_over_pairs_of_tokens_is_left_alone(shared, models, caplog):
    """Flux' Redux weights each pair of tokens: such blocks do not share, with one message."""
    latents, model = transformers.latent("flux"), models("flux")
    tokens = transformers.TEXT + 12
    mask = torch.ones(1, tokens, tokens)
    both = conds(attention_mask=mask, attention_mask_img_shape=(4, 3))
    plain = transformers.sample(model, *both, latents)
    with caplog.at_level(logging.WARNING):
        ours = transformers.sample(shared(model), *both, latents)
    (message,) = messages(caplog)
    assert "a value for every pair of tokens" in message and torch.equal(ours, plain)


# Other packs


@pytest.mark.parametrize("name", FAMILIES)
def test_an_override_before_or_after_ours_gets_every_call(shared, models, name):
    """The order of two packs makes no difference, and the other's override sees whole calls."""
    latents, model = transformers.latent(name, 2), models(name)
    seen = []

    def override(attention, q, k, v, heads, *args, **kwargs):
        seen.append((q.shape, k.shape))
        return attention(q, k, v, heads, *args, **kwargs)

    alone = transformers.sample(shared(model), *conds(2), latents)
    before = transformers.sample(shared(with_override(model, override)), *conds(2), latents)
    first = list(seen)
    seen.clear()
    after = transformers.sample(with_override(shared(model), override), *conds(2), latents)
    assert torch.equal(before, alone) and torch.equal(after, alone)
    assert seen == first and any(k.numel() > q.numel() for q, k in seen)


def test_a_patch_that_takes_the_attention_away_is_reported(shared, models, caplog):
    latents, model = transformers.latent("flux", 2), models("flux")
    patched = shared(model)

    def replace(executor, *args, **kwargs):
        options = dict(args[5])
        options["optimized_attention_override"] = lambda attention, *args, **kwargs: attention(*args, **kwargs)
        return executor(*args[:5], options, *args[6:], **kwargs)

    patched.add_wrapper("apply_model", replace)
    with caplog.at_level(logging.WARNING):
        ours = transformers.sample(patched, *conds(2), latents)
    (message,) = messages(caplog)
    assert "another patch replaces the attention" in message
    assert torch.equal(ours, transformers.sample(model, *conds(2), latents))


def test_a_patch_that_lengthens_the_keys_is_left_alone(shared, models, caplog):
    """Another pack adds tokens to a block's keys: they do not fit, and the block stays as it is, with a message."""
    latents, model = transformers.latent("flux", 2), models("flux")

    def longer(q, k, v, pe=None, attn_mask=None, extra_options=None):
        return {"k": torch.cat([k, k[:, :, :2]], 2), "v": torch.cat([v, v[:, :, :2]], 2), "pe": None}

    other = model.clone()
    other.set_model_attn1_patch(longer)
    plain = transformers.sample(other, *conds(2), latents)
    with caplog.at_level(logging.WARNING):
        ours = transformers.sample(shared(other), *conds(2), latents)
    assert torch.equal(ours, plain)
    assert any("another patch rearranges the tokens of a block" in message for message in messages(caplog))


def test_tokens_that_another_pack_adds_are_left_alone(shared, models, caplog):
    """Where the image stands is not known any more: the blocks stay as they are, with one message."""
    latents, model = transformers.latent("flux", 2), models("flux")

    def add(given):
        image, places = given["img"], given["img_ids"]
        return given | {"img": torch.cat([image, image[:, :2]], 1), "img_ids": torch.cat([places, places[:, :2]], 1)}

    other = model.clone()
    other.set_model_patch(add, "post_input")
    plain = transformers.sample(other, *conds(2), latents)
    with caplog.at_level(logging.WARNING):
        ours = transformers.sample(shared(other), *conds(2), latents)
    (message,) = messages(caplog)
    assert "a block has 19 tokens, and 17 are expected" in message and torch.equal(ours, plain)


def test_a_second_application_replaces_the_first(shared, models):
    latents, model = transformers.latent("flux", 2), models("flux")
    once = transformers.sample(shared(model, seed=4), *conds(2), latents)
    twice = transformers.sample(shared(shared(model, "paper"), seed=4), *conds(2), latents)
    undone = transformers.sample(shared(shared(model), strength=0.0), *conds(2), latents)
    assert torch.equal(once, twice)
    assert torch.equal(undone, transformers.sample(model, *conds(2), latents))


# Few steps


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start_percent": 0.02}, "3 of 4 steps share tokens, as the settings ask: 1 is before start_percent 0.02."),
        ({"end_percent": 0.6}, "3 of 4 steps share tokens, as the settings ask: 1 is after end_percent 0.6."),
        ({}, None),
    ],
)
def test_few_steps_are_counted(shared, models, caplog, options, message):
    """In 4 steps a percent is coarse, so the node says how many share."""
    latents, model = transformers.latent("flux", 2), models("flux")
    with caplog.at_level(logging.WARNING):
        transformers.sample(shared(model, **options), *conds(2), latents, steps=4)
    assert [message in shown for shown in messages(caplog)] == ([True] if message else [])


# Blocks and positions


BLOCKS = {
    "flux": {"auto": {2, 3}, "single": {2, 3}, "double": {0, 1}, "every second": {2}, "first half": {0, 1}},
    "qwen": {"auto": {1}, "all": {0, 1}, "last half": {1}, "every second": {0}},
    "krea2": {"auto": {0, 1, 2}, "every second": {0, 2}, "last half": {1, 2}},
}


@pytest.mark.parametrize("name, blocks", [(name, blocks) for name in BLOCKS for blocks in BLOCKS[name]])
def test_blocks(shared, models, name, blocks):
    latents, model = transformers.latent(name, 2), models(name)
    ours = transformers.sample(shared(model, blocks=blocks), *conds(2), latents)
    definition = with_override(model, brute_force(name, latents, blocks=BLOCKS[name][blocks]))
    assert_close(ours, transformers.sample(definition, *conds(2), latents))


def test_choices_that_a_network_does_not_have_are_refused(shared, models, model):
    with pytest.raises(ValueError, match="blocks is single, and Qwen-Image has no such blocks; one of auto, all, "):
        shared(models("qwen"), blocks="single")
    with pytest.raises(ValueError, match="blocks is up, and Flux has no such blocks; one of auto, single, double, "):
        shared(models("flux"), blocks="up")
    with pytest.raises(ValueError, match="blocks is single, and a UNet has no such blocks; one of auto, up, "):
        shared(model, blocks="single")
    with pytest.raises(ValueError, match="positions is beside, and SD3 and SD3.5 has no rotary positions"):
        shared(models("sd3"), positions="beside")
    with pytest.raises(ValueError, match="positions is beside, and a UNet has no rotary positions"):
        shared(model, positions="beside")


def test_a_transformer_that_is_not_in_the_table_is_refused_by_name(host, shared):
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    sizes = dict(image_model="hydit1", depth=1, hidden_size=16, mlp_ratio=1, input_size=None, num_heads=1)
    config = comfy.supported_models.HunyuanDiT1(sizes)
    set_precision(config, 0, torch.float32)
    with pytest.raises(ValueError, match="HunyuanDiT.*works with the UNets of SD1.5, SD2.x and SDXL, and .* Flux"):
        shared(patcher_of(config.get_model({})))
