"""Consistent Self-Attention on the host's diffusion transformers, each in its own class, against brute force."""

import pytest
import torch
from harness import transformers
from harness.transformers import FAMILIES, assert_close, brute_force, conds, grid_of


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_brute_force(models, shared, name):
    latents = transformers.latent(name)
    model = models(name)
    ours = transformers.sample(shared(model), *conds(), latents)
    reference = transformers.with_override(model, brute_force(name, latents))
    assert_close(ours, transformers.sample(reference, *conds(), latents))
    plain = transformers.sample(model, *conds(), latents)
    assert (ours - plain).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_rate_one_equals_one_sequence_under_a_mask(models, shared, name):
    """Two images of one size are one sequence in which each row keeps its text to itself."""
    latents = transformers.latent(name)
    model = models(name)
    ours = transformers.sample(shared(model, sampling_rate=1.0), *conds(), latents)
    together = transformers.with_override(model, transformers.OneSequence(name, grid_of(name, latents)))
    assert_close(ours, transformers.sample(together, *conds(), latents))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_sharing_it_is_bit_equal(host, shared, probe, name, dtype):
    """One image, strength 0, rate 0, frames without a common character."""
    model = transformers.build(name, dtype)
    for images, options in (
        (1, {}),
        (2, {"strength": 0.0}),
        (2, {"sampling_rate": 0.0, "sampling_rate_fine": 0.0}),
        (2, {"story": probe.story_of("A", "B")}),
    ):
        latents = transformers.latent(name, images)
        plain = transformers.sample(model, *conds(images), latents)
        assert torch.equal(transformers.sample(shared(model, **options), *conds(images), latents), plain), options


SETTINGS = {
    "anchors": dict(anchors=1),
    "few tokens": dict(rate=0.2, seed=5),
    "half the weight": dict(strength=0.5),
    "twice the weight": dict(strength=2.0),
    "cond alone": dict(apply_to="cond"),
    "beside": dict(positions="beside"),
    "dimmed": dict(positions="dimmed"),
    "reference": dict(positions="reference"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["flux", "flux2", "qwen", "cosmos", "zimage"])
def test_every_setting(models, shared, name, setting):
    options = dict(SETTINGS[setting])
    if setting == "reference" and FAMILIES[name].reference is None:
        with pytest.raises(ValueError, match="was not trained with reference images"):
            shared(models(name), **options)
        return
    latents = transformers.latent(name)
    model = models(name)
    definition = {key: value for key, value in options.items() if key in ("strength", "positions", "rate", "seed")}
    if "anchors" in options:
        definition["sources"] = lambda frame: [0] if frame else []
    if "apply_to" in options:
        definition["conds"] = (0,)
    if rate := options.pop("rate", None):
        options["sampling_rate"] = rate
    ours = transformers.sample(shared(model, **options), *conds(), latents)
    reference = transformers.with_override(model, brute_force(name, latents, **definition))
    assert_close(ours, transformers.sample(reference, *conds(), latents))


@pytest.mark.parametrize("height, width", [(7, 5), (9, 8)])
@pytest.mark.parametrize("name", ["flux", "chroma", "qwen", "zimage", "sd3", "krea2", "cosmos", "wan"])
def test_odd_sizes(models, shared, name, height, width):
    """The host fills up to whole tokens."""
    latents = transformers.latent(name, height=height, width=width)
    model = models(name)
    ours = transformers.sample(shared(model, positions="same"), *conds(), latents)
    reference = transformers.with_override(model, brute_force(name, latents))
    assert_close(ours, transformers.sample(reference, *conds(), latents))


@pytest.mark.parametrize("positions", ["same", "beside"])
@pytest.mark.parametrize("memory", [1 << 13, 1 << 11, 1 << 8])
def test_the_memory_limit_does_not_change_the_result(host, models, probe, memory, positions):
    from storyreel.core.attention.consistent import Settings
    from storyreel.host.attention.patch import apply_consistent_attention
    from storyreel.host.attention.sampling_state import PatchRange

    latents, model = transformers.latent("flux"), models("flux")
    ours, reference = (
        transformers.sample(
            apply_consistent_attention(
                model, Settings(), PatchRange(blocks="all", positions=positions, extra_bytes=limit), None
            ),
            *conds(),
            latents,
        )
        for limit in (memory, 1 << 26)
    )
    assert_close(ours, reference, 2e-6)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde"])
def test_samplers_of_second_order(models, shared, sampler):
    latents, model = transformers.latent("flux"), models("flux")
    ours = transformers.sample(shared(model), *conds(), latents, sampler=sampler, steps=3)
    reference = transformers.with_override(model, brute_force("flux", latents))
    assert_close(ours, transformers.sample(reference, *conds(), latents, sampler=sampler, steps=3))


@pytest.mark.parametrize("name", ["flux", "qwen", "krea2", "sd3"])
def test_without_guidance(models, shared, name):
    """Distilled models run cfg 1: cond alone."""
    latents, model = transformers.latent(name), models(name)
    ours = transformers.sample(shared(model), *conds(), latents, cfg=1.0)
    reference = transformers.with_override(model, brute_force(name, latents))
    assert_close(ours, transformers.sample(reference, *conds(), latents, cfg=1.0))


@pytest.mark.parametrize("name", FAMILIES)
def test_cond_and_uncond_together_or_apart(models, shared, name, monkeypatch):
    """A negative prompt of another length runs apart; so do both where memory is short."""
    import comfy.model_management

    latents, model = transformers.latent(name), models(name)
    patched = shared(model)
    calls = []
    patched.add_wrapper(
        "apply_model", lambda executor, x, *args, **kwargs: (calls.append(len(x)), executor(x, *args, **kwargs))[1]
    )
    together = transformers.sample(patched, *conds(), latents)
    assert set(calls) == {6}
    calls.clear()
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: 0)
    apart = transformers.sample(patched, *conds(), latents)
    assert set(calls) == {3}
    assert_close(apart, together)


@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_the_story_permutes_the_images(models, shared, name):
    order = [2, 0, 1]
    latents, model = transformers.latent(name), models(name)
    (positive, extras), negative = conds()[0][0], conds()[1]
    noise = torch.randn(latents["samples"].shape, generator=torch.Generator().manual_seed(3))

    def sampled(rows):
        from comfy.sample import sample as host_sample

        moved = [[positive[rows], extras | {"pooled_output": extras["pooled_output"][rows]}]]
        patched = shared(model, sampling_rate=1.0)
        with torch.no_grad():
            return host_sample(patched, noise[rows], 2, 3.0, "euler", "simple", moved, negative, latents["samples"])

    assert_close(sampled(order), sampled([0, 1, 2])[order])
