"""Character Region: in a frame of two characters, each place reads the tokens of the character that stands there."""

import pytest
import torch
from harness.masks import left_half


@pytest.fixture
def banked(host, probe, model):
    """A bank of A and of B, two images, recorded from SD1.5."""
    from storyreel.nodes.record import StoryReelRecordCharacters

    story = probe.story_of("A", "B")
    shared = probe.node(host, model, "custom", story=story)
    options = {"precision": "fp32", "device": "cpu", "max_gb": 1.0, "step_stride": 1}
    recorded, bank = StoryReelRecordCharacters.execute(model=shared, **options).result
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    probe.sample(recorded, *conds, probe.latent(2))
    return bank


@pytest.fixture
def read(host, probe, model, banked):
    """read(cast, regions) -> (latents, attention of the first layer that shares) of one image that reads the bank."""
    from storyreel.host.attention.unet import SharedAttention
    from storyreel.nodes.regions import StoryReelCharacterRegion

    def read(cast, regions=None, source=None, images=1):
        story = probe.story_of(*[cast] * images)
        patched = probe.node(host, source or model, "custom", story=story, bank=banked)
        for name, mask in (regions or {}).items():
            (patched,) = StoryReelCharacterRegion.execute(model=patched, character=name, mask=mask).result
        seen, replacements = [], patched.model_options["transformer_options"]["patches_replace"]["attn1"]
        for key, patch in list(replacements.items()):
            if isinstance(patch, SharedAttention):

                def over(q, k, v, extra_options, patch=patch):
                    seen.append(patch(q, k, v, extra_options))
                    return seen[-1]

                replacements[key] = over
        conds = probe.conditioning(images, 768, 3), probe.conditioning(1, 768, 4)
        return probe.sample(patched, *conds, probe.latent(images)), seen[0]

    return read


def everywhere(value=1.0):
    return torch.full((1, 64, 64), value)


def halves(tokens):
    """[rows, N, C] of a square level -> left and right half."""
    side = round(tokens.shape[1] ** 0.5)
    square = tokens.unflatten(1, (side, side))
    return square[:, :, : side // 2], square[:, :, side // 2 :]


def test_each_half_reads_the_character_that_stands_there(read):
    left = left_half(0.5)
    _, both = read("AB", {"A": left, "B": 1 - left})
    _, a = read("A")
    _, b = read("B")
    assert torch.allclose(halves(both)[0], halves(a)[0], atol=1e-5)
    assert torch.allclose(halves(both)[1], halves(b)[1], atol=1e-5)
    assert not torch.allclose(halves(a)[0], halves(b)[0], atol=1e-3)


def test_regions_of_the_whole_image_change_nothing(read):
    assert torch.equal(read("AB", {"A": everywhere(), "B": everywhere()})[0], read("AB")[0])


def test_a_character_that_stands_nowhere_is_not_read(read):
    samples = read("AB", {"B": everywhere(0.0)})[0]
    assert torch.allclose(samples, read("A")[0], atol=1e-4) and not torch.allclose(samples, read("AB")[0], atol=1e-4)


def test_a_frame_without_characters_reads_nothing(host, probe, model, read):
    conds = probe.conditioning(1, 768, 3), probe.conditioning(1, 768, 4)
    assert torch.equal(read("", {"A": everywhere()})[0], probe.sample(model, *conds, probe.latent(1)))


def test_masks_of_another_number_are_refused(read):
    with pytest.raises(ValueError, match="Character Region: the MASK of A has 3 images and the LATENT has 2"):
        read("A", {"A": left_half(0.5, 0.5, 0.5)}, images=2)


def test_a_region_limits_what_is_recorded(host, probe, model):
    """Of the anchor of A, only its left half."""
    from storyreel.nodes.record import StoryReelRecordCharacters
    from storyreel.nodes.regions import StoryReelCharacterRegion

    shared = probe.node(host, model, "custom", story=probe.story_of("A", "B"))
    (shared,) = StoryReelCharacterRegion.execute(model=shared, character="[A]", mask=left_half(0.5)).result
    options = {"precision": "fp32", "device": "cpu", "max_gb": 1.0, "step_stride": 1}
    recorded, bank = StoryReelRecordCharacters.execute(model=shared, **options).result
    probe.sample(recorded, probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2), probe.latent(2))
    (recording,) = bank.recordings
    places = {image.characters: place for place, image in enumerate(recording.images)}
    for (place, _, pixels), index in recording.indices.items():
        side = 64 // pixels
        columns = index % side
        if place == places[frozenset("A")]:
            assert (columns < side / 2).all()
    assert any((index % 8 >= 4).any() for (place, _, pixels), index in recording.indices.items() if pixels == 8)
