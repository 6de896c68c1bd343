"""StoryReelConsistentAttention in the real host: every attention call of real sampling runs against the brute force."""

import math

import pytest
import torch
from harness import tiny
from harness.masks import left_half

FAMILIES = {"sd15_full": 768, "sd2_full": 1024, "sdxl_slim": 2048}
STORY = ("A", "A", "", "B", "AB")


@pytest.fixture
def run(host, probe, model):
    """Sample `images` images of SD1.5 with the given model or node settings; (latents, Probe)."""

    def run(images=3, preset="low-vram", story=None, source=None, positive=None, negative=None, **options):
        names = ("steps", "cfg", "sampler", "seed")
        sampling = {name: options.pop(name) for name in names if name in options}
        size = {name: options.pop(name) for name in ("height", "width") if name in options}
        patched = probe.node(host, source or model, preset, story=story, **options)
        watch = probe.Probe(patched, preset, cast=story and story.cast, **options)
        samples = probe.sample(
            watch.model,
            positive or probe.conditioning(images, 768, 1),
            negative or probe.conditioning(1, 768, 2),
            probe.latent(images, **size),
            **sampling,
        )
        return samples, watch

    return run


@pytest.mark.parametrize(
    ("family", "preset"),
    [
        *(("sd15_full", preset) for preset in ("low-vram", "mask", "paper", "custom")),
        *((family, preset) for family in ("sd2_full", "sdxl_slim") for preset in ("low-vram", "paper")),
    ],
)
def test_every_preset_and_every_family(host, probe, tiny_checkpoint, family, preset):
    """Presets differ from each other as they do on SD1.5, families in the layout of their blocks."""
    model, width = host.load_model(tiny_checkpoint(family)), FAMILIES[family]
    story = probe.story_of(*STORY)
    watch = probe.Probe(probe.node(host, model, preset, story=story), preset, cast=story.cast)
    probe.sample(
        watch.model,
        probe.conditioning(len(STORY), width, 1),
        probe.conditioning(1, width, 2),
        probe.latent(len(STORY)),
    )
    watch.check()


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde"])
def test_samplers_of_first_and_second_order(run, sampler):
    _, watch = run(steps=4, sampler=sampler)
    watch.check()
    assert set(watch.steps) >= {0, 1, 2, 3}


def test_without_guidance(run):
    _, watch = run(cfg=1.0)
    watch.check()


@pytest.mark.parametrize("height, width", [(8, 24), (16, 16), (10, 14), (9, 13)])
def test_any_aspect_ratio(run, height, width):
    _, watch = run(height=height, width=width)
    watch.check()


@pytest.mark.parametrize("apply_to", ["cond", "uncond"])
def test_one_half_of_guidance(run, apply_to):
    _, watch = run(apply_to=apply_to)
    watch.check()


@pytest.mark.parametrize("strength", [0.3, 2.0])
@pytest.mark.parametrize("preset", ["low-vram", "paper"])
def test_strength(run, strength, preset):
    _, watch = run(preset=preset, strength=strength)
    watch.check()


@pytest.mark.parametrize("mask", [left_half(0.5), left_half(0.25, 0.75, 0.0)], ids=["one for all", "one each"])
@pytest.mark.parametrize("preset", ["low-vram", "paper"])
def test_a_mask_says_where_tokens_are_lent_and_borrowed(run, preset, mask):
    _, watch = run(preset=preset, mask=mask, blocks="all")
    watch.check()


def test_a_mask_of_everything_or_nothing_is_bit_equal(host, probe, model):
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    plain = probe.sample(model, *conds, probe.latent(3))
    shared = probe.sample(probe.node(host, model), *conds, probe.latent(3))
    everything, nothing = (
        probe.sample(probe.node(host, model, mask=left_half(share)), *conds, probe.latent(3)) for share in (1, 0)
    )
    assert torch.equal(everything, shared) and torch.equal(nothing, plain) and not torch.equal(plain, shared)


def test_one_image_takes_masks_and_a_story_of_several(host, probe, model):
    """It shares nothing: bit-equal to the model without this node, as any single image."""
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    patched = probe.node(host, model, mask=left_half(0.5, 0.5, 0.5, 0.5), story=probe.story_of("A", "A", "A", "A"))
    assert torch.equal(probe.sample(patched, *conds, probe.latent(1)), probe.sample(model, *conds, probe.latent(1)))


def test_masks_of_another_number_are_refused(host, probe, model):
    patched = probe.node(host, model, mask=left_half(0.5, 0.5))
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    with pytest.raises(ValueError, match="MASK has 2 images and the LATENT has 3"):
        probe.sample(patched, *conds, probe.latent(3))


def test_dense_early_read(run):
    _, watch = run(images=5, preset="mask", dense_early_read=True, anchors=2, start_percent=0.6, steps=3)
    watch.check()


@pytest.mark.parametrize("blocks", ["up", "middle", "middle and up", "down", "all"])
def test_blocks(run, blocks):
    _, watch = run(preset="custom", blocks=blocks)
    watch.check()
    layers = {"up": 9, "middle": 1, "middle and up": 10, "down": 6, "all": 16}
    assert len(watch.errors) == layers[blocks] * 2  # two steps, both halves in one call


def test_start_and_end(run):
    _, watch = run(preset="custom", start_percent=0.3, end_percent=0.7, steps=5)
    watch.check()
    assert 0 < watch.calls["shared"] < watch.calls["plain"]


def test_dense_attention_over_the_batch_at_rate_one(run, probe, host, model):
    """Rate 1 in all layers is a network whose self-attention sees the whole batch as one sequence."""
    from comfy.ldm.modules.attention import optimized_attention

    options = dict(preset="custom", blocks="all", sampling_rate=1.0, sampling_rate_fine=1.0)
    ours, watch = run(steps=1, **options)
    watch.check()

    def dense(q, k, v, extra_options):
        halves = len(extra_options["cond_or_uncond"])
        q, k, v = (t.reshape(halves, -1, t.shape[-1]) for t in (q, k, v))
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        return out.reshape(
            -1, extra_options["activations_shape"][-2] * extra_options["activations_shape"][-1], out.shape[-1]
        )

    reference = model.clone()
    for kind, count in (("input", 12), ("middle", 1), ("output", 12)):
        for number in range(count):
            reference.set_model_attn1_replace(dense, kind, number)
    theirs = probe.sample(
        reference, probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2), probe.latent(3), steps=1
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


# Exactness


@pytest.mark.parametrize("preset", ["low-vram", "mask", "paper"])
def test_one_image_is_bit_equal(host, probe, model, preset):
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    plain = probe.sample(model, *conds, probe.latent(1))
    patched = probe.node(host, model, preset, story=probe.story_of("A"))
    assert torch.equal(probe.sample(patched, *conds, probe.latent(1)), plain)


@pytest.mark.parametrize("preset", ["low-vram", "mask", "paper"])
def test_strength_zero_is_bit_equal(host, probe, model, preset):
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    plain = probe.sample(model, *conds, probe.latent(3))
    assert torch.equal(probe.sample(probe.node(host, model, preset, strength=0.0), *conds, probe.latent(3)), plain)
    assert not torch.equal(probe.sample(probe.node(host, model, preset), *conds, probe.latent(3)), plain)


@pytest.mark.parametrize("preset", ["low-vram", "mask", "paper"])
def test_nc_frames_are_bit_equal(host, probe, model, preset):
    story = probe.story_of("A", "", "A", "")
    conds = probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)
    plain = probe.sample(model, *conds, probe.latent(4), steps=3)
    ours = probe.sample(probe.node(host, model, preset, story=story), *conds, probe.latent(4), steps=3)
    assert [torch.equal(a, b) for a, b in zip(ours, plain, strict=True)] == [False, True, False, True]


def test_the_order_of_the_batch_does_not_matter_at_rate_one(host, probe, model):
    order = [2, 0, 1]
    patched = probe.node(host, model, "custom", sampling_rate=1.0, sampling_rate_fine=1.0)
    positive, negative = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    latent = probe.latent(3)
    straight = probe.sample(patched, positive, negative, {**latent, "batch_index": [0, 1, 2]}, steps=1)
    permuted = probe.sample(patched, [[positive[0][0][order], {}]], negative, {**latent, "batch_index": order}, steps=1)
    torch.testing.assert_close(permuted, straight[order], rtol=0, atol=1e-4 * straight.abs().max().item())


def test_halves_together_or_apart(host, probe, model, monkeypatch):
    """With little free memory the host runs each half of guidance by itself."""
    patched = probe.node(host, model, "low-vram")
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    seen = []
    counted = patched.clone()
    counted.set_model_attn2_patch(lambda q, k, v, extra: (seen.append(tuple(extra["cond_or_uncond"])), (q, k, v))[1])
    together = probe.sample(counted, *conds, probe.latent(3), steps=2)
    assert {len(kinds) for kinds in seen} == {2}
    seen.clear()
    monkeypatch.setattr(type(patched), "get_free_memory", lambda self, device: 0)
    apart = probe.sample(counted, *conds, probe.latent(3), steps=2)
    assert {len(kinds) for kinds in seen} == {1}
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-5 * together.abs().max().item())


def test_each_half_agrees_when_run_apart(run, model, monkeypatch):
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    _, watch = run()
    watch.check()


def test_a_second_run_with_other_steps_size_and_number(host, probe, model):
    """One patched model, run after run: nothing of an earlier run is left."""
    patched = probe.node(host, model)
    runs = [(3, 16, 8, 2), (2, 8, 24, 3), (4, 16, 16, 1), (3, 16, 8, 2)]
    results = []
    for images, height, width, steps in runs:
        conds = probe.conditioning(images, 768, 1), probe.conditioning(1, 768, 2)
        results.append(probe.sample(patched, *conds, probe.latent(images, height, width), steps=steps))
    assert torch.equal(results[0], results[-1])


def test_the_memory_limit_does_not_change_the_pictures(host, probe, model):
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    large, small = (
        probe.sample(probe.node(host, model, memory_mb=mb), *conds, probe.latent(3, 16, 16), steps=2) for mb in (64, 1)
    )
    torch.testing.assert_close(small, large, rtol=0, atol=1e-4 * large.abs().max().item())


def test_seed_chooses_the_draws_and_nothing_else_does(host, probe, model):
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)

    def once(seed):
        return probe.sample(probe.node(host, model, seed=seed), *conds, probe.latent(3))

    first = once(3)
    torch.manual_seed(123)
    assert torch.equal(once(3), first)
    assert not torch.equal(once(4), first)


# Conditions of every kind


def test_two_positives(run, probe):
    two = probe.conditioning(3, 768, 1) + probe.conditioning(3, 768, 5)
    _, watch = run(positive=two)
    watch.check()


def test_an_area_cond(run, probe):
    area = probe.conditioning(3, 768, 5, area=(8, 8, 4, 0), strength=1.0, set_area_to_bounds=False)
    _, watch = run(positive=probe.conditioning(3, 768, 1) + area)
    watch.check()


def test_conds_of_different_lengths_run_apart(run, probe):
    _, watch = run(positive=probe.conditioning(3, 768, 1, tokens=400))
    watch.check()


def test_hooks(run, probe, host):
    """A LoRA hook on one of two positives: its own forward pass, with other weights."""
    import comfy.hooks

    weight = torch.randn(tiny.NARROW, 4), torch.randn(4, tiny.NARROW)
    lora = {
        "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_k.lora_up.weight": weight[0],
        "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_k.lora_down.weight": weight[1],
    }
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    hooked = probe.conditioning(3, 768, 5, hooks=hooks)
    _, watch = run(positive=probe.conditioning(3, 768, 1) + hooked)
    watch.check()


# Refusals


def test_a_story_of_another_length_is_refused(host, probe, model):
    patched = probe.node(host, model, story=probe.story_of("A", "A", "B"))
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    with pytest.raises(ValueError, match="STORY has 3 frames and the LATENT has 2 images"):
        probe.sample(patched, *conds, probe.latent(2))


@pytest.mark.parametrize("prefix", ["preset.", ""])
def test_an_api_prompt_may_name_a_presets_inputs_with_or_without_the_preset(host, model, prefix):
    """Left out, an input has its preset's value; a wrong value or name is refused by name."""

    def patch(**inputs):
        prompt = {
            "model": {"class_type": "GiveModel", "inputs": {}},
            "ours": {
                "class_type": "StoryReelConsistentAttention",
                "inputs": {"model": ["model", 0], "preset": "paper", "strength": 1.0, "seed": 0}
                | {prefix + name: value for name, value in inputs.items()},
            },
            "show": {"class_type": "KeepModel", "inputs": {"model": ["ours", 0]}},
        }
        with host.node(model_source(model)), host.node(model_sink()):
            return host.run(prompt).values["ours"][0]

    def config(model):
        return model.model_options["transformer_options"]["patches_replace"]["attn1"]["output", 5].config

    plain, changed = config(patch()), config(patch(sampling_rate=0.25, blocks="up"))
    assert (plain.settings.sampling_rate, plain.patch_range.blocks, plain.settings.rules.tile_size) == (0.5, "auto", 3)
    assert plain.patch_range.unet_blocks == "all"
    assert (changed.settings.sampling_rate, changed.patch_range.blocks, changed.settings.rules.tile_size) == (
        0.25,
        "up",
        3,
    )
    for name, value in [
        ("sampling_rate", 2.0),
        ("tile_stride", 0),
        ("blocks", "sideways"),
        ("sampling_rate", math.nan),
        ("anchors", [4]),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=name):
            patch(**{name: value})
    if not prefix:
        with pytest.raises(RuntimeError, match="smapling_rate is not an input of the preset paper"):
            patch(smapling_rate=0.5)


def model_source(model):
    """A node that hands out this MODEL."""
    from comfy_api.latest import io

    class GiveModel(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("GiveModel", inputs=[], outputs=[io.Model.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput(model)

    return GiveModel


def model_sink():
    """An output node for a MODEL, so that the host runs what comes before it."""
    from comfy_api.latest import io

    class KeepModel(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("KeepModel", inputs=[io.Model.Input("model")], outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, model):
            return io.NodeOutput()

    return KeepModel


# Cost


def test_keys_and_values_are_projected_once(host, probe, model):
    """However many images borrow a token, its key and its value are computed once a forward pass."""
    patched = probe.node(host, model, "custom", blocks="all")
    unet = patched.model.diffusion_model
    rows = []
    hooks = []
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_k", "attn1.to_v")):
            hooks.append(module.register_forward_hook(lambda m, inputs, out: rows.append(inputs[0].shape[:2].numel())))
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    try:
        probe.sample(model, *conds, probe.latent(3), steps=1)
        plain, rows[:] = list(rows), []
        probe.sample(patched, *conds, probe.latent(3), steps=1)
    finally:
        for hook in hooks:
            hook.remove()
    assert rows == plain and len(rows) == 32


def test_the_host_is_told_of_the_extra_memory(host, probe, model):
    """The host loads models against an estimate that holds the setting."""
    import comfy.model_management

    asked = []
    load = comfy.model_management.load_models_gpu

    def listen(models, memory_required=0, **options):
        asked.append((memory_required, options.get("minimum_memory_required")))
        return load(models, memory_required=memory_required, **options)

    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    comfy.model_management.load_models_gpu = listen
    try:
        for source in (model, probe.node(host, model, memory_mb=2048)):
            probe.sample(source, *conds, probe.latent(3), steps=1)
    finally:
        comfy.model_management.load_models_gpu = load
    (plain, least), (ours, ours_least) = asked
    assert ours - plain >= 2048 << 20 and ours_least - least >= 2048 << 20
