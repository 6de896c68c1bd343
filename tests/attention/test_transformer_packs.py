"""Consistent Self-Attention on transformers beside what other packs do to their blocks, batches and kernels."""

import logging

import pytest
import torch
from harness import transformers
from harness.log import messages
from harness.transformers import FAMILIES, assert_close, brute_force, conds, with_override

# Kernels


@pytest.mark.parametrize("name", ["flux", "qwen", "zimage", "krea2"])
def test_an_override_gets_the_layout_that_the_family_has(shared, models, name):
    """One that was written for [B, heads, tokens, d] alone."""
    latents, model = transformers.latent(name, 2), models(name)

    def by_head(attention, q, k, v, heads, *args, **kwargs):
        for tensor in (q, k, v):
            batch, count, tokens, dim = tensor.shape
            assert count == heads and kwargs["skip_reshape"]
        return attention(q, k, v, heads, *args, **kwargs)

    ours = transformers.sample(with_override(shared(model), by_head), *conds(2), latents)
    assert_close(ours, transformers.sample(shared(model), *conds(2), latents), 1e-6)


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_strength_counts_under_an_override_that_ignores_masks(shared, models, name, strength):
    latents, model = transformers.latent(name), models(name)

    def ignoring(attention, q, k, v, heads, mask=None, **kwargs):
        return attention(q, k, v, heads, **kwargs)

    ours = transformers.sample(with_override(shared(model, strength=strength), ignoring), *conds(), latents)
    definition = with_override(model, brute_force(name, latents, strength=strength))
    assert_close(ours, transformers.sample(definition, *conds(), latents))


def test_a_wrapper_may_name_the_arguments_of_the_model(shared, models):
    latents, model = transformers.latent("flux", 2), models("flux")

    def named(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        return executor(
            x,
            t,
            c_concat=c_concat,
            c_crossattn=c_crossattn,
            control=control,
            transformer_options=transformer_options,
            **kwargs,
        )

    patched = model.clone()
    patched.add_wrapper("apply_model", named)
    ours = transformers.sample(shared(patched), *conds(2), latents)
    assert torch.equal(ours, transformers.sample(shared(model), *conds(2), latents))


# Blocks


@pytest.mark.parametrize("skipped", [(1,), (0, 1)])
def test_skipped_blocks_of_sd3_leave_the_others_their_number(host, shared, skipped):
    """The host's Skip Layer Guidance computes a pass without some blocks."""
    latents = transformers.latent("sd3", 2)
    model = transformers.build("sd3", num_blocks=4)
    skip = host.nodes["SkipLayerGuidanceDiT"].execute
    settings = dict(double_layers=",".join(map(str, skipped)), single_layers="", scale=3.0, start_percent=0.0)
    settings |= dict(end_percent=1.0, rescaling_scale=0.0)

    def guided(model):
        return skip(model=model, **settings).result[0]

    class Named(transformers.BruteForce):
        """Blocks by what the host's own loop calls."""

        def block(self, options):
            return options["block_index"]

    definition = Named("sd3", transformers.grid_of("sd3", latents), **rule(latents), blocks={2, 3})
    reference = with_override(named_blocks(guided(model)), definition)
    ours = transformers.sample(guided(shared(model, blocks="last half")), *conds(2), latents)
    assert_close(ours, transformers.sample(reference, *conds(2), latents))


def rule(latents) -> dict:
    """What `brute_force` hands to the definition."""
    made = brute_force("sd3", latents)
    return dict(drawn=made.drawn, sources=made.sources)


def named_blocks(model):
    """A clone whose SD3 blocks write their number into the options of their attention."""
    patched = model.clone()
    network = patched.model.diffusion_model
    numbers = {id(block): number for number, block in enumerate(network.joint_blocks)}

    def number(executor, *args, **kwargs):
        hooks = [
            block.register_forward_pre_hook(
                lambda block, args, kwargs: (
                    args,
                    kwargs
                    | {"transformer_options": kwargs["transformer_options"] | {"block_index": numbers[id(block)]}},
                ),
                with_kwargs=True,
            )
            for block in network.joint_blocks
        ]
        try:
            return executor(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    patched.add_wrapper("apply_model", number)
    return patched


def test_cross_attention_that_is_called_twice_moves_no_block(shared, caplog):
    """As an adapter does on Cosmos."""
    import inspect

    import comfy.ldm.cosmos.predict2

    if "block_index" not in inspect.getsource(comfy.ldm.cosmos.predict2):
        pytest.skip("this ComfyUI does not name the blocks of Cosmos")
    latents, model = transformers.latent("cosmos", 2), transformers.build("cosmos")
    once = transformers.sample(shared(model), *conds(2), latents)
    for block in model.model.diffusion_model.blocks:
        attention = block.cross_attn
        attention.forward = lambda *args, forward=attention.forward, **kwargs: (
            (forward(*args, **kwargs) + forward(*args, **kwargs)) / 2
        )
    with caplog.at_level(logging.WARNING):
        twice = transformers.sample(shared(model), *conds(2), latents)
    assert_close(twice, once, 1e-6)
    assert not messages(caplog)


def test_passes_that_are_skipped_whole_are_no_fault(host, shared, models, caplog):
    """The host's EasyCache takes the result of an earlier step."""
    latents, model = transformers.latent("flux", 2), models("flux")
    cache = host.nodes["EasyCache"].execute
    settings = dict(reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False)
    with caplog.at_level(logging.WARNING):
        transformers.sample(cache(model=shared(model), **settings).result[0], *conds(2), latents, steps=6)
    assert not messages(caplog)


def test_blocks_that_another_patch_takes_are_counted(shared, models, caplog):
    latents, model = transformers.latent("flux", 2), models("flux")
    patched = shared(model)
    patched.set_model_patch_replace(lambda args, extra: args, "dit", "single_block", 0)
    with caplog.at_level(logging.WARNING):
        transformers.sample(patched, *conds(2), latents)
    (message,) = messages(caplog)
    assert "2 of 4 chosen blocks" in message or "1 of 4 chosen blocks" in message


@pytest.mark.parametrize("order", ["before", "after"])
def test_cached_reference_images_are_read(host, shared, models, order):
    """The host's Flux KV Cache hands on the keys of reference images without their queries after the first step."""
    latents, model = transformers.latent("flux2", 2), models("flux2")
    cache, steps = host.nodes["FluxKVCache"].execute, dict(steps=3, cfg=1.0)
    reference = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(9))
    both = conds(2, reference_latents=[reference])

    def cached(model):
        return cache(model=model).result[0]

    patched = cached(shared(model)) if order == "after" else shared(cached(model))
    ours = transformers.sample(patched, *both, latents, **steps)
    definition = brute_force("flux2", latents, references=16)
    assert_close(ours, transformers.sample(with_override(cached(model), definition), *both, latents, **steps))


# Batches


def in_tiles(apply_model, given):
    """As tiled diffusion packs: the halves of all images, one behind the other in the batch."""
    x, conds = given["input"], given["c"]
    half = x.shape[-1] // 2

    def twice(value):
        return torch.cat([value, value]) if torch.is_tensor(value) and value.ndim and len(value) == len(x) else value

    tiles = torch.cat([x[..., :half], x[..., half:]])
    out = apply_model(tiles, twice(given["timestep"]), **{name: twice(value) for name, value in conds.items()})
    return torch.cat([out[: len(x)], out[len(x) :]], -1)


@pytest.mark.parametrize("name", ["flux", "sd15"])
def test_tiles_share_nothing_and_say_so(host, probe, shared, models, narrow, caplog, name):
    unet = name == "sd15"
    model = narrow.clone() if unet else models(name)
    model.set_model_unet_function_wrapper(in_tiles)
    both = (probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)) if unet else conds(2)
    latents = probe.latent(2, 16, 16) if unet else transformers.latent(name, 2, height=8, width=8)
    sample = probe.sample if unet else transformers.sample
    plain = sample(model, *both, latents)
    with caplog.at_level(logging.WARNING):
        ours = sample(shared(model, story=probe.story_of("A", "A")), *both, latents)
    assert torch.equal(ours, plain)
    assert any("passes 4 images at a time and the batch has 2" in message for message in messages(caplog))


def test_a_mask_of_each_block_counts_there(shared, models):
    """Another pack's patch returns another mask in each block of Krea 2."""
    latents, model = transformers.latent("krea2", 2), models("krea2")
    tokens = transformers.TEXT + 12

    def masked(q, k, v, pe=None, attn_mask=None, extra_options=None):
        mask = torch.zeros(1, 1, tokens)
        mask[..., extra_options["block_index"]] = -torch.inf
        return {"q": q, "k": k, "v": v, "pe": pe, "attn_mask": mask}

    other = model.clone()
    other.set_model_attn1_patch(masked)
    ours = transformers.sample(shared(other), *conds(2), latents)
    definition = with_override(other, brute_force("krea2", latents))
    assert_close(ours, transformers.sample(definition, *conds(2), latents))


def test_a_guider_of_three_prompts_shares_in_all(host, shared, models, caplog):
    latents, model = transformers.latent("flux", 2), models("flux")
    positive, negative = conds(2)
    guide = host.nodes["DualCFGGuider"].execute
    noise, sampler, sigmas = (
        host.nodes["RandomNoise"].execute(1).result[0],
        host.nodes["KSamplerSelect"].execute("euler").result[0],
        torch.tensor([1.0, 0.5, 0.0]),
    )

    def run(model):
        guider = guide(model, positive, positive, negative, 3.0, 2.0, "regular").result[0]
        return host.nodes["SamplerCustomAdvanced"].execute(noise, guider, sampler, sigmas, latents).result[0]["samples"]

    with caplog.at_level(logging.WARNING):
        ours = run(shared(model, apply_to="cond"))
    assert torch.equal(ours, run(shared(model)))
    (message,) = messages(caplog)
    assert "apply_to is cond, and this guider has 3 conds" in message


# Settings without effect


def test_the_rate_of_fine_levels_has_no_effect_and_says_so(shared, models, caplog):
    latents, model = transformers.latent("flux", 2), models("flux")
    with caplog.at_level(logging.WARNING):
        ours = transformers.sample(shared(model, sampling_rate_fine=0.9), *conds(2), latents)
    assert any("sampling_rate_fine has no effect on a transformer" in record.message for record in caplog.records)
    assert torch.equal(ours, transformers.sample(shared(model), *conds(2), latents))


def test_rate_0_of_the_one_level_is_named(shared, models, caplog):
    with caplog.at_level(logging.WARNING):
        shared(models("flux"), sampling_rate=0.0)
    assert any("sampling_rate is 0" in record.message for record in caplog.records)


def test_compiling_the_model_leaves_this_attention_out(shared, models):
    """Else every draw of tokens is compiled anew."""
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    frames = []

    def count(graph, inputs):
        frames.append(graph)
        return graph.forward

    latents, model = transformers.latent("flux", 2), models("flux")
    expected = transformers.sample(shared(model), *conds(2), latents, steps=4)
    torch._dynamo.reset()
    compiled = shared(model)
    set_torch_compile_wrapper(compiled, backend=count, keys=["diffusion_model"])
    ours = transformers.sample(compiled, *conds(2), latents, steps=4)
    torch._dynamo.reset()
    assert_close(ours, expected)
    assert len(frames) <= 4 * len(FAMILIES["flux"].blocks) * 2 + 8, len(frames)
