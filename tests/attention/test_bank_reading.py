"""Runs that read a bank, in the real host: each attention call against the brute force, and beside other patches."""

import logging

import pytest
import torch
from harness import tiny, windows
from harness.bank_runs import BOTH, differs
from harness.log import messages


@pytest.fixture
def two(host, model, probe, record):
    """A bank of A and B, recorded in two steps; keyword arguments as `record`."""

    def two(model=model, **options):
        options = {"preset": "custom", "sampling_rate": 0.6, "sampling_rate_fine": 0.6} | options
        return record(model, probe.story_of("A", "B"), **options)[1]

    return two


@pytest.fixture
def read(host, model, probe):
    """Sample frames that read a bank under `ReadingProbe`; (latents, probe)."""

    from harness.bank_probe import ReadingProbe

    def read(bank, *, model=model, cast=BOTH, latent=None, positive=None, negative=None, patch=None, **options):
        sampling = {name: options.pop(name) for name in ("steps", "cfg", "sampler") if name in options}
        story = probe.story_of(*cast)
        watched = {name: options[name] for name in options if name not in ("memory_mb",)}
        options = {"preset": "custom"} | options
        reader = probe.node(host, model, story=story, bank=bank, **options)
        watch = ReadingProbe(reader, bank, story.cast, **watched)
        conds = positive or probe.conditioning(len(cast), 768, 1), negative or probe.conditioning(1, 768, 2)
        out = probe.sample(
            watch.model if patch is None else patch(watch.model), *conds, latent or probe.latent(len(cast)), **sampling
        )
        return out, watch

    return read


SETTINGS = [
    {},
    {"strength": 0.5},
    {"strength": 2.0},
    {"apply_to": "cond"},
    {"apply_to": "uncond"},
    {"cfg": 1.0},
    {"steps": 5},
    {"sampler": "heun", "steps": 3},
    {"sampler": "dpm_2", "steps": 3},
    {"sampler": "dpmpp_sde", "steps": 3},
    {"layer_prob_early": 0.5, "layer_prob_late": 0.3},
    {"sampling_rate": 0.3, "sampling_rate_fine": 0.2},
    {"sampling_rate": 1.0, "sampling_rate_fine": 1.0},
    {"start_percent": 0.3, "end_percent": 0.9, "steps": 5},
    {"memory_mb": 1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_reading_call_equals_the_brute_force(two, read, settings):
    _, watch = read(two(), **settings)
    watch.check()


@pytest.mark.parametrize(
    "recording",
    [{"step_stride": 2, "steps": 5}, {"step_stride": 3, "steps": 5}, {"layer_prob_early": 0.5, "steps": 4},
     {"blocks": "all"}, {"seed": 7, "strength": 3.0}, {"cfg": 1.0}, {"sampler": "heun"}, {"preset": "low-vram"}],
    ids=str,
)  # fmt: skip
def test_of_any_recording(two, read, recording):
    _, watch = read(two(**recording), steps=3)
    watch.check()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 6), (16, 16), (7, 9), (5, 13)])
def test_frames_of_other_sizes(two, read, probe, height, width):
    _, watch = read(two(), latent=probe.latent(4, height, width))
    watch.check()


def test_frames_read_their_characters_only_and_nobody_reads_nothing(host, model, probe, record, two, read):
    """A reads A's image and B reads B's, AB reads both; a frame of nobody is that of the plain model, bit by bit."""
    bank, conds = two(), (probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2))
    plain = probe.sample(model, *conds, probe.latent(4))
    ours, _ = read(bank)
    assert torch.equal(ours[3], plain[3]) and not any(torch.equal(ours[i], plain[i]) for i in range(3))
    other = record(
        model, probe.story_of("A", "B"), preset="custom", sampling_rate=0.6, sampling_rate_fine=0.6,
        conds=([[torch.cat([probe.conditioning(2, 768, 1)[0][0][:1], torch.zeros(1, 77, 768)]), {}]], conds[1]),
    )[1]  # fmt: skip
    bank.recordings[0].tokens |= {k: v for k, v in other.recordings[0].tokens.items() if k[0] == 1}  # another B
    changed, _ = read(bank)
    assert [torch.equal(a, b) for a, b in zip(ours, changed, strict=True)] == [True, False, False, True]


def test_other_characters_share_as_without_a_bank(host, model, probe, record):
    bank = record(model, probe.story_of("A"), preset="custom")[1]
    conds = probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)
    story = probe.story_of("AB", "B", "B", "A")
    with_bank, without = (
        probe.sample(probe.node(host, model, "custom", story=story, anchors=1, bank=b), *conds, probe.latent(4))
        for b in (bank, None)
    )
    equal = [torch.equal(a, b) for a, b in zip(with_bank, without, strict=True)]
    assert equal == [False, True, True, False]  # B's anchor is the first frame that shows B alone, not AB


def test_strength_zero_reads_nothing(host, model, probe, two, read):
    conds = probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)
    out, bank = probe.sample(model, *conds, probe.latent(4)), two()
    ours = probe.node(host, model, story=probe.story_of(*BOTH), bank=bank, strength=0.0)
    assert torch.equal(probe.sample(ours, *conds, probe.latent(4)), out)


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 2e-3), ("fp8", 8e-2)])
def test_precision(two, read, precision, bound):
    """fp16 keeps 11 bits of a token and fp8 4."""
    exact, bank = two(), two(precision=precision)
    assert bank.bytes * (2 if precision == "fp16" else 4) == exact.bytes
    ours, watch = read(bank)
    watch.check()
    assert 0 < differs(ours, read(exact)[0]) <= bound


def test_masks(host, model, probe, record):
    """Tokens outside the recorded mask are not in the bank; frames read inside their own mask alone."""
    story, left = probe.story_of("A"), torch.zeros(1, 64, 64)
    left[..., :32] = 1
    options = dict(preset="custom", sampling_rate=1.0, sampling_rate_fine=1.0)
    (recording,) = record(model, story, mask=left, **options)[1].recordings
    for (_, _, pixels), index in recording.indices.items():
        side = 64 // pixels
        assert index.tolist() == [token for token in range(side**2) if token % side < max(1, side // 2)]
    bank = record(model, story, **options)[1]
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    patched = probe.node(host, model, story=story, bank=bank, mask=left, **options)
    outs = []
    for watched in (patched, model):
        seen = watched.clone()
        seen.set_model_attn1_output_patch(
            lambda out, extra: (outs.append(out) if extra["block"] == ("output", 3) else None, out)[1]
        )
        probe.sample(seen, *conds, probe.latent(1), steps=1)
    ours, plain = (out.unflatten(1, (2, 2)) for out in outs)
    assert torch.equal(ours[:, :, 1], plain[:, :, 1]) and not torch.equal(ours[:, :, 0], plain[:, :, 0])


def test_a_bank_of_other_blocks_is_reported(two, read, caplog):
    bank = two(blocks="middle")
    with caplog.at_level(logging.WARNING):
        _, watch = read(bank)
    watch.check(shared=False)
    assert any("no layer of this run found tokens in the bank" in message for message in messages(caplog))


@pytest.mark.parametrize(
    "cast, message",
    [
        (("A", "B", ""), None),
        (("A", "C", ""), "the bank holds A, B, and not C, whose frames read nothing from it."),
        (("C", "D"), "the bank holds A, B, and not C and D, whose frames read nothing from it."),
        (("", ""), None),
    ],
    ids=str,
)
def test_a_character_that_the_bank_lacks_is_named(two, read, caplog, cast, message):
    bank = two()
    with caplog.at_level(logging.WARNING):
        read(bank, cast=cast)
    found = [shown.partition(": ")[2] for shown in messages(caplog) if "the bank holds" in shown]
    assert found == ([message] if message else [])


# How the host calls the model


def test_conds_together_or_apart(two, read, monkeypatch, model):
    bank = two()
    together, _ = read(bank)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    apart, watch = read(bank)
    watch.check()
    assert differs(apart, together) <= 1e-5
    recorded_apart = two()
    for slot, tokens in bank.recordings[0].tokens.items():
        assert differs(recorded_apart.recordings[0].tokens[slot], tokens) <= 1e-4


def test_several_positives_and_areas(host, probe, two, read):
    (whole,), (part,) = probe.conditioning(4, 768, 1), probe.conditioning(4, 768, 5)
    (area,) = host.nodes["ConditioningSetArea"]().append([part], 64, 128, 64, 0, 1.0)[0]
    bank = two()
    _, watch = read(bank, positive=[whole, part])
    watch.check()
    _, watch = read(bank, positive=[whole, area], latent=probe.latent(4, 16, 16))
    watch.check()


def test_context_windows(two, read, probe):
    bank = two()
    whole, _ = read(bank)
    ours, watch = read(bank, patch=lambda model: windows.windows(model, 2, 0, False))
    watch.check()
    assert differs(ours, whole) <= 1e-4  # a frame reads the bank alone, so its window does not matter
    in_windows = two(patch=lambda model: windows.windows(model, 1, 0, False), anchors=1)
    assert in_windows.recordings[0].tokens.keys() == bank.recordings[0].tokens.keys()


# Other patches


@pytest.fixture
def lora(model):
    """A LoRA on the key projections of the layers that read."""
    import comfy.sd

    name = "lora_unet_output_blocks_{}_1_transformer_blocks_0_attn1_to_k.lora_{}.weight"
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for block in range(3, 12):
        weights[name.format(block, "up")] = torch.randn(tiny.NARROW, 4, generator=generator) / 8
        weights[name.format(block, "down")] = torch.randn(4, tiny.NARROW, generator=generator) / 8
    return lambda model: comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]


def test_a_lora_projects_the_stored_tokens(two, read, lora, model):
    bank = two()
    plain, _ = read(bank)
    ours, watch = read(bank, model=lora(model))
    watch.check()
    assert not torch.equal(ours, plain)
    _, watch = read(bank, patch=lora)  # after our node
    watch.check()
    _, watch = read(two(model=lora(model)))  # of the same checkpoint
    watch.check()


@pytest.mark.parametrize("first", [True, False])
def test_other_packs_in_the_same_place(two, read, model, first):
    """A replacement that stood there gets the stored keys, too; patches of cross-attention change nothing."""
    from comfy.ldm.modules.attention import optimized_attention

    lengths = []

    def foreign(q, k, v, extra_options):
        lengths.append((q.shape[1], k.shape[1]))
        return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options)

    def ip_adapter(q, k, v, extra_options):
        return q, torch.cat([k, k[:, :4]], 1), torch.cat([v, v[:, :4]], 1)

    other = model.clone()
    if first:
        other.set_model_attn1_replace(foreign, "output", 5)
    other.set_model_attn2_patch(ip_adapter)
    ours, watch = read(two(), model=other)
    watch.check()
    assert any(keys > queries for queries, keys in lengths) == first


@pytest.fixture
def by_host(host):
    """A MODEL patched by a node of the host."""

    def by_host(model, name, **inputs):
        cls = host.nodes[name]
        out = cls.execute(model=model, **inputs) if hasattr(cls, "GET_SCHEMA") else cls().patch(model, **inputs)
        return getattr(out, "result", out)[0]

    return by_host


PATCHES = {
    "PerturbedAttentionGuidance": dict(scale=3.0),
    "FreeU": dict(b1=1.1, b2=1.2, s1=0.6, s2=0.4),
    "TomePatchModel": dict(ratio=0.3),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("node", PATCHES)
def test_the_hosts_own_patches(by_host, probe, two, read, model, node, first):
    def patched(model):
        return by_host(model, node, **PATCHES[node])

    bank, latent = two(blocks="all", latent=probe.latent(2, 16, 16)), probe.latent(4, 16, 16)
    where = dict(model=patched(model)) if first else dict(patch=patched)
    ours, watch = read(bank, latent=latent, blocks="all", steps=1, **where)
    watch.check()
    conds = probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)
    assert not torch.equal(ours[0], probe.sample(patched(model), *conds, latent, steps=1)[0])


@pytest.mark.parametrize("first", [True, False])
def test_hypertile(host, by_host, probe, two, model, first, caplog):
    """Levels that it tiles keep their own tokens; the others read the bank."""
    options, story = dict(tile_size=64, swap_size=2, max_depth=0, scale_depth=False), probe.story_of("A")
    bank = two(latent=probe.latent(2, 32, 32))

    def ours(model):
        return probe.node(host, model, "custom", story=story, bank=bank)

    tiled = by_host(model, "HyperTile", **options)
    both = ours(tiled) if first else by_host(ours(model), "HyperTile", **options)
    conds, latent = (probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)), probe.latent(1, 32, 32)
    with caplog.at_level(logging.WARNING):
        out = probe.sample(both, *conds, latent, steps=1)
    assert any("another patch rearranges the 32 x 32 tokens" in message for message in messages(caplog))
    assert not torch.equal(out, probe.sample(tiled, *conds, latent, steps=1))
