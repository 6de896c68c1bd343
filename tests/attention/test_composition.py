"""Consistent Self-Attention with the other patches of a model: the host's own nodes and other packs."""

import logging

import pytest
import torch
from harness import tiny, windows
from harness.log import messages
from harness.masks import left_half
from harness.transformers import assert_close, with_override


@pytest.fixture
def conds(probe):
    return probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)


def host_node(host, name, model, **inputs):
    """A model patched by one of the host's nodes."""
    cls = host.nodes[name]
    if hasattr(cls, "GET_SCHEMA"):
        out = cls.execute(model=model, **inputs)
        return getattr(out, "result", out)[0]
    return getattr(cls(), cls.FUNCTION)(model, **inputs)[0]


class Calls:
    """A patch of another pack, at a block of its own or ours: records its inputs and runs plain attention."""

    def __init__(self):
        self.shapes = []
        self.kinds = []

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        self.shapes.append((tuple(q.shape[:2]), tuple(k.shape[:2]), tuple(v.shape[:2])))
        self.kinds.append((extra_options["cond_or_uncond"], len(extra_options["uuids"])))
        return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options)


# The host's nodes


@pytest.mark.parametrize("ours_first", [True, False])
def test_pag(host, probe, model, conds, ours_first):
    """The perturbed pass has PAG's identity attention in the middle block, also with our patch in that place."""
    weights = dict(preset="custom", blocks="all")
    if ours_first:
        patched = host_node(host, "PerturbedAttentionGuidance", probe.node(host, model, **weights), scale=3.0)
    else:
        patched = probe.node(host, host_node(host, "PerturbedAttentionGuidance", model, scale=3.0), **weights)
    watch = probe.Probe(patched, **weights)
    perturbed, normal = [], []

    def middle(out, extra_options):
        if extra_options["block"] == ("middle", 0):
            (perturbed if list(extra_options["cond_or_uncond"]) == [0] else normal).append(out)
        return out

    values = []
    to_v = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_v
    to_out = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_out
    hook = to_v.register_forward_hook(lambda module, inputs, out: values.append(out))
    watch.model.set_model_attn1_output_patch(middle)
    try:
        probe.sample(watch.model, *conds, probe.latent(3), steps=2)
    finally:
        hook.remove()
    watch.check()
    assert len(perturbed) == len(normal) == 2
    for out, v in zip(perturbed, values[1::2], strict=True):
        assert torch.equal(out, to_out(v))  # identity attention
    assert len(watch.errors) == 2 * (16 + 15)  # the perturbed pass used ours everywhere except in the middle


@pytest.mark.parametrize("ours_first", [True, False])
def test_nag(host, probe, model, conds, ours_first):
    """Cond and uncond match the brute force before NAG mixes them; NAG then changes cond."""
    nag = dict(nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    if ours_first:
        patched = host_node(host, "NAGuidance", probe.node(host, model), **nag)
    else:
        patched = probe.node(host, host_node(host, "NAGuidance", model, **nag))
    watch = probe.Probe(patched)
    with_nag = probe.sample(watch.model, *conds, probe.latent(3))
    watch.check()
    assert not torch.equal(with_nag, probe.sample(probe.node(host, model), *conds, probe.latent(3)))


@pytest.mark.parametrize("ours_first", [True, False])
def test_hypertile(host, probe, model, conds, caplog, ours_first):
    """Levels that HyperTile tiles use their own tokens, with one message; the others share."""
    tile = dict(tile_size=64, swap_size=2, max_depth=0, scale_depth=False)
    if ours_first:
        patched = host_node(host, "HyperTile", probe.node(host, model, "custom"), **tile)
    else:
        patched = probe.node(host, host_node(host, "HyperTile", model, **tile), "custom")
    latent = probe.latent(3, 32, 32)
    alone = host_node(host, "HyperTile", model, **tile)
    shapes = []
    patched.set_model_attn1_output_patch(lambda out, extra: (shapes.append(tuple(out.shape)), out)[1])
    with caplog.at_level(logging.WARNING):
        ours = probe.sample(patched, *conds, latent, steps=1)
    assert ours.isfinite().all()
    (message,) = messages(caplog)
    assert "another patch rearranges the 32 x 32 tokens of a level" in message
    assert not torch.equal(ours, probe.sample(alone, *conds, latent, steps=1)), "untiled levels share"


@pytest.mark.parametrize("ours_first", [True, False])
def test_tome(host, probe, model, conds, ours_first):
    """Token merging leaves fewer queries; each of them attends to all shared keys."""
    if ours_first:
        patched = host_node(host, "TomePatchModel", probe.node(host, model, "custom"), ratio=0.3)
    else:
        patched = probe.node(host, host_node(host, "TomePatchModel", model, ratio=0.3), "custom")
    watch = probe.Probe(patched, "custom")
    probe.sample(watch.model, *conds, probe.latent(3, 16, 16), steps=1)
    watch.check()


def test_tome_with_a_mask(host, probe, model, conds, caplog):
    """A mask does not fit merged tokens: those levels use their own, with one message; the others share."""
    alone = host_node(host, "TomePatchModel", model, ratio=0.3)
    patched = probe.node(host, alone, "custom", mask=left_half(0.5))
    with caplog.at_level(logging.WARNING):
        ours = probe.sample(patched, *conds, probe.latent(3, 16, 16), steps=1)
    (message,) = messages(caplog)
    assert "merges 256 tokens into 180" in message and "the mask does not fit there" in message
    assert not torch.equal(ours, probe.sample(alone, *conds, probe.latent(3, 16, 16), steps=1))


def test_an_area_with_a_mask(host, probe, model, caplog):
    """A conditioning of an area gives the model that part alone, which the mask of the whole does not fit."""
    (positive,) = probe.conditioning(3, 768, 1)
    (part,) = host.nodes["ConditioningSetArea"]().append([positive], 64, 128, 64, 0, 1.0)[0]
    conds, latent = ([part], probe.conditioning(1, 768, 2)), probe.latent(3, 16, 16)
    plain = probe.sample(model, *conds, latent, steps=1, cfg=1.0)
    with caplog.at_level(logging.WARNING):
        masked = probe.sample(probe.node(host, model, "custom", mask=left_half(0.5)), *conds, latent, steps=1, cfg=1.0)
    (message,) = messages(caplog)
    assert "an area of 16 x 8 of 16 x 16 latent pixels" in message and torch.equal(masked, plain)
    shared = probe.sample(probe.node(host, model, "custom"), *conds, latent, steps=1, cfg=1.0)
    assert not torch.equal(shared, plain), "without a mask, areas share"


@pytest.mark.parametrize("ours_first", [True, False])
def test_freeu(host, probe, model, conds, ours_first):
    freeu = dict(b1=1.1, b2=1.2, s1=0.6, s2=0.4)
    if ours_first:
        patched = host_node(host, "FreeU", probe.node(host, model), **freeu)
    else:
        patched = probe.node(host, host_node(host, "FreeU", model, **freeu))
    watch = probe.Probe(patched)
    probe.sample(watch.model, *conds, probe.latent(3))
    watch.check()


def test_lora(host, probe, model, conds):
    """A LoRA on the very layers that share; its weights are in the shared keys."""
    name = "lora_unet_output_blocks_{}_1_transformer_blocks_0_attn1_to_k.lora_{}.weight"
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for block in range(3, 12):
        lora[name.format(block, "up")] = torch.randn(tiny.NARROW, 4, generator=generator) / 8
        lora[name.format(block, "down")] = torch.randn(4, tiny.NARROW, generator=generator) / 8
    import comfy.sd

    loaded, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    plain = probe.sample(probe.node(host, model), *conds, probe.latent(3))
    for patched in (
        probe.node(host, loaded),
        comfy.sd.load_lora_for_models(probe.node(host, model), None, lora, 1.0, 0.0)[0],
    ):
        watch = probe.Probe(patched)
        ours = probe.sample(watch.model, *conds, probe.latent(3))
        watch.check()
        assert not torch.equal(ours, plain)


def test_controlnet(host, probe, model, conds):
    """A ControlNet steers the model that shares; its own network is left as it is."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops
    import nodes

    with torch.no_grad():
        torch.manual_seed(0)
        network = comfy.cldm.cldm.ControlNet(
            image_size=32, in_channels=4, hint_channels=3, model_channels=tiny.NARROW, num_heads=8, context_dim=768,
            use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False, num_res_blocks=[2] * 4,
            channel_mult=[1] * 4, transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
            dtype=torch.float32, operations=comfy.ops.manual_cast,
        )  # fmt: skip
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    hint = torch.rand(3, 128, 64, 3, generator=torch.Generator().manual_seed(3))
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(*conds, control, hint, 1.0, 0.0, 1.0)
    watch = probe.Probe(probe.node(host, model))
    steered = probe.sample(watch.model, positive, negative, probe.latent(3))
    watch.check()
    assert not torch.equal(steered, probe.sample(probe.node(host, model), *conds, probe.latent(3)))
    assert len(watch.errors) == 9 * 2  # the up blocks of the model, two steps


@pytest.mark.parametrize("cast", [None, ("A", "B", "A", "", "AB", "B")], ids=["one hero", "story"])
@pytest.mark.parametrize("preset", ["low-vram", "paper", "custom"])
def test_context_windows(host, probe, model, preset, cast):
    """Which frame a row is comes from the window; draws and characters follow the frame."""
    story = cast and probe.story_of(*cast)
    windows = dict(
        context_length=3, context_overlap=1, context_schedule="standard_static", context_stride=1, closed_loop=False,
        fuse_method="pyramid", dim=0, freenoise=False, cond_retain_index_list="", split_conds_to_windows=False,
    )  # fmt: skip
    patched = host_node(host, "ContextWindowsManual", probe.node(host, model, preset, story=story), **windows)
    watch = probe.Probe(patched, preset, cast=story and story.cast)
    conds = probe.conditioning(6, 768, 1), probe.conditioning(1, 768, 2)
    probe.sample(watch.model, *conds, probe.latent(6))
    watch.check()


@pytest.mark.parametrize("cast", [None, ("A", "B", "A", "", "AB", "B")], ids=["one hero", "story"])
def test_windows_of_animatediff_evolved_equal_the_hosts(host, probe, model, cast):
    patched = probe.node(host, model, "custom", story=cast and probe.story_of(*cast))
    conds = probe.conditioning(6, 768, 1), probe.conditioning(1, 768, 2)
    ours, hosts = (
        probe.sample(way, *conds, probe.latent(6))
        for way in (windows.listed_windows(patched, 3), windows.windows(patched, 3, 0, False))
    )
    assert_close(ours, hosts)
    assert (ours - probe.sample(patched, *conds, probe.latent(6))).abs().max() > 1e-3  # whole batch: others share


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_conds_that_run_apart_are_both_seen(host, probe, model, caplog, apply_to):
    """A negative prompt of another length runs apart from the positive one, in a pass of its own."""
    both = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2, tokens=154)
    with caplog.at_level(logging.WARNING):
        ours = probe.sample(probe.node(host, model, "custom", apply_to=apply_to), *both, probe.latent(3))
    assert not messages(caplog) and not torch.equal(ours, probe.sample(model, *both, probe.latent(3)))


# Other packs


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_attention_override_is_called_for_each_of_our_attentions(host, probe, model, conds, when):
    lengths = []

    def override(attention, *args, **kwargs):
        lengths.append((args[0].shape[1], args[1].shape[1]))
        return attention(*args, **kwargs)

    patched = model.clone()
    if when == "before":
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
    patched = probe.node(host, patched, "custom")
    if when == "after":
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
    watch = probe.Probe(patched, "custom")
    probe.sample(watch.model, *conds, probe.latent(3), steps=1)
    watch.check()
    ours = [1 for queries, keys in lengths if keys > queries and keys != 77]
    assert len(ours) == 9 * 2 * 3  # up blocks, cond and uncond, images


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("preset", ["custom", "paper"])
def test_strength_counts_under_an_override_that_ignores_masks(host, probe, model, conds, preset, strength):
    """As kernels of quantized attention do."""

    def ignoring(attention, q, k, v, heads, mask=None, **kwargs):
        return attention(q, k, v, heads, **kwargs)

    options = dict(preset=preset, strength=strength)
    ours = probe.sample(with_override(probe.node(host, model, **options), ignoring), *conds, probe.latent(3))
    assert_close(ours, probe.sample(probe.node(host, model, **options), *conds, probe.latent(3)))


@pytest.mark.parametrize("key", [("output", 5), ("output", 5, 0)])
def test_a_foreign_replace_at_our_key_receives_the_extended_keys(host, probe, model, conds, key):
    foreign = Calls()
    other = model.clone()
    other.set_model_attn1_replace(foreign, *key)
    watch = probe.Probe(probe.node(host, other, "custom", sampling_rate=1.0), "custom", sampling_rate=1.0)
    probe.sample(watch.model, *conds, probe.latent(3), steps=1)
    watch.check()
    tokens = 4  # 8 x 8 latents at a quarter of their size
    assert foreign.shapes == [((1, tokens), (1, 3 * tokens), (1, 3 * tokens))] * 6
    assert sorted(foreign.kinds) == [([0], 1)] * 3 + [([1], 1)] * 3


def test_a_foreign_replace_takes_no_weights_and_is_reported(host, probe, model, conds, caplog):
    foreign = Calls()
    other = model.clone()
    other.set_model_attn1_replace(foreign, "output", 5)
    with caplog.at_level(logging.WARNING):
        probe.sample(probe.node(host, other, "custom", strength=0.5), *conds, probe.latent(3), steps=2)
    assert len(messages(caplog)) == 1 and "Calls does not support weights" in messages(caplog)[0]


def test_a_foreign_replace_elsewhere_is_left_alone(host, probe, model, conds):
    foreign = Calls()
    other = model.clone()
    other.set_model_attn1_replace(foreign, "input", 1)
    watch = probe.Probe(probe.node(host, other, "custom"), "custom")
    probe.sample(watch.model, *conds, probe.latent(3), steps=1)
    watch.check()
    assert foreign.shapes == [((6, 64), (6, 64), (6, 64))]


@pytest.mark.parametrize("key", [("output", 5), ("output", 5, 0)])
def test_a_patch_that_takes_our_place_is_named(host, probe, model, conds, caplog, key):
    patched = probe.node(host, model)
    patched.set_model_attn1_replace(Calls(), *key)
    with caplog.at_level(logging.WARNING):
        probe.sample(patched, *conds, probe.latent(3), steps=1)
    (message,) = messages(caplog)
    assert "Calls was applied after this node and replaces it at output 5" in message


def test_a_patch_that_lengthens_the_context_is_kept(host, probe, model, conds, caplog):
    """Another pack gives every row more keys than it has tokens: its level is left unchanged, with a message."""
    other = model.clone()
    other.set_model_attn1_patch(
        lambda n, context, value, extra: (
            n,
            torch.cat([context, context[:, :4]], 1),
            torch.cat([value, value[:, :4]], 1),
        )
    )
    plain = probe.sample(other, *conds, probe.latent(3), steps=1)
    with caplog.at_level(logging.WARNING):
        ours = probe.sample(probe.node(host, other, "custom"), *conds, probe.latent(3), steps=1)
    assert torch.equal(ours, plain)
    assert messages(caplog)


# Ours, twice


def test_a_second_application_replaces_the_first(host, probe, model, conds):
    once = probe.node(host, model, "custom", seed=4)
    twice = probe.node(host, probe.node(host, model, "paper"), "custom", seed=4)
    assert torch.equal(
        probe.sample(twice, *conds, probe.latent(3)),
        probe.sample(once, *conds, probe.latent(3)),
    )


def test_strength_zero_removes_an_earlier_application(host, probe, model, conds):
    foreign = Calls()
    other = model.clone()
    other.set_model_attn1_replace(foreign, "output", 5)
    undone = probe.node(host, probe.node(host, other), strength=0.0)
    assert undone.model_options["transformer_options"]["patches_replace"]["attn1"] == {("output", 5): foreign}
    assert torch.equal(probe.sample(undone, *conds, probe.latent(3)), probe.sample(other, *conds, probe.latent(3)))


def test_the_input_model_is_not_changed(host, probe, model, conds):
    before = probe.sample(model, *conds, probe.latent(3))
    probe.node(host, model, "custom", blocks="all")
    assert torch.equal(probe.sample(model, *conds, probe.latent(3)), before)
    assert not model.model_options["transformer_options"].get("patches_replace")


def test_an_interrupted_run_leaves_nothing_behind(host, probe, model, conds):
    import comfy.model_management

    patched = probe.node(host, model)
    before = probe.sample(patched, *conds, probe.latent(3), steps=3)
    stopping = patched.clone()
    steps = []

    def stop(out, extra_options):
        steps.append(float(extra_options["sigmas"][0]))
        if len(set(steps)) == 2:
            host.interrupt()
            comfy.model_management.throw_exception_if_processing_interrupted()
        return out

    stopping.set_model_attn1_output_patch(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        probe.sample(stopping, *conds, probe.latent(3), steps=3)
    assert torch.equal(probe.sample(patched, *conds, probe.latent(3), steps=3), before)
