"""Fixtures of the tests of attention in the real host."""

import functools

import pytest
from harness import tiny, transformers


@pytest.fixture(scope="module")
def probe(host):
    from harness import probe

    return probe


@pytest.fixture(scope="module")
def narrow(host):
    return tiny.narrow_sd15()


@pytest.fixture
def model(narrow):
    return narrow.clone()


@pytest.fixture(scope="module")
def models(host):
    """Clones of the tiny models of `harness.transformers` by name."""
    built = functools.cache(transformers.build)
    return lambda name: built(name).clone()


@pytest.fixture
def shared(host, probe):
    """A model behind our node, in all blocks."""

    def shared(model, preset="custom", **options):
        return probe.node(host, model, preset, **{"blocks": "all"} | options)

    return shared


@pytest.fixture
def record(host, probe):
    """Sample `images` with a model behind Consistent Self-Attention and Record Characters; (latents, bank)."""
    from storyreel.nodes.record import StoryReelRecordCharacters

    def record(model, story, *, width=768, conds=None, precision="fp32", max_gb=8.0, step_stride=1, **options):
        sampling = {name: options.pop(name) for name in ("steps", "cfg", "sampler", "seed") if name in options}
        latent = options.pop("latent", None) or probe.latent(len(story.frames))
        patch = options.pop("patch", lambda model: model)  # between the node and the sampler
        shared = probe.node(host, model, options.pop("preset", "low-vram"), story=story, **options)
        recorded, bank = StoryReelRecordCharacters.execute(
            model=shared, precision=precision, device="cpu", max_gb=max_gb, step_stride=step_stride
        ).result
        conds = conds or (probe.conditioning(len(story.frames), width, 1), probe.conditioning(1, width, 2))
        return probe.sample(patch(recorded), *conds, latent, **sampling), bank

    return record
