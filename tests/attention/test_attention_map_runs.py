"""The attention map of real sampling runs in the host: against the brute force, and with recording switched on or off.

The brute force watches the attention calls with values that say whose a token is, so its output is the shares.
"""

import pytest
import torch
from harness import transformers, windows
from harness.bank_runs import BOTH
from harness.masks import left_half

STORY = ("A", "A", "", "B", "AB")


@pytest.fixture(scope="module")
def map_probe(host):
    from harness import map_probe

    return map_probe


@pytest.fixture
def run(host, probe, map_probe, model):
    """Sample a story with record_attention; (latents, MODEL, MapProbe)."""

    def run(cast=STORY, preset="low-vram", source=None, patch=None, latent=None, **options):
        sampling = {name: options.pop(name) for name in ("steps", "cfg", "sampler", "seed", "start") if name in options}
        story = probe.story_of(*cast)
        patched = probe.node(host, source or model, preset, story=story, record_attention=True, **options)
        watch = map_probe.MapProbe(patched, preset, cast=story.cast, **options)
        conds = probe.conditioning(len(cast), 768, 1), probe.conditioning(1, 768, 2)
        watched = watch.model if patch is None else patch(watch.model)
        return probe.sample(watched, *conds, latent or probe.latent(len(cast)), **sampling), patched, watch

    return run


def map_of(model, samples):
    from storyreel.host.attention.attention_record import record_of

    return record_of(model).map_of(samples)


SETTINGS = [
    {},
    {"preset": "paper"},
    {"preset": "custom", "strength": 0.4},
    {"preset": "paper", "strength": 2.0},
    {"preset": "custom", "anchors": 1, "blocks": "all"},
    {"apply_to": "cond"},
    {"apply_to": "uncond"},
    {"mask": left_half(0.5), "blocks": "all"},
    {"mask": left_half(0.25, 0.75, 0.5, 0.5, 1.0)},
    {"start_percent": 0.4, "end_percent": 0.8, "steps": 5},
    {"layer_prob_early": 0.5, "layer_prob_late": 0.5, "steps": 4},
    {"sampler": "heun", "steps": 3},
    {"sampler": "dpmpp_sde", "steps": 3},
    {"sampler": "dpm_2", "steps": 3},
    {"cfg": 1.0},
    {"memory_mb": 1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_map_equals_the_brute_force(run, settings):
    samples, model, watch = run(**settings)
    found = map_of(model, samples)
    assert found.conds == ({0} if settings.get("cfg") == 1 else {0, 1})
    for cond in found.conds:
        applies = settings.get("apply_to", "both") in ("both", "uncond" if cond else "cond")
        assert (watch.check(found, cond) > 0) == applies


@pytest.mark.parametrize("settings", SETTINGS[:8:2], ids=str)
def test_sampling_is_bit_equal_with_recording(host, probe, model, settings):
    options = {**settings, "preset": settings.get("preset", "low-vram"), "story": probe.story_of(*STORY)}
    conds = probe.conditioning(5, 768, 1), probe.conditioning(1, 768, 2)
    on, off = (
        probe.sample(probe.node(host, model, record_attention=record, **options), *conds, probe.latent(5))
        for record in (True, False)
    )
    assert torch.equal(on, off)


def test_without_recording_nothing_is_measured(host, probe, model, monkeypatch):
    """Neither shares nor a place for them, and the map says what to switch on, before the sampler runs."""
    from storyreel.core.attention import shares
    from storyreel.nodes.attention_map import StoryReelAttentionMap

    measured = []
    monkeypatch.setattr(shares, "_shares", lambda *args: measured.append(args))
    monkeypatch.setattr(shares.Shares, "empty", lambda *args: measured.append(args))
    patched = probe.node(host, model, story=probe.story_of(*STORY))
    probe.sample(patched, probe.conditioning(5, 768, 1), probe.conditioning(1, 768, 2), probe.latent(5))
    assert not measured
    with pytest.raises(ValueError, match="record_attention of Consistent Self-Attention is off"):
        StoryReelAttentionMap.check_lazy_status(model=patched, latent=None, part="cond")


@pytest.mark.parametrize(
    "settings", [{}, {"strength": 0.5}, {"steps": 3, "sampler": "heun"}, {"apply_to": "cond"}], ids=str
)
def test_reading_a_bank(host, probe, map_probe, model, record, settings):
    """Its images are columns; frames read those of their characters and not each other."""
    options = {"preset": "custom", "sampling_rate": 0.6, "sampling_rate_fine": 0.6}
    bank = record(model, probe.story_of("A", "B"), **options)[1]
    sampling = {name: settings[name] for name in ("steps", "sampler") if name in settings}
    options = {name: value for name, value in settings.items() if name not in sampling}
    story = probe.story_of(*BOTH)
    patched = probe.node(host, model, "custom", story=story, bank=bank, record_attention=True, **options)
    watch = map_probe.ReadingMapProbe(patched, bank, story.cast, **options)
    conds = probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)
    found = map_of(patched, probe.sample(watch.model, *conds, probe.latent(4), **sampling))
    assert found.stored == ("bank: A 1", "bank: B 1")
    assert watch.check(found, 0) > 0
    reads = found.shares(0) > 0
    assert reads.tolist() == [
        [i == j for j in range(4)] + [who in names for who in "AB"] for i, names in enumerate(BOTH)
    ]


def test_regions_of_a_frame_read_their_own_character(host, probe, model, record):
    """Each half of a frame reads one character: half as much as a frame that reads it everywhere."""
    from storyreel.nodes.regions import StoryReelCharacterRegion

    bank = record(model, probe.story_of("A", "B"), preset="custom")[1]

    def shares(cast, **regions):
        patched = probe.node(host, model, "custom", story=probe.story_of(cast), bank=bank, record_attention=True)
        for name, mask in regions.items():
            (patched,) = StoryReelCharacterRegion.execute(model=patched, character=name, mask=mask).result
        conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
        found = map_of(patched, probe.sample(patched, *conds, probe.latent(1), steps=1))
        return found.shares(0, layers=[min(found.layers)])[0]  # later layers get other tokens

    left = left_half(0.5)
    only, both = shares("A", A=left), shares("AB", A=left, B=1 - left)
    assert both[1].item() == pytest.approx(only[1].item(), abs=1e-6) and both[1] > 0.05
    assert both.sum().item() == pytest.approx(1, abs=1e-6)
    assert both[2].item() == pytest.approx(shares("B", B=1 - left)[2].item(), abs=1e-6)


def test_regions_of_images_in_one_batch(host, probe, model):
    """A stands on the left of a frame of both, and nowhere in the frame of B: only that half reads A's frame, and A's
    frame reads the left half alone."""
    from storyreel.nodes.regions import StoryReelCharacterRegion

    def shares(**regions):
        story = probe.story_of("A", "AB", "B")
        patched = probe.node(host, model, "custom", story=story, sampling_rate=1.0, record_attention=True)
        for name, mask in regions.items():
            (patched,) = StoryReelCharacterRegion.execute(model=patched, character=name, mask=mask).result
        conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
        found = map_of(patched, probe.sample(patched, *conds, probe.latent(3), steps=1))
        return found.shares(0, layers=[min(found.layers)])

    left, everywhere = left_half(0.5), left_half(1.0)
    whole, parts = shares(), shares(A=torch.cat([everywhere, left, left]), B=torch.cat([left, 1 - left, everywhere]))
    assert (parts.sum(1) - 1).abs().max() < 1e-5
    for frame, other in ((0, 1), (1, 0), (1, 2), (2, 1)):
        assert 0.2 * whole[frame, other] < parts[frame, other] < 0.8 * whole[frame, other]
    assert parts[0, 2] == parts[2, 0] == 0


WAYS = [{}, {"strength": 0.5}, {"memory_mb": 1}, {"positions": "beside"}]


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, way) for name in ("flux", "zimage", "qwen", "cosmos") for way in WAYS] + [("sd3", way) for way in WAYS[:3]],
    ids=str,
)
def test_transformers(models, shared, map_probe, name, options):
    latents, model = transformers.latent(name), models(name)
    patched = shared(model, record_attention=True, **options)
    samples = transformers.sample(patched, *transformers.conds(), latents)
    definition = {key: value for key, value in options.items() if key != "memory_mb"}
    reference = transformers.brute_force(name, latents, kind=map_probe.TransformerMapProbe, **definition)
    transformers.sample(transformers.with_override(model, reference), *transformers.conds(), latents)
    for cond in (0, 1):
        assert reference.sums.check(map_of(patched, samples), cond) > 0
    off = transformers.sample(shared(model, **options), *transformers.conds(), latents)
    assert torch.equal(off, samples)


def test_frames_of_nobody_and_frames_alone_neither_lend_nor_borrow(run):
    samples, model, _ = run(cast=("A", "", "A", "B"), preset="custom", sampling_rate=1.0)
    shares = map_of(model, samples).shares(0)
    assert shares[1].tolist() == [0, 1, 0, 0] and shares[3].tolist() == [0, 0, 0, 1]
    assert shares[:, 1].tolist() == [0, 1, 0, 0]
    assert shares[0, 2] > 0.1 and shares[2, 0] > 0.1


def test_more_is_borrowed_at_a_higher_strength_and_nothing_without(run, host, probe, model):
    totals = []
    for strength in (0.2, 1.0, 4.0):
        samples, patched, _ = run(preset="custom", strength=strength)
        totals.append(map_of(patched, samples).borrowed(0).mean().item())
    assert 0 < totals[0] < totals[1] < totals[2]
    with pytest.raises(ValueError, match="no Consistent Self-Attention, or its strength is 0"):
        map_of(probe.node(host, model, strength=0.0, record_attention=True), samples)


def test_cond_and_uncond_apart_give_the_same_map(run, monkeypatch):
    """With too little memory the host runs them one after the other."""
    samples, model, _ = run()
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    apart, other, _ = run()
    for cond in (0, 1):
        first, second = (map_of(m, s).shares(cond) for m, s in ((model, samples), (other, apart)))
        assert torch.allclose(first, second, atol=1e-5)


def test_images_in_windows(run):
    samples, patched, watch = run(("A",) * 6, patch=lambda model: windows.windows(model, 4, 2, False), preset="custom")
    assert watch.check(map_of(patched, samples), 0) > 0


def test_a_split_run_gives_one_map_and_its_first_half_another(host, probe, model):
    import nodes

    patched = probe.node(host, model, story=probe.story_of(*STORY), record_attention=True)
    conds = probe.conditioning(5, 768, 1), probe.conditioning(1, 768, 2)

    def part(latent, first, last):
        options = {"disable_noise": first > 0, "start_step": first, "last_step": last, "force_full_denoise": last == 6}
        with torch.no_grad():
            (out,) = nodes.common_ksampler(patched, 1, 6, 5.0, "euler", "normal", *conds, latent, **options)
        return out

    whole = map_of(patched, part(probe.latent(5), 0, 6)["samples"])
    first = part(probe.latent(5), 0, 3)
    second = part(first, 3, 6)
    again = part(first, 3, 6)  # as when only the second sampler's settings changed
    assert whole.steps == map_of(patched, second["samples"]).steps == map_of(patched, again["samples"]).steps
    assert torch.allclose(map_of(patched, second["samples"]).shares(0), whole.shares(0), atol=1e-5)
    assert torch.equal(
        map_of(patched, first["samples"]).shares(0), whole.continued([]).shares(0, steps=whole.steps[:3])
    )


def test_a_second_pass_has_a_map_of_its_own(host, probe, model):
    patched = probe.node(host, model, story=probe.story_of("A", "A"), record_attention=True)
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    first = probe.sample(patched, *conds, probe.latent(2), steps=3)
    second = probe.sample(patched, *conds, {"samples": torch.nn.functional.interpolate(first, scale_factor=2)}, steps=2)
    assert [len(map_of(patched, samples).steps) for samples in (first, second)] == [3, 2]
    assert len(map_of(patched, first[:1]).steps) == 2  # changed by another node: the latest


def test_a_failed_run_leaves_no_map(host, probe, model):
    patched = probe.node(host, model, story=probe.story_of("A", "A"), record_attention=True)
    broken = patched.clone()
    broken.set_model_sampler_post_cfg_function(lambda args: 1 / 0)
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    with pytest.raises(ZeroDivisionError):
        probe.sample(broken, *conds, probe.latent(2))
    assert map_of(patched, probe.latent(2)["samples"]) is None


def test_the_node(run):
    from storyreel.nodes.attention_map import StoryReelAttentionMap

    samples, model, _ = run(cfg=1.0)
    image, table = StoryReelAttentionMap.execute(model=model, latent={"samples": samples}, part="cond").result
    assert image.shape[0] == 1 and image.shape[-1] == 3
    assert "\n3 [NC]\t0.0\t0.0\t100.0\t0.0\t0.0\t0.0\n" in table
    with pytest.raises(ValueError, match="part is uncond, and this run did not compute it"):
        StoryReelAttentionMap.execute(model=model, latent={"samples": samples}, part="uncond")


def test_a_model_that_was_not_sampled(host, probe, model):
    from storyreel.nodes.attention_map import StoryReelAttentionMap

    patched = probe.node(host, model, record_attention=True)
    with pytest.raises(ValueError, match="no run of model is recorded"):
        StoryReelAttentionMap.execute(model=patched, latent=probe.latent(2), part="cond")
