"""Encode Story for text encoders that give prompts unequal lengths, and its texts under Consistent Self-Attention."""

import functools

import pytest
import torch
from harness import transformers
from harness.transformers import WIDTHS, assert_close, brute_force

PROMPTS = ["a hero", "a hero who walks through a town at night", "a red hero in a meadow"]
LONG = PROMPTS[1] + " in the rain, with a lantern, a dog and a cart full of hay, while the moon rises over the hills"
SIDES = {"height": 8, "width": 16}


@pytest.fixture(scope="module")
def encoders(host):
    return functools.cache(transformers.text_encoder)


@pytest.fixture(scope="module")
def readers(host):
    """The MODEL of a family that reads the texts of these encoders."""
    build = functools.cache(lambda name: transformers.build(name, **WIDTHS[name]))
    return lambda name: build(name).clone()


def encoded(clip, prompts, negative="blurry"):
    from storyreel.host.common.conditioning import encode_story

    with torch.no_grad():
        return encode_story(clip, prompts, negative)


def encode_alone(clip, text):
    """What the host's CLIPTextEncode gives."""
    with torch.no_grad():
        ((cond, extras),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return cond, extras


STORIES = {
    "qwen": PROMPTS,
    "zimage": PROMPTS,
    "krea2": PROMPTS,
    "chroma": ["a (red:1.3) hero", "a hero who (walks:1.6) through a town at night", ""],
    "flux": ["a hero", "a town at night " * 100],
    "flux2": ["a hero", "a town " * 300],
}


@pytest.mark.parametrize("name", STORIES)
def test_a_row_is_the_prompt_alone_filled_up_with_zeros(encoders, name):
    from storyreel.host.common.padded_texts import OWN_TOKENS

    clip, prompts = encoders(name), STORIES[name]
    ((rows, extras),), ((negative, _),) = encoded(clip, prompts)
    for row, text in enumerate(prompts):
        alone, own = encode_alone(clip, text)
        count = alone.shape[1]
        assert torch.equal(rows[row, :count], alone[0]) and not rows[row, count:].any()
        assert extras[OWN_TOKENS][row].tolist() == [True] * count + [False] * (rows.shape[1] - count)
        mask = own.get("attention_mask", torch.ones(1, count))
        assert torch.equal(extras["attention_mask"][row, :count], mask[0].long())
        assert not extras["attention_mask"][row, count:].any()
        if own["pooled_output"] is not None:
            assert torch.equal(extras["pooled_output"][row], own["pooled_output"][0])
    alone, _ = encode_alone(clip, "blurry")
    assert torch.equal(negative, alone.expand_as(negative)), "the negative has its own length"


def test_prompts_of_one_length_are_not_masked(encoders):
    positive, _ = encoded(encoders("qwen"), ["a hero", "a town"], "a song")
    assert "attention_mask" not in positive[0][1]


@pytest.mark.parametrize("name", ["qwen", "zimage", "krea2", "chroma"])
def test_a_row_that_is_picked_is_what_clip_text_encode_gives(encoders, name):
    from storyreel.host.common.conditioning import pick_row
    from storyreel.host.common.frame_rows import pick_frames

    clip = encoders(name)
    positive, _ = encoded(clip, PROMPTS)
    for row, text in enumerate(PROMPTS):
        alone, own = encode_alone(clip, text)
        for ((cond, extras),) in (pick_row(positive, row), pick_frames(positive, [row])):
            assert torch.equal(cond, alone)
            assert extras.keys() <= own.keys(), "nothing of the batch is left"


def test_texts_of_flux_2_dev_are_filled_up_as_its_model_does(encoders):
    """Its encoder has no padding of its own: the model puts zeros on the left, and a batch does the same."""
    clip, model = encoders("flux2 dev"), transformers.build("flux2").model
    ((rows, extras),), ((negative, _),) = encoded(clip, PROMPTS, "")

    def read(text):
        values = dict(cross_attn=text, noise=torch.zeros(1, 128, 4, 4), device="cpu")
        return model.extra_conds(**values)["c_crossattn"].cond

    for row, prompt in enumerate(PROMPTS):
        alone, own = encode_alone(clip, prompt)
        assert torch.equal(read(rows[row : row + 1]), read(alone))
        assert torch.equal(extras["attention_mask"][row, -alone.shape[1] :], own["attention_mask"][0])
        assert extras["attention_mask"][row].sum() == alone.shape[1]
    assert torch.equal(read(negative[:1]), read(encode_alone(clip, "")[0]))


def test_the_encoder_of_anima_is_refused(encoders):
    with pytest.raises(ValueError, match="Anima's text encoder hands its model the token ids of one prompt"):
        encoded(encoders("anima"), PROMPTS)


def draw(shared, name, model, positive, negative, rows=slice(None), images=3, **options):
    """The images `rows` of a story, each from its own noise; options: of our node, None = without it."""
    from comfy.sample import sample

    shape = transformers.latent(name, images, **SIDES)["samples"].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))[rows]
    patched = shared(model, **options) if options else model
    with torch.no_grad():
        return sample(patched, noise, 2, 3.0, "euler", "simple", positive, negative, torch.zeros_like(noise))


def test_each_prompt_of_a_batch_is_drawn_as_alone_by_qwen_image(shared, readers, encoders, probe):
    """Nobody shares, so that each image is its prompt's alone; and where all share, padding is never read."""
    model, clip = readers("qwen"), encoders("qwen")
    together = draw(shared, "qwen", model, *encoded(clip, PROMPTS), story=probe.story_of("A", "B", "C"))
    for row, prompt in enumerate(PROMPTS):
        alone = draw(shared, "qwen", model, *encoded(clip, [prompt]), slice(row, row + 1), seed=1)
        assert_close(together[row : row + 1], alone)

    positive, negative = encoded(clip, PROMPTS)
    everybody = draw(shared, "qwen", model, positive, negative, seed=1)
    padded = [[cond.where(extras["attention_mask"][..., None] > 0, 9.0), extras] for cond, extras in positive]
    assert_close(draw(shared, "qwen", model, padded, negative, seed=1), everybody)


@pytest.mark.parametrize("name, longest", [("zimage", PROMPTS[1]), ("zimage", LONG), ("krea2", LONG), ("chroma", LONG)])
def test_sharing_under_padded_texts_equals_brute_force(shared, readers, encoders, name, longest):
    """Each image reads its own text without padding, and shared image tokens, which stand behind the text."""
    model, clip = readers(name), encoders(name)
    both, latents = encoded(clip, [PROMPTS[0], longest, PROMPTS[2]]), transformers.latent(name)
    ours = transformers.sample(shared(model), *both, latents)
    definition = transformers.with_override(model, brute_force(name, latents))
    assert_close(ours, transformers.sample(definition, *both, latents), 5e-5 if name == "krea2" else 1e-5)
    assert (ours - transformers.sample(model, *both, latents)).abs().max() > 1e-3 * ours.abs().max()


@pytest.mark.parametrize("name", ["zimage", "lumina2", "krea2", "chroma", "qwen"])
def test_without_sharing_it_is_bit_equal_under_padded_texts(shared, readers, encoders, probe, name):
    """One image of a story, strength 0, rate 0, and an image in which nobody is."""
    model, clip = readers(name), encoders("zimage" if name == "lumina2" else name)
    positive, negative = encoded(clip, PROMPTS)
    plain = draw(shared, name, model, positive, negative)
    for options in ({"strength": 0.0}, {"sampling_rate": 0.0, "sampling_rate_fine": 0.0}):
        assert torch.equal(draw(shared, name, model, positive, negative, **options), plain), options
    nobody = draw(shared, name, model, positive, negative, story=probe.story_of("A", "A", ""))
    assert_close(nobody[2], plain[2])
    if name != "chroma":  # kernels round by the number of text tokens there
        assert torch.equal(nobody[2], plain[2])
    assert not torch.equal(nobody[0], plain[0])
    one = encoded(clip, PROMPTS[:1])
    assert torch.equal(*(draw(shared, name, model, *one, slice(1), **options) for options in ({}, {"seed": 1})))
