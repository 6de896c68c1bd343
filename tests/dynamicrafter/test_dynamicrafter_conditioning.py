"""What DynamiCrafter Conditioning makes of a story's prompts, and what it refuses, on Storyworld's towers."""

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
def tell(parts):
    """tell(prompts, negative, ...) -> what the node gives for a story's prompts."""
    from storyreel.host.common.conditioning import encode_story
    from storyreel.host.dynamicrafter import conditioning

    vae, clip, vision = parts
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))

    def told(prompts=("a red hero waving",), avoided="", **changes):
        positive, negative = encode_story(clip, prompts, avoided)
        inputs = dict(positive=positive, negative=negative, clip_vision=vision, vae=vae, start=picture, end=None)
        inputs |= dict(mode="animate", width=128, height=128, frames=6, fs=None)
        return conditioning.condition(**(inputs | changes))

    return told


def test_the_negative_of_a_whole_story_is_one_prompt(tell, parts):
    """Encode Story gives as many equal rows as the story has pictures; a clip has one."""
    from storyreel.host.common.conditioning import encode_story, pick_row

    positive, negative = encode_story(parts[1], ["a red hero waving", "a blue hero"], "blurry")
    *halves, latent = tell(positive=pick_row(positive, 1), negative=negative)
    assert [len(text) for half in halves for text, _ in half] == [1, 1, 1] and latent["samples"].shape[0] == 6
    assert torch.equal(halves[2][0][0], negative[0][0][:1]) and torch.equal(halves[0][0][0], positive[0][0][1:])


def test_several_prompts_for_one_clip_are_refused(tell):
    with pytest.raises(ValueError, match="positive contains 2 prompts, and a clip uses 1. .* Keyframe Pairs"):
        tell(["a red hero waving", "a blue hero"])


def test_a_long_prompt_is_cut_and_said_to_be_once(tell, caplog):
    with caplog.at_level(logging.WARNING):
        *halves, _ = tell([LONG], LONG)
    assert all(text.shape[1] == 77 for half in halves for text, _ in half)
    told = [record.message for record in caplog.records if "DynamiCrafter Conditioning" in record.message]
    assert len(told) == 2 and "the positive prompt" in told[0] and "the negative prompt" in told[1]
    assert all("longer than 77 tokens (about 75 words). The rest is ignored" in one for one in told)


def test_what_does_not_go_together_is_said(tell):
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
            tell(**changes)
