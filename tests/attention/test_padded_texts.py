"""Prompts of unequal length in one batch: each image is the one of its prompt alone, in the plain model."""

import functools

import pytest
import torch
from harness import transformers
from harness.transformers import WIDTHS, assert_close, grid_of

PROMPTS = ["a hero", "a hero who walks through a town at night", "a red hero in a meadow"]
LONG = PROMPTS[1] + " in the rain, with a lantern, a dog and a cart full of hay, while the moon rises over the hills"
TOLERANCES = {"krea2": 5e-5}  # the rounding of cond and uncond together or apart is 2e-5 there
ENCODER_OF = {"lumina2": "zimage"}
SIDES = {"height": 8, "width": 16}  # 32 image tokens


@pytest.fixture(scope="module")
def pairs(host):
    """The MODEL and the CLIP of a family, which fit each other."""
    build = functools.cache(lambda name: transformers.build(name, **WIDTHS[name]))
    encoder = functools.cache(transformers.text_encoder)
    return lambda name: (build(name).clone(), encoder(ENCODER_OF.get(name, name)))


def encoded(clip, prompts, negative="blurry"):
    from storyreel.host.common.conditioning import encode_story

    with torch.no_grad():
        return encode_story(clip, prompts, negative)


def encode_alone(clip, text):
    """What the host's CLIPTextEncode gives."""
    with torch.no_grad():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def with_values(conditioning, **values):
    return [[cond, extras | values] for cond, extras in conditioning]


def refilled(conditioning, value=9.0):
    """The texts with other values in their padding."""
    from storyreel.host.common.padded_texts import OWN_TOKENS

    return [[cond.where(extras[OWN_TOKENS][..., None], value), extras] for cond, extras in conditioning]


def draw(name, model, positive, negative, rows=slice(None), images=3, cfg=3.0, **sides):
    """The images `rows` of a story, each from its own noise."""
    from comfy.sample import sample

    shape = transformers.latent(name, images, **SIDES | sides)["samples"].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))[rows]
    with torch.no_grad():
        return sample(model, noise, 2, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise))


def assert_each_as_alone(name, model, clip, prompts, together, **options):
    for row, prompt in enumerate(prompts):
        both = encode_alone(clip, prompt), encode_alone(clip, "blurry")
        alone = draw(name, model, *both, slice(row, row + 1), len(prompts), **options)
        assert_close(together[row : row + 1], alone, TOLERANCES.get(name, 1e-5))


STORIES = {"one multiple of 32": PROMPTS, "several multiples of 32": [PROMPTS[0], LONG, PROMPTS[1]]}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("name", ["zimage", "lumina2", "krea2", "chroma", "qwen"])
def test_each_prompt_of_a_batch_is_drawn_as_alone(pairs, name, story):
    (model, clip), prompts = pairs(name), STORIES[story]
    positive, negative = encoded(clip, prompts)
    together = draw(name, model, positive, negative)
    assert_each_as_alone(name, model, clip, prompts, together)


@pytest.mark.parametrize("story", STORIES)
def test_an_image_that_z_image_fills_up_is_drawn_as_alone(pairs, story):
    """12 image tokens and 20 that fill it up, which have a place of their own."""
    (model, clip), prompts, sides = pairs("zimage"), STORIES[story], {"height": 8, "width": 6}
    together = draw("zimage", model, *encoded(clip, prompts), **sides)
    assert_each_as_alone("zimage", model, clip, prompts, together, **sides)


@pytest.mark.parametrize("name, padded", [("flux", 256), ("flux2", 512)])
def test_a_prompt_beyond_the_padding_of_flux_leaves_the_others_as_they_are(pairs, name, padded):
    """The encoder pads the prompts of Flux to this length, and the model reads that padding."""
    (model, clip), prompts = pairs(name), [PROMPTS[0], "a town at night " * 150]
    positive, negative = encoded(clip, prompts)
    assert positive[0][0].shape[1] > padded
    together = draw(name, model, positive, negative, images=2)
    assert_each_as_alone(name, model, clip, prompts, together)


@pytest.mark.parametrize("name", ["zimage", "lumina2", "krea2", "chroma"])
def test_the_padding_is_never_read(pairs, name):
    """Nor is it where all frames share tokens."""
    model, clip = pairs(name)
    positive, negative = encoded(clip, STORIES["several multiples of 32"])
    ours = draw(name, model, positive, negative, cfg=1.0)
    assert torch.equal(draw(name, model, refilled(positive), negative, cfg=1.0), ours)


@pytest.mark.parametrize("contexts", [0, 1])
def test_the_padding_of_z_image_is_never_read_with_a_reference_image(pairs, contexts):
    """contexts: texts of the reference image, as long as the prompts. Such a text is read to its end."""
    model, clip = pairs("zimage")
    positive, negative = encoded(clip, STORIES["several multiples of 32"])
    generator = torch.Generator().manual_seed(9)
    length = 32 * -(-positive[0][0].shape[1] // 32)
    latents = [torch.randn(1, 16, 4, 4, generator=generator)]
    texts = [torch.randn(1, length, transformers.ENCODER_WIDTH, generator=generator)] * contexts
    values = dict(reference_latents=latents, reference_latents_text_embeds=texts)
    ours = draw("zimage", model, with_values(positive, **values), negative, cfg=1.0)
    other = draw("zimage", model, with_values(refilled(positive), **values), negative, cfg=1.0)
    assert torch.equal(other, ours)
    for text in texts:
        text[:, -1] = 9.0
        other = draw("zimage", model, with_values(positive, **values), negative, cfg=1.0)
        assert all((images - same).abs().max() > 1e-3 for images, same in zip(other, ours, strict=True))


@pytest.mark.parametrize("name", ["zimage", "lumina2"])
def test_an_image_as_long_as_its_text_is_not_masked(pairs, name):
    """Attention of the image alone has as many tokens as attention of the text alone would have."""
    (model, clip), prompts = pairs(name), STORIES["several multiples of 32"]
    positive, negative = encoded(clip, prompts)
    text = positive[0][0].shape[1] if name == "lumina2" else 64
    sides = {"height": 2, "width": 2 * text}
    (*_, columns) = grid_of(name, transformers.latent(name, **sides))
    assert columns == text and 32 < positive[0][0].shape[1] <= 64
    together = draw(name, model, positive, negative, **sides)
    assert_each_as_alone(name, model, clip, prompts, together, **sides)


@pytest.mark.parametrize("name", ["zimage", "krea2"])
def test_frames_taken_out_are_drawn_as_alone(pairs, name):
    """Latent From Batch: rows are picked by frame, one or several."""
    import nodes
    from storyreel.core.story.frames import Frames, mark_frames

    (model, clip), prompts = pairs(name), STORIES["several multiples of 32"]
    positive, negative = encoded(clip, prompts)
    latent = transformers.latent(name, **SIDES)
    latent["samples"] = mark_frames(latent["samples"], Frames.all(3))
    for first, length in ((0, 1), (1, 2)):
        part = nodes.LatentFromBatch().frombatch(latent, first, length)[0]
        drawn = transformers.sample(model, positive, negative, part)
        for row in range(length):
            alone = {"samples": transformers.latent(name, 1, **SIDES)["samples"], "batch_index": [first + row]}
            both = encode_alone(clip, prompts[first + row]), encode_alone(clip, "blurry")
            assert_close(drawn[row : row + 1], transformers.sample(model, *both, alone), TOLERANCES.get(name, 1e-5))


@pytest.mark.parametrize("name", ["zimage", "krea2"])
def test_it_works_in_context_windows(pairs, name):
    from harness.windows import listed_windows

    (model, clip), prompts = pairs(name), STORIES["several multiples of 32"]
    positive, negative = encoded(clip, prompts)
    together = draw(name, listed_windows(model, 2), positive, negative)
    assert_each_as_alone(name, model, clip, prompts, together)


@pytest.mark.parametrize("name", ["zimage", "chroma"])
def test_combined_conditionings_are_each_as_alone(pairs, name):
    """Two stories with a strength of their own: each row is the mean of the model's results."""
    import nodes

    model, clip = pairs(name)
    one, negative = encoded(clip, [PROMPTS[0], LONG])
    other, _ = encoded(clip, [PROMPTS[1], PROMPTS[2]])
    (both,) = nodes.ConditioningCombine().combine(one, other)
    together = draw(name, model, both, negative, images=2)
    for row, prompts in enumerate(([PROMPTS[0], PROMPTS[1]], [LONG, PROMPTS[2]])):
        (combined,) = nodes.ConditioningCombine().combine(*(encode_alone(clip, prompt) for prompt in prompts))
        alone = draw(name, model, combined, encode_alone(clip, "blurry"), slice(row, row + 1), images=2)
        assert_close(together[row : row + 1], alone)


def test_tokens_that_a_node_puts_behind_the_prompts_are_read(pairs):
    """Conditioning Concat."""
    import nodes

    (model, clip), prompts = pairs("zimage"), STORIES["several multiples of 32"]
    positive, negative = encoded(clip, prompts)
    more = encode_alone(clip, "a song")
    (longer,) = nodes.ConditioningConcat().concat(positive, [[more[0][0].repeat(3, 1, 1), {}]])
    together = draw("zimage", model, longer, negative)
    for row, prompt in enumerate(prompts):
        (both,) = nodes.ConditioningConcat().concat(encode_alone(clip, prompt), more)
        alone = draw("zimage", model, both, encode_alone(clip, "blurry"), slice(row, row + 1))
        assert_close(together[row : row + 1], alone)


def test_another_override_gets_the_mask(pairs):
    """It is set by another pack before sampling, and sees what the host's kernel sees."""
    model, clip = pairs("chroma")
    positive, negative = encoded(clip, PROMPTS)
    masks = []

    def override(attention, q, k, v, heads, *args, **kwargs):
        masks.append(kwargs["mask"])
        return attention(q, k, v, heads, *args, **kwargs)

    plain = draw("chroma", model, positive, negative)
    assert torch.equal(draw("chroma", transformers.with_override(model, override), positive, negative), plain)
    tokens = positive[0][0].shape[1] + 32
    assert {None if mask is None else tuple(mask.shape) for mask in masks} == {None, (3, 1, tokens)}


def test_nothing_stays_in_the_network_when_a_pass_fails(pairs):
    model, clip = pairs("zimage")
    positive, negative = encoded(clip, PROMPTS)
    network = model.model.diffusion_model
    embedder, kinds = network.cap_embedder, []

    def fail(attention, *args, **kwargs):
        kinds.append(network.cap_embedder is embedder)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        draw("zimage", transformers.with_override(model, fail), positive, negative, cfg=1.0)
    assert kinds == [False] and network.cap_embedder is embedder


@pytest.mark.parametrize("story", STORIES)
def test_a_compiled_network_sees_the_padding(pairs, story):
    """It was compiled by images of another story, whose prompts have one length."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, clip = pairs("zimage")
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, "eager", keys=["diffusion_model"])
    positive, negative = encoded(clip, STORIES[story])
    one_length = [[torch.ones_like(positive[0][0]), {}]]
    sides = {"height": 8, "width": 6}
    draw("zimage", compiled, one_length, negative, cfg=1.0, **sides)
    ours = draw("zimage", compiled, positive, negative, cfg=1.0, **sides)
    assert_close(ours, draw("zimage", model, positive, negative, cfg=1.0, **sides))
