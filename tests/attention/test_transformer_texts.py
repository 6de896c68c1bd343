"""Prompts of unequal length in one batch: each frame is what its prompt gives alone."""

import functools

import pytest
import torch
from harness import transformers
from harness.transformers import ENCODER_WIDTH, assert_close

WIDTHS = {"qwen": {"joint_attention_dim": ENCODER_WIDTH}, "zimage": {"cap_feat_dim": ENCODER_WIDTH}}
PROMPTS = ["a hero", "a hero who walks through a town at night", "a red hero in a meadow"]


@pytest.fixture(scope="module")
def encoders(host):
    return functools.cache(transformers.text_encoder)


def encoded(clip, prompts, negative="blurry"):
    from storyreel.host.common.conditioning import encode_story

    with torch.no_grad():
        return encode_story(clip, prompts, negative)


@pytest.mark.parametrize("name", ["qwen", "zimage"])
def test_a_row_of_the_batch_is_the_prompt_alone(encoders, name):
    """Tokens of the row are those of the prompt alone; the mask leaves these and nothing else."""
    clip = encoders(name)
    positive, negative = encoded(clip, PROMPTS)
    for ((rows, extras),), texts in ((positive, PROMPTS), (negative, ["blurry"])):
        for row, text in enumerate(texts):
            with torch.no_grad():
                ((alone, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            count = alone.shape[1]
            assert_close(rows[row, :count], alone[0], 2e-5)
            assert extras["attention_mask"][row].tolist() == [1] * count + [0] * (rows.shape[1] - count)
    assert positive[0][0].shape[1] == negative[0][0].shape[1]


def test_prompts_of_one_length_are_not_masked(encoders):
    positive, _ = encoded(encoders("qwen"), ["a hero", "a town"], "a song")
    assert "attention_mask" not in positive[0][1]


def test_a_long_prompt_of_flux_lengthens_all(encoders):
    """Klein pads to 512: shorter prompts stay as they are, one that is longer lengthens the batch."""
    clip = encoders("flux2")
    short, _ = encoded(clip, ["a hero", "a town"])
    long, _ = encoded(clip, ["a hero", "a town " * 300])
    assert short[0][0].shape[1] == 512 < long[0][0].shape[1]


def test_texts_of_flux_2_dev_are_filled_up_as_its_model_does(host):
    """Its encoder has no padding of its own: the model puts zeros on the left, and a batch does the same."""

    class OneTokenALetter:
        def tokenize(self, text, **options):
            return {"mistral3_24b": [[(ord(letter), 1.0) for letter in text]]}

        def encode_from_tokens_scheduled(self, tokens, show_pbar=True):
            return [[torch.tensor([[[float(token)] * 12 for token, _ in tokens["mistral3_24b"][0]]]), {}]]

    clip, model = OneTokenALetter(), transformers.build("flux2").model
    ((rows, _),), _ = encoded(clip, PROMPTS, "")

    def seen(text):
        given = dict(cross_attn=text, noise=torch.zeros(1, 128, 4, 4), device="cpu")
        return model.extra_conds(**given)["c_crossattn"].cond

    for row, prompt in zip(rows, PROMPTS, strict=True):
        ((alone, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        assert torch.equal(seen(row[None]), seen(alone))


def test_the_encoder_of_anima_is_refused(encoders):
    with pytest.raises(ValueError, match="Anima's text encoder hands its model the token ids of one prompt"):
        encoded(encoders("anima"), PROMPTS)


def draw(shared, model, positive, negative, rows=slice(None), **options):
    from comfy.sample import sample

    noise = torch.randn(3, 16, *options.pop("shape"), generator=torch.Generator().manual_seed(3))[rows]
    patched = shared(model, **options) if options else model
    with torch.no_grad():
        return sample(patched, noise, 2, 3.0, "euler", "simple", positive, negative, torch.zeros_like(noise))


def test_each_prompt_of_a_batch_is_drawn_as_alone_by_qwen_image(shared, encoders, probe):
    """Nobody shares, so that each image is its prompt's alone; and where all share, padding is never read."""
    model, clip = transformers.build("qwen", **WIDTHS["qwen"]), encoders("qwen")
    shape, story = (1, 8, 6), probe.story_of("A", "B", "C")
    together = draw(shared, model, *encoded(clip, PROMPTS), shape=shape, story=story)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(shared, model, *encoded(clip, [prompt]), slice(row, row + 1), shape=shape)
        assert_close(together[row : row + 1], alone)

    positive, negative = encoded(clip, PROMPTS)
    everybody = draw(shared, model, positive, negative, shape=shape, seed=1)
    padded = [[cond.where(extras["attention_mask"][..., None] > 0, 9.0), extras] for cond, extras in positive]
    assert_close(draw(shared, model, padded, negative, shape=shape, seed=1), everybody)


def test_the_padding_of_z_image_is_never_read(shared, encoders):
    """The host drops the mask of Z-Image's texts; with our node what stands in the padding changes nothing."""
    model, clip = transformers.build("zimage", **WIDTHS["zimage"]), encoders("zimage")
    positive, negative = encoded(clip, PROMPTS)
    padded = [[cond.where(extras["attention_mask"][..., None] > 0, 9.0), extras] for cond, extras in positive]
    ours, other = (
        draw(shared, model, texts, negative, shape=(8, 6), seed=1, blocks="last half") for texts in (positive, padded)
    )
    assert_close(other, ours)
    plain, other = (draw(shared, model, texts, negative, shape=(8, 6)) for texts in (positive, padded))
    assert (other - plain).abs().max() > 1e-3 * plain.abs().max(), "the host alone reads the padding"


def test_z_image_is_nearer_to_the_prompt_alone_with_the_mask(shared, encoders, probe):
    """What remains is the position of the image, which stands behind the longest text, and pad tokens of the model."""
    model, clip = transformers.build("zimage", **WIDTHS["zimage"]), encoders("zimage")
    shape, prompts = (8, 6), [*PROMPTS[:2], PROMPTS[1] + " in the rain, with a lantern, a dog and a cart full of hay"]
    both = encoded(clip, prompts)
    masked = draw(shared, model, *both, shape=shape, story=probe.story_of("A", "B", "C"))
    plain = draw(shared, model, *both, shape=shape)
    alone = draw(shared, model, *encoded(clip, prompts[:1]), slice(1), shape=shape)

    def differs(images):
        return ((images[:1] - alone).norm() / alone.norm()).item()

    assert differs(masked) < 0.75 * differs(plain), (differs(masked), differs(plain))
