"""Prompts with photos, by PhotoMaker, in runs that share tokens, record banks and read them."""

import functools

import pytest
import torch
from harness import drawing, tiny
from harness.bank_runs import differs, noise_of
from harness.values import given

CHARACTERS = "[A] a man img in a suit\n[B] a woman img in a shirt"
SCENES = ("[A] reads", "[B] sings", "[A] runs", "[A] and [B] dance", "[NC] rain")
TOLERANCE = 1e-4  # of whole runs: steps of a random network amplify the rounding of float32


def portrait(seed: int):
    """Of few and large pixels, so that photos differ to a random network."""
    small = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (40, 40)).movedim(1, -1)


@pytest.fixture(scope="module")
def sdxl(host):
    return tiny.narrow_sdxl()


@pytest.fixture
def model(sdxl):
    return sdxl.clone()


@pytest.fixture(scope="module")
def clip(host):
    return tiny.sdxl_clip()


@pytest.fixture(scope="module")
def photomaker(host):
    return tiny.shallow_photomaker()


@pytest.fixture(scope="module")
def written(host):
    """written(scenes) -> a STORY"""

    def written(scenes=SCENES):
        inputs = dict(characters=CHARACTERS, scenes="\n".join(scenes), style="(No style)", negative="blurry")
        return host.nodes["StoryReelScript"].execute(**inputs).result[0]

    return written


@pytest.fixture(scope="module")
def prompts(host, clip, photomaker, written):
    """prompts(scenes, start_percent, seed) -> (positive, negative) with a photo each of A and B; seed: of B's."""

    @functools.cache
    def prompts(scenes=SCENES, start_percent=0.4, seed=2):
        photos = {"photos_1": portrait(1), "photos_2": portrait(seed)}
        inputs = dict(characters="", trigger_word="img", start_percent=start_percent, story=written(scenes))
        with torch.inference_mode():
            out = host.nodes["StoryReelEncodePhotos"].execute(clip=clip, photomaker=photomaker, photos=photos, **inputs)
        return out.result

    return prompts


def test_the_two_parts_of_the_sampling_are_those_of_the_hosts_nodes(host, probe, model, clip, prompts):
    """By hand: the prompt before and after a point, each within its range, and both combined."""
    positive, negative = prompts(SCENES[:1], 0.4)
    plain = host.nodes["CLIPTextEncode"]().encode(clip, "a man in a suit reads")[0]
    fused, _ = prompts(SCENES[:1], 0.0)
    ranged = host.nodes["ConditioningSetTimestepRange"]().set_range
    before, after = ranged(plain, 0.0, 0.4)[0], ranged(fused, 0.4, 1.0)[0]
    (combined,) = host.nodes["ConditioningCombine"]().combine(before, after)
    ours, by_hand, without, always = (
        probe.sample(model, cond, negative, probe.latent(1), steps=4) for cond in (positive, combined, plain, fused)
    )
    assert torch.equal(ours, by_hand)
    assert differs(ours, without) > 1e-3 and differs(ours, always) > 1e-3


@pytest.mark.parametrize("start_percent", [0.0, 0.4])
def test_frames_share_tokens_as_with_any_prompts(host, probe, model, prompts, written, start_percent):
    """Every attention call against the brute force; anchors and the frame of nobody read none and are as without."""
    story, conds = written(), prompts(SCENES, start_percent)
    watch = probe.Probe(probe.node(host, model, story=story, anchors=1), cast=story.cast, anchors=1)
    ours = probe.sample(watch.model, *conds, probe.latent(5), steps=4)
    watch.check()
    plain = probe.sample(model, *conds, probe.latent(5), steps=4)
    assert [torch.equal(a, b) for a, b in zip(ours, plain, strict=True)] == [True, True, False, False, True]


def test_a_frame_that_reads_a_bank_is_the_frame_of_one_batch(host, probe, model, record, prompts, written):
    """The anchors are recorded with their photos, and a later frame reads them with its own."""
    pick = host.nodes["StoryReelPickFrames"].execute
    story, (positive, negative) = written(), prompts()

    def part(*numbers):
        frames = ", ".join(str(number + 1) for number in numbers)
        return pick(positive=positive, negative=negative, latent=noise_of(*numbers), frames=frames).result[:2]

    together = probe.sample(
        probe.node(host, model, story=story, anchors=1), positive, negative, noise_of(*range(5)), steps=3
    )
    bank = record(model, story.pick([0, 1]), anchors=1, conds=part(0, 1), latent=noise_of(0, 1), steps=3)[1]
    assert bank.characters == {"A", "B"}
    for frame in (2, 3, 4):
        reader = probe.node(host, model, story=story.pick([frame]), bank=bank)
        alone = probe.sample(reader, *part(frame), noise_of(frame), steps=3)
        plain = probe.sample(model, *part(frame), noise_of(frame), steps=3)
        assert differs(alone[0], together[frame]) <= TOLERANCE
        assert (differs(plain[0], together[frame]) > 1e-3) == bool(story.cast[frame])


@pytest.fixture
def draw(host, tmp_path, model, prompts):
    """draw(seed) -> (numbers of the images that were written, IMAGE) of Draw Story; seed: of B's photo."""
    vae = host.nodes["VAELoader"]
    path = tiny.write("vae", host.base / "models" / "vae")
    (vae,) = vae().load_vae(path.name)
    with drawing.output_folder(tmp_path / "output") as output:

        def draw(seed=2):
            before = drawing.images(output)
            positive, negative = prompts(seed=seed)
            with given(host, model=model, vae=vae, positive=positive, negative=negative) as values:
                links = {name: [name, 0] for name in values}
                prompt = drawing.story(SCENES, CHARACTERS, clip=None, **links) | values
                images = host.run({id: prompt[id] for id in ("story", "draw", "show", *values)}).values["draw"][0]
            return drawing.new_images(before, drawing.images(output)), images

        yield draw


def test_draw_story_draws_again_what_another_photo_changes(draw):
    """B's frame and the one that reads her; not those of A alone and of nobody."""
    written, images = draw()
    assert written == [1, 2, 3, 4, 5] and len({image.numpy().tobytes() for image in images}) == 5
    assert draw()[0] == []
    written, changed = draw(seed=9)
    assert written == [2, 4]
    same = [torch.equal(a, b) for a, b in zip(images, changed, strict=True)]
    assert same[0] and same[2] and same[4]
