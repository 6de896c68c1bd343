"""Frames that have images of their own beside their prompts: IP-Adapter's embeddings and reference latents."""

import functools

import pytest
import torch
from harness import transformers
from harness.bank_runs import differs, noise_of, rows
from harness.transformers import FAMILIES, assert_close, brute_force, conds, with_override

# IP-Adapter


class Adapter:
    """A cross-attention replacement as the popular pack of IP-Adapter sets it: queries read the prompt as before, and
    tokens of the image of their own frame, in the order of the batch, each kind of cond its own."""

    def __init__(self, image, weight=0.5):
        generator = torch.Generator().manual_seed(4)
        self.image, self.weight = image, weight  # [frames, tokens, width]
        self.maps = {
            wide: [torch.randn(image.shape[-1], wide, generator=generator) * 0.1 for _ in "kv"]
            for wide in (64, 128, 256)
        }

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        heads, kinds = extra_options["n_heads"], extra_options["cond_or_uncond"]
        frames = len(q) // len(kinds)
        image = torch.cat([self.image[:frames] * (1 - kind) for kind in kinds])
        keys, values = (image @ matrix for matrix in self.maps[q.shape[-1]])
        plain = optimized_attention(q, k, v, heads, transformer_options=extra_options)
        return plain + self.weight * optimized_attention(q, keys, values, heads, transformer_options=extra_options)


IMAGES = torch.randn(4, 4, 32, generator=torch.Generator().manual_seed(3))
BLOCKS = [("input", number) for number in (1, 2, 4, 5, 7, 8)] + [("middle", 0)]
BLOCKS += [("output", number) for number in range(3, 12)]


@pytest.fixture
def adapted(model):
    """adapted(frames) -> the model with an adapter for the images of these frames"""

    def adapted(*frames):
        patched = model.clone()
        adapter = Adapter(IMAGES[list(frames)])
        for name, number in BLOCKS:
            patched.set_model_attn2_replace(adapter, name, number)
        return patched

    return adapted


@pytest.fixture
def prompts(probe):
    return probe.conditioning(4, 768, 1), probe.conditioning(1, 768, 2)


def test_each_frame_reads_its_own_image_and_shares_tokens(host, probe, adapted, prompts):
    """Every self-attention against the brute force; at strength 0 a frame is the one that its image gives alone."""
    watch = probe.Probe(probe.node(host, adapted(0, 1, 2, 3), "custom"), "custom")
    ours = probe.sample(watch.model, *prompts, probe.latent(4))
    watch.check()
    off = probe.sample(probe.node(host, adapted(0, 1, 2, 3), strength=0.0), *prompts, noise_of(0, 1, 2, 3))
    assert differs(ours, off) > 1e-3
    for frame in range(4):
        alone = probe.sample(adapted(frame), rows(prompts[0], frame), prompts[1], noise_of(frame))
        assert differs(alone[0], off[frame]) <= 1e-5
    swapped = probe.sample(adapted(1, 0, 2, 3), *prompts, noise_of(0, 1, 2, 3))
    assert [differs(a, b) > 1e-3 for a, b in zip(swapped, off, strict=True)] == [True, True, False, False]


def test_a_frame_that_reads_a_bank_beside_its_image_is_the_frame_of_one_batch(host, probe, record, adapted, prompts):
    """The anchors are recorded beside their images, and each later frame reads them beside its own."""
    (positive, negative), steps = prompts, dict(steps=3)
    together = probe.sample(
        probe.node(host, adapted(0, 1, 2, 3), story=probe.story_of(*"AAAA"), anchors=2),
        positive, negative, noise_of(0, 1, 2, 3), **steps,
    )  # fmt: skip
    anchors, bank = record(
        adapted(0, 1), probe.story_of("A", "A"), conds=(rows(positive, 0, 1), negative), latent=noise_of(0, 1), **steps
    )
    assert differs(anchors, together[:2]) <= 1e-4
    for frame in (2, 3):
        reader = probe.node(host, adapted(frame), story=probe.story_of("A"), bank=bank)
        alone = probe.sample(reader, rows(positive, frame), negative, noise_of(frame), **steps)
        plain = probe.sample(adapted(frame), rows(positive, frame), negative, noise_of(frame), **steps)
        assert differs(alone[0], together[frame]) <= 1e-4
        assert differs(plain[0], together[frame]) > 1e-3


# Reference latents


EDITING = ("flux", "flux2", "qwen", "krea2")  # Flux Kontext, Flux.2, Qwen-Image-Edit, Krea 2
SIZE = (4, 6)


@functools.cache
def reference(name, frames=3, seed=9):
    """A reference latent for each frame."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, FAMILIES[name].channels, *FAMILIES[name].times, *SIZE, generator=generator)


def referenced(host, conditioning, latent):
    """By the host's own node."""
    out = host.nodes["ReferenceLatent"].execute(conditioning=conditioning, latent={"samples": latent})
    return out.result[0]


@pytest.fixture
def story(host):
    """story(name) -> (positive with a reference for each frame, negative)"""

    def story(name, references=None):
        positive, negative = conds()
        references = reference(name) if references is None else references
        return referenced(host, positive, references), negative

    return story


def editing_model(name):
    """Of a method that reads reference images, where the plain model of the family has none."""
    return transformers.build(name, default_ref_method="index")


@pytest.mark.parametrize("name", EDITING)
def test_each_frame_reads_its_own_reference_and_no_other(host, shared, story, name):
    """At strength 0, and alone."""
    model, latents = editing_model(name), transformers.latent(name)
    positive, negative = story(name)
    off = transformers.sample(shared(model, strength=0.0), positive, negative, latents)
    assert torch.equal(off, transformers.sample(model, positive, negative, latents))
    for frame in range(3):
        one = referenced(host, rows(conds()[0], frame), reference(name)[frame : frame + 1])
        alone = transformers.sample(model, one, negative, {"samples": latents["samples"][:1], "batch_index": [frame]})
        assert_close(alone[0], off[frame])
    other = reference(name).clone()
    other[1] = reference(name, seed=5)[1]
    changed = transformers.sample(model, *story(name, other), latents)
    assert [torch.equal(a, b) for a, b in zip(changed, off, strict=True)] == [True, False, True]


@pytest.mark.parametrize("in_negative", [True, False])
@pytest.mark.parametrize("name", EDITING)
def test_references_are_read_by_their_own_frame_beside_shared_tokens(host, shared, story, name, in_negative):
    """Against the definition, in which a frame has all of its own sequence and image tokens of the others."""
    model, latents = editing_model(name), transformers.latent(name)
    positive, negative = story(name)
    options = dict(cfg=1.0)  # else the negative prompt has a pass of another length, which the definition does not know
    if in_negative:
        negative, options = referenced(host, negative, reference(name)), {}
    ours = transformers.sample(shared(model), positive, negative, latents, **options)
    tokens = SIZE[0] * SIZE[1] // FAMILIES[name].patch ** 2
    definition = with_override(model, brute_force(name, latents, references=tokens))
    assert_close(ours, transformers.sample(definition, positive, negative, latents, **options))
    assert differs(ours, transformers.sample(model, positive, negative, latents, **options)) > 1e-3


@pytest.fixture
def written(host):
    """A story's prompts, marked by frames as Encode Story marks them, with a reference for each of them."""
    from storyreel.host.common.frame_rows import mark_rows

    positive, negative = mark_rows(conds()[0], conds()[1], count=3)
    return referenced(host, positive, reference("qwen")), negative


def frame_of(latents, *numbers):
    return {"samples": latents["samples"][list(numbers)], "batch_index": list(numbers)}


@pytest.mark.parametrize("way", ["Pick Frames", "Latent From Batch"])
def test_frames_that_are_drawn_again_keep_their_reference(host, written, way):
    """Both the frames that are picked by our node, and those of fewer latents than prompts."""
    model, latents = editing_model("qwen"), transformers.latent("qwen")
    positive, negative = written
    whole = transformers.sample(model, positive, negative, latents)
    for numbers in ((2,), (1, 2)):
        part = frame_of(latents, *numbers)
        picked = positive, negative
        if way == "Pick Frames":
            frames = ", ".join(str(number + 1) for number in numbers)
            inputs = dict(positive=positive, negative=negative, latent=latents, frames=frames)
            *picked, part = host.nodes["StoryReelPickFrames"].execute(**inputs).result[:3]
        assert_close(transformers.sample(model, *picked, part), whole[list(numbers)])


def test_frames_of_other_references_are_not_drawn_in_one_batch(host):
    """Rows of one shape keep theirs in one batch; a reference of another size is another shape."""
    from storyreel.host.common.conditioning import pick_row, shapes_of, stack_rows

    positive = referenced(host, conds()[0], reference("flux"))
    negatives = [pick_row(conds()[1], 0)] * 3
    alone = [pick_row(positive, number) for number in range(3)]
    ((_, extras),) = stack_rows(alone, negatives)[0]
    assert torch.equal(extras["reference_latents"][0], reference("flux"))
    small = referenced(host, rows(conds()[0], 0), reference("flux")[:1, ..., :2])
    assert shapes_of(alone[0]) == shapes_of(alone[1]) != shapes_of(small)
