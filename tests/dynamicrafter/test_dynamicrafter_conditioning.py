"""DynamiCrafter Conditioning with a story's prompts, and its refusals, with Storyworld's encoders."""

import logging

import pytest
import torch

LONG = "a red hero waving on a beach, " * 12


@pytest.fixture(scope="module")
def parts(host):
    """(vae, clip, image encoder)"""
    from storyreel.host import storyworld

    return storyworld.load_vae(), storyworld.load_clip(), storyworld.load_clip_vision()


@pytest.fixture(scope="module")
def condition(parts):
    """condition(prompts, negative, ...) -> the node's outputs for a story's prompts."""
    from storyreel.host.common.conditioning import encode_story
    from storyreel.host.dynamicrafter import conditioning

    vae, clip, vision = parts
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))

    def run(prompts=("a red hero waving",), avoided="", **changes):
        positive, negative = encode_story(clip, prompts, avoided)
        inputs = dict(positive=positive, negative=negative, clip_vision=vision, vae=vae, start=picture, end=None)
        inputs |= dict(mode="animate", width=128, height=128, frames=6, fs=None)
        return conditioning.condition(**(inputs | changes))

    return run


def test_the_negative_of_a_whole_story_is_one_prompt(condition, parts):
    """Encode Story returns as many equal rows as the story has images; a clip has one."""
    from storyreel.host.common.conditioning import encode_story, pick_row

    positive, negative = encode_story(parts[1], ["a red hero waving", "a blue hero"], "blurry")
    *conds, latent = condition(positive=pick_row(positive, 1), negative=negative)
    assert [len(text) for cond in conds for text, _ in cond] == [1, 1, 1] and latent["samples"].shape[0] == 6
    assert torch.equal(conds[2][0][0], negative[0][0][:1]) and torch.equal(conds[0][0][0], positive[0][0][1:])


def test_several_prompts_for_one_clip_are_refused(condition):
    with pytest.raises(ValueError, match="positive contains 2 prompts, and a clip uses 1. .* Keyframe Pairs"):
        condition(["a red hero waving", "a blue hero"])


def test_a_long_prompt_is_cut_with_one_warning(condition, caplog):
    with caplog.at_level(logging.WARNING):
        *conds, _ = condition([LONG], LONG)
    assert all(text.shape[1] == 77 for cond in conds for text, _ in cond)
    messages = [record.message for record in caplog.records if "[StoryReel]" in record.message]
    assert len(messages) == 2 and "the positive prompt" in messages[0] and "the negative prompt" in messages[1]
    assert all("longer than 77 tokens (about 75 words). The rest is ignored" in message for message in messages)


def test_inputs_that_do_not_fit_are_refused(condition):
    wide, pair = torch.rand(1, 64, 128, 3), torch.rand(2, 128, 128, 3)
    for sentence, changes in {
        "clip_vision is empty .* Use Load CLIP Vision and CLIP-ViT-H-14": dict(clip_vision=None),
        "vae is empty .* Use Load VAE": dict(vae=None),
        "interpolate needs end_image, but it is empty": dict(mode="interpolate"),
        "loop does not use end_image": dict(mode="loop", end=pair[:1]),
        "start_image contains 2 images; 1 is expected": dict(start=pair),
        "start_image is 128 x 128 and end_image is 128 x 64. Resize one of them": dict(mode="interpolate", end=wide),
        "loop needs at least 3 frames; frames is 2": dict(mode="loop", frames=2),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            condition(**changes)
