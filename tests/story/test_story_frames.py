"""Latents that know their frames, without any host, and prompts that follow them, in the host."""

import functools
import pickle

import pytest
import torch
from storyreel.core.story.frames import FrameLatents, Frames, frames_in, mark_frames, plain, read_frames
from torch.nn.functional import interpolate


def latents(count=4):
    return mark_frames(torch.zeros(count, 4, 3, 2), Frames.all(count))


def numbers(tensor):
    frames = frames_in(tensor)
    return frames and list(frames.numbers)


@pytest.mark.parametrize(
    "move, expected",
    [
        (lambda x: x[1:2].clone(), [1]),
        (lambda x: x[[3, 0]], [3, 0]),
        (lambda x: x[torch.tensor([2, 2])], [2, 2]),
        (lambda x: x.repeat(2, 1, 1, 1)[3:6], [3, 0, 1]),
        (lambda x: x.repeat(1, 3, 1, 1).narrow(1, 0, 12), [0, 1, 2, 3]),
        (lambda x: torch.cat((x[2:], x[:1]), dim=0), [2, 3, 0]),
        (lambda x: x[:, :1], [0, 1, 2, 3]),
        (lambda x: x.to(torch.float16).to("cpu").contiguous().detach(), [0, 1, 2, 3]),
        (lambda x: interpolate(x[1:], size=(6, 4), mode="nearest-exact"), [1, 2, 3]),
        (lambda x: x[1:3].unsqueeze(2), [1, 2]),
    ],
)
def test_frames_follow_what_moves_latents(move, expected):
    assert numbers(move(latents())) == expected


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: torch.randn(4, 4, 3, 2) + x,
        lambda x: x[2],
        lambda x: x.unsqueeze(0),
        lambda x: x.repeat(2, 1, 1, 1, 1),
        lambda x: torch.cat((x, torch.zeros(1, 4, 3, 2))),
        lambda x: torch.cat((x, latents(3))),
        lambda x: x.view(2, 8, 3, 2),
        lambda x: torch.nn.functional.conv2d(x, torch.zeros(4, 4, 1, 1)),
        plain,
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_what_is_computed_from_latents_is_a_plain_tensor(compute):
    assert type(compute(latents())) is torch.Tensor


def test_latents_are_equal_to_plain_ones():
    assert torch.equal(latents(), torch.zeros(4, 4, 3, 2)) and isinstance(latents()[:2], FrameLatents)


def test_frames_are_named_from_1_and_by_ranges():
    assert read_frames("2", 6) == [1] and read_frames(" 2, 4-6 ,1", 6) == [1, 3, 4, 5, 0]


@pytest.mark.parametrize("text", ["", "0", "7", "5-2", "two", "1,,2", "1-", "2.5", "-1"])
def test_other_frames_are_refused(text):
    with pytest.raises(ValueError, match="frames"):
        read_frames(text, 6)


# In the host

SCENES = ("[Pim] waving in a meadow", "[Pim] walking right in a town", "[Pim] jumping on a beach")
SIZE, STEPS = 64, 2
EMPTY = torch.zeros(3, 12, SIZE // 8, SIZE // 8)


@pytest.fixture(scope="module")
def parts(host):
    """MODEL, CLIP and VAE of the included demo model."""
    from storyreel.host import storyworld

    storyworld.register()
    return storyworld.load_model(), storyworld.load_clip(), storyworld.load_vae()


@pytest.fixture(scope="module")
def story():
    from storyreel.core.story.script import read_script
    from storyreel.core.story.styles import NO_STYLE
    from storyreel.host.story.styles import load_styles

    characters = "[Pim] a blue hero with a yellow pointed hat"
    return read_script(characters, "\n".join(SCENES), NO_STYLE, "", load_styles()[0])[0]


@pytest.fixture(scope="module")
def conds(parts, story):
    from storyreel.host.common.conditioning import encode_story

    return encode_story(parts[1], story.prompts, story.negative)


@pytest.fixture(scope="module")
def sample(parts):
    import nodes

    def sample(conds, latent, model=None, seed=5, steps=STEPS, **options):
        with torch.no_grad():
            return nodes.common_ksampler(
                model or parts[0], seed, steps, 3.0, "euler", "normal", *conds, latent, **options
            )[0]

    return sample


@pytest.fixture(scope="module")
def alone(parts, conds, sample):
    """One frame, drawn with a prompt that was encoded by itself and the noise of that number."""
    from storyreel.host.common.conditioning import pick_row

    @functools.cache
    def alone(frame, noise):
        latent = {"samples": EMPTY[:1], "batch_index": [noise]}
        return sample([pick_row(cond, frame) for cond in conds], latent)["samples"]

    return alone


def story_latent(story, noise="different"):
    from storyreel.core.story.noise import noise_indices
    from storyreel.host.story.latents import empty_story_latent

    return empty_story_latent(noise_indices(story, noise), SIZE, SIZE)


def taken(latent, first, length=1):
    """The result of the host's Latent From Batch."""
    import nodes

    return nodes.LatentFromBatch().frombatch(latent, first, length)[0]


def patched(host, parts, story):
    from harness import probe

    return probe.node(host, parts[0], "custom", story=story)


@pytest.mark.parametrize("noise, frame", [("different", 0), ("different", 1), ("same for all", 2)])
def test_a_frame_taken_out_is_drawn_with_its_own_prompt(story, conds, sample, alone, noise, frame):
    latent = taken(story_latent(story, noise), frame)
    drawn = sample(conds, latent)["samples"]
    assert torch.equal(drawn, alone(frame, latent["batch_index"][0]))
    assert not torch.equal(drawn, alone((frame + 1) % 3, latent["batch_index"][0]))


def test_a_frame_taken_out_works_with_our_patch_too(host, parts, story, conds, sample, alone):
    drawn = sample(conds, taken(story_latent(story), 1), patched(host, parts, story))["samples"]
    assert torch.equal(drawn, alone(1, 1))


def test_two_of_three_frames_share_by_their_numbers(host, parts, story, conds, sample):
    """Drawn as a batch of two: the rows and the draws of tokens are those of frames 2 and 3."""
    from storyreel.core.attention import draws

    asked = []
    once = draws.sample_each

    def listen(seed, step, level, frame, *args):
        asked.append(frame)
        return once(seed, step, level, frame, *args)

    draws.sample_each = listen
    try:
        sample(conds, taken(story_latent(story), 1, 2), patched(host, parts, story))
    finally:
        draws.sample_each = once
    assert set(asked) == {1, 2}


def test_a_whole_story_is_drawn_as_if_its_conditioning_followed_nothing(story, conds, sample):
    from storyreel.host.common.frame_rows import without_frames

    bare = [[[text, without_frames(extras)] for text, extras in cond] for cond in conds]
    latent = story_latent(story)
    usual = sample(bare, {**latent, "samples": plain(latent["samples"])})["samples"]
    assert torch.equal(sample(conds, latent)["samples"], usual)
    assert all("hooks" not in extras for cond in bare for _, extras in cond)


def test_cond_and_uncond_stay_in_one_call(parts, story, conds, sample):
    kinds = []
    counted = parts[0].clone()
    counted.set_model_attn2_patch(lambda q, k, v, extra: (kinds.append(len(extra["cond_or_uncond"])), (q, k, v))[1])
    sample(conds, taken(story_latent(story), 1), counted)
    assert set(kinds) == {2}


def test_batch_index_of_any_latent_is_followed(conds, sample, alone):
    """The host's own empty latent, and a batch in another order."""
    host_own = taken({"samples": EMPTY}, 2)
    assert torch.equal(sample(conds, host_own)["samples"], alone(2, 2))
    turned = {"samples": EMPTY[:2], "batch_index": [2, 0]}
    drawn = sample(conds, turned)["samples"]
    torch.testing.assert_close(drawn, torch.cat([alone(2, 2), alone(0, 0)]), rtol=0, atol=1e-4)


def test_a_second_pass_knows_the_frames_of_the_first(story, conds, sample, alone):
    """Sampled latents are taken out, enlarged, and sampled again, and so is a run that continues without new noise."""
    first = sample(conds, story_latent(story))
    for frame in range(3):
        one = taken(first, frame)
        one["samples"] = interpolate(one["samples"], size=(12, 12), mode="nearest-exact")
        again = sample(conds, one, denoise=0.5, seed=9)["samples"]
        assert numbers(again) == [frame]
    part = sample(conds, taken(story_latent(story), 1), last_step=1)
    split = sample(conds, part, start_step=1, disable_noise=True)["samples"]
    torch.testing.assert_close(plain(split), plain(alone(1, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("images", [1, 2, 4, 6])
def test_another_number_of_images_is_refused_by_name(host, parts, story, conds, sample, images, ours):
    model = patched(host, parts, story) if ours else None
    with pytest.raises(ValueError, match=rf"3 frames.* LATENT (has|holds) {images} image") as caught:
        sample(conds, {"samples": EMPTY[:1].repeat(images, 1, 1, 1)}, model)
    assert str(caught.value).startswith(("Consistent Self-Attention: ", "Encode Story: ") if ours else "Encode Story: ")


def test_latents_of_another_story_are_refused(conds, sample):
    other = {"samples": mark_frames(EMPTY[:2], Frames.all(2)), "batch_index": [0, 1]}
    with pytest.raises(ValueError, match="3 frames of a story of 3 and the LATENT is of one of 2"):
        sample(conds, other)


def test_a_single_prompt_serves_any_number_of_images(parts, conds, sample):
    from storyreel.host.common.conditioning import encode_story

    single = encode_story(parts[1], ["a blue hero waving in a meadow"], "")
    assert len(sample(single, {"samples": EMPTY[:2]})["samples"]) == 2
    assert len(sample([single[0], conds[1]], {"samples": EMPTY[:2]})["samples"]) == 2


@pytest.mark.parametrize("together", [False, True])
def test_it_works_with_other_hooks(parts, story, conds, sample, alone, together):
    """A hook on cond and uncond leaves them in one call, and the frames keep their prompts."""
    import comfy.hooks

    hooks, cache = comfy.hooks.create_hook_lora({}, 1.0, 1.0), {}
    hooked = [comfy.hooks.set_hooks_for_conditioning(cond, hooks, cache=cache) for cond in conds]
    kinds = []
    counted = parts[0].clone()
    counted.set_model_attn2_patch(lambda q, k, v, extra: (kinds.append(len(extra["cond_or_uncond"])), (q, k, v))[1])
    latent = story_latent(story) if together else taken(story_latent(story), 2)
    drawn = sample(hooked, latent, counted)["samples"]
    assert set(kinds) == {2} and len(drawn) == len(latent["samples"])
    torch.testing.assert_close(plain(drawn)[-1:], plain(alone(2, 2)), rtol=0, atol=1e-4)


def test_rows_that_another_pack_took_out_are_unchanged(conds, sample, alone):
    sliced = [[[text[1:2], extras] for text, extras in cond] for cond in conds]
    assert torch.equal(sample(sliced, {"samples": EMPTY[:1]})["samples"], alone(1, 0))


def picked(conds, latent, frames):
    from storyreel.nodes.frames import StoryReelPickFrames

    positive, negative = conds
    return StoryReelPickFrames.execute(positive=positive, negative=negative, latent=latent, frames=frames).result[:3]


def test_picked_frames_are_drawn_with_their_prompts(story, conds, sample, alone):
    *prompts, latent = picked(conds, story_latent(story), "3, 1")
    drawn = sample(prompts, latent)["samples"]
    torch.testing.assert_close(plain(drawn), torch.cat([plain(alone(2, 2)), plain(alone(0, 0))]), rtol=0, atol=1e-4)


def test_frames_are_picked_from_picked_ones(conds, sample, alone):
    *prompts, latent = picked(conds, {"samples": EMPTY[:2]}, "2-3")
    *prompts, latent = picked(prompts, latent, "2, 1")
    assert latent["batch_index"] == [1, 0]
    drawn = sample(prompts, latent)["samples"]
    torch.testing.assert_close(plain(drawn), torch.cat([plain(alone(2, 1)), plain(alone(1, 0))]), rtol=0, atol=1e-4)


def test_picked_prompts_serve_latents_from_elsewhere(conds, sample, alone):
    """An encoded image stays as it is, drawn as any frame."""
    *prompts, latent = picked(conds, {"samples": EMPTY[:1]}, "2")
    assert torch.equal(sample(prompts, latent)["samples"], alone(1, 0))
    *prompts, latent = picked(conds, {"samples": EMPTY[:2]}, "2-3")
    drawn = sample(prompts, latent)["samples"]
    torch.testing.assert_close(plain(drawn), torch.cat([plain(alone(1, 0)), plain(alone(2, 1))]), rtol=0, atol=1e-4)


def test_picked_masks_go_with_their_frames(story, conds):
    masks = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    latent = picked(conds, {**story_latent(story), "noise_mask": masks}, "3")[2]
    assert latent["noise_mask"].unique().tolist() == [2] and latent["batch_index"] == [2]


def test_picked_images_go_with_their_frames(host, story, conds):
    """For a node that works on one image: one image, one latent, one prompt."""
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 16, 16, 3)
    pick = host.nodes["StoryReelPickFrames"].execute
    inputs = dict(positive=conds[0], negative=conds[1], latent=story_latent(story), frames="3")
    positive, negative, latent, image = pick(**inputs, images=images).result
    assert image.shape == (1, 16, 16, 3) and image.unique().tolist() == [2]
    assert len(positive[0][0]) == len(negative[0][0]) == len(latent["samples"]) == 1
    with pytest.raises(ValueError, match="images has 2 images and positive 3 prompts"):
        pick(**inputs, images=images[:2])
    assert "connect images" in pick(**inputs).result[3].message


def test_a_number_of_samples_that_fits_neither_is_refused(conds):
    with pytest.raises(ValueError, match="latent holds 2 samples and positive 3 prompts"):
        picked(conds, {"samples": EMPTY[:2]}, "1")


def test_the_hosts_nodes_take_such_latents(host, parts, story, conds, sample, tmp_path):
    """Saved, composed, decoded."""
    import comfy.utils
    import nodes

    drawn = sample(conds, story_latent(story))
    assert isinstance(drawn["samples"], FrameLatents)
    images = nodes.VAEDecode().decode(parts[2], drawn)[0]
    assert type(images) is torch.Tensor and images.shape == (3, SIZE, SIZE, 3)
    file = str(tmp_path / "a.safetensors")
    comfy.utils.save_torch_file({"latent_tensor": drawn["samples"].contiguous()}, file)
    loaded = comfy.utils.load_torch_file(file, safe_load=True)["latent_tensor"]
    assert torch.equal(loaded, drawn["samples"])
    for method in ("nearest-exact", "bislerp"):
        assert nodes.LatentUpscale().upscale(drawn, method, 128, 128, "disabled")[0]["samples"].shape[-1] == 16
