"""Find Characters: regions from the attention of a running model to the words of the characters."""

import logging

import pytest
import torch
from harness import brute
from harness.masks import left_half

WORDS = {"A": "a tall man in a red (woollen:1.3) coat", "B": "an old woman with silver hair"}


@pytest.fixture(scope="module")
def encoders(host):
    """CLIPs of the host that tokenize and encode nothing, of SD1.5 and of SDXL."""
    import comfy.sd
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer

    def clip(tokenizer):
        clip = comfy.sd.CLIP(no_init=True)
        clip.tokenizer, clip.tokenizer_options = tokenizer, {}
        return clip

    return {"sd15": clip(SD1Tokenizer()), "sdxl": clip(SDXLTokenizer())}


def story_of(*casts, before="", words=WORDS):
    """A STORY whose frames show these characters, at the end of the text `before`."""
    from storyreel.core.story.story import Character, Frame, Story

    prompts = [f"{before}{' and '.join(words[name] for name in cast)} at sea" for cast in casts]
    frames = [Frame(i, text, text, tuple(cast), "") for i, (cast, text) in enumerate(zip(casts, prompts, strict=True))]
    return Story(tuple(Character(*pair) for pair in words.items()), tuple(frames), "(No style)", "")


@pytest.fixture
def find(host, encoders):
    from storyreel.nodes.regions import StoryReelFindCharacters

    def find(model, dropout=0.0, start_percent=0.0, clip="sd15"):
        options = {"dropout": dropout, "start_percent": start_percent}
        return StoryReelFindCharacters.execute(model=model, clip=encoders[clip], **options).result[0]

    return find


@pytest.fixture
def run(host, probe, model, find, monkeypatch):
    """run(story) -> (latents, what the run found) of a model behind both nodes; options are of the sampler."""
    from storyreel.host.attention.found_regions import FoundRegions

    def run(story, *, regions=None, dropout=0.0, start_percent=0.0, tokens=77, patch=lambda model: model, **options):
        from storyreel.nodes.regions import StoryReelCharacterRegion

        kept = []
        finish = FoundRegions.finish
        monkeypatch.setattr(FoundRegions, "finish", lambda self: (kept.append(self), finish(self)))
        patched = find(probe.node(host, model, "custom", story=story), dropout, start_percent)
        for name, mask in (regions or {}).items():
            (patched,) = StoryReelCharacterRegion.execute(model=patched, character=name, mask=mask).result
        count = len(story.frames)
        conds = probe.conditioning(count, 768, 1, tokens), probe.conditioning(1, 768, 2, tokens)
        options = {"steps": 3, **options}
        return probe.sample(patch(patched), *conds, probe.latent(count, 16, 16), **options), *kept

    return run


# Words in prompts


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("before", ["", "(rain:0.7), ", "a storm over the harbor, high waves, dark clouds, " * 8])
def test_the_tokens_are_those_of_the_words(encoders, kind, before):
    """The third text fills more than a chunk of 77 tokens."""
    from storyreel.host.attention.found_regions import find_words

    story = story_of("AB", "", before=before)
    found = find_words(encoders[kind], story, (0, 1))
    assert found[1] == {} and found[0].keys() == {"A", "B"}
    tokenizer = encoders[kind].tokenizer.clip_l
    chunks = tokenizer.tokenize_with_weights(story.frames[0].prompt)
    assert (len(chunks) > 1) == (len(before) > 100)
    tokens = [token for chunk in chunks for token, _ in chunk]
    texts = {"A": "atallmaninaredwoollencoat", "B": "anoldwomanwithsilverhair"}
    for name, positions in found[0].items():
        text = "".join(tokenizer.inv_vocab[tokens[place]] for place in positions.tolist())
        assert text.replace("</w>", "") == texts[name]


def test_words_that_are_not_in_the_prompt_are_named(probe, run, caplog):
    from dataclasses import replace

    story = story_of("A", "AB")
    frames = [replace(story.frames[0], prompt="a man"), story.frames[1]]
    with caplog.at_level(logging.WARNING):
        run(replace(story, frames=tuple(frames)))
    assert "Find Characters: the prompt of frame 1 does not hold the words of A" in caplog.text


# What a run sees


def test_the_maps_equal_the_brute_force(run, model):
    """The attention of all observed layers and steps, from the projections that the model itself computes."""
    from comfy.utils import get_attr
    from storyreel.host.attention.unet_blocks import self_attention_layers

    network, seen, hooks = model.model.diffusion_model, {}, []
    for layer in self_attention_layers(model):
        attention = get_attr(network, layer.path.replace("attn1", "attn2"))
        for name in ("to_q", "to_k"):

            def keep(module, inputs, out, key=(layer.key, name)):
                seen.setdefault(key, []).append(out)

            hooks.append(getattr(attention, name).register_forward_hook(keep))
    try:
        _, found = run(story_of("A", "AB", "B"), steps=2)
    finally:
        for hook in hooks:
            hook.remove()
    assert found.size == (16, 16) and {key[0] for key in found.layers} == {"output"}
    sums, count = 0, 0
    for key in found.layers:
        # Each layer projects for the observer, image by image, and then for itself, all rows together.
        whole = [[out for out in seen[key, name] if len(out) > 1] for name in ("to_q", "to_k")]
        assert [len(calls) for calls in whole] == [2, 2]
        for q, k in zip(*whole, strict=True):
            rows = slice(3, 6)  # the host puts the negative first
            q, k = (t[rows].double().unflatten(-1, (8, -1)).transpose(1, 2) for t in (q, k))
            sums, count = sums + (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1), count + 1
    found.begin_step(0.0)
    for image, names in enumerate(["A", "AB", "B"]):
        for row, name in enumerate(names):
            expected = (sums / count)[image][:, found.positions[image][name]].mean(-1)
            assert (found.maps[image][row].flatten() - expected).abs().max() < 1e-5


def test_a_model_that_is_observed_computes_the_same(host, probe, model, find, caplog):
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    with caplog.at_level(logging.WARNING):
        observed = probe.sample(find(model), *conds, probe.latent(2))
    assert torch.equal(observed, probe.sample(model, *conds, probe.latent(2)))
    assert "Find Characters: MODEL has no Consistent Self-Attention" in caplog.text


def test_the_first_step_reads_everything(host, probe, model, run):
    story = story_of("A", "AB")
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    alone = probe.sample(probe.node(host, model, "custom", story=story), *conds, probe.latent(2, 16, 16), steps=1)
    assert torch.equal(run(story, steps=1)[0], alone)


def test_regions_change_later_steps_and_are_the_same_each_time(host, probe, model, run):
    story = story_of("A", "AB", "B")
    samples, found = run(story)
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    without = probe.sample(probe.node(host, model, "custom", story=story), *conds, probe.latent(3, 16, 16), steps=3)
    assert not torch.allclose(samples, without, atol=1e-3)
    assert torch.equal(samples, run(story)[0])
    a, b = (found.tokens(name, 1, (16, 16)) for name in "AB")
    assert a.any() and b.any() and not (a & b).any()


def test_cond_and_uncond_together_or_apart(run, model, monkeypatch):
    together, _ = run(story_of("A", "AB"))
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    apart, _ = run(story_of("A", "AB"))
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-4 * together.abs().max().item())


def test_a_frame_without_characters_neither_lends_nor_borrows(run, probe, model):
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    with_it, _ = run(story_of("A", "", "AB"))
    plain = probe.sample(model, *conds, probe.latent(3, 16, 16), steps=3)
    torch.testing.assert_close(with_it[1], plain[1], rtol=0, atol=1e-4)
    assert not torch.allclose(with_it[0], plain[0], atol=1e-3)


def test_dropout_lends_fewer_tokens_of_the_region(run):
    story = story_of("A", "AB")
    plain, found = run(story)
    dropped, less = run(story, dropout=0.5)
    assert not torch.equal(plain, dropped) and torch.equal(dropped, run(story, dropout=0.5)[0])
    region = found.tokens("A", 0, (16, 16))
    assert torch.equal(found.keep(region, "A", 0), region)
    kept = less.keep(region, "A", 0)
    assert not (kept & ~region).any() and 0 < kept.sum() < region.sum()


def test_a_mask_comes_before_what_is_found(run):
    """Of two characters, the found one gives way to the mask of the other."""
    from storyreel.host.attention.regions import Regions

    mask = left_half(0.5)
    _, found = run(story_of("A", "AB"), regions={"A": mask})
    regions = Regions({"A": mask}, found)
    a, b = (regions.tokens(name, 1, (16, 16)) for name in "AB")
    assert torch.equal(a.view(16, 16).any(0), torch.arange(16) < 8)
    own = found.tokens("B", 1, (16, 16))
    assert torch.equal(b, own & ~a) and not torch.equal(b, own)


# What regions do in a batch


def test_each_place_reads_the_tokens_of_its_own_character(host, probe, model):
    """The first layer that shares, by brute force: the left half of the frame of both reads the left quarter of A's
    frame, its right half B's frame."""
    from storyreel.core.attention import draws
    from storyreel.host.attention.unet import SharedAttention
    from storyreel.nodes.regions import StoryReelCharacterRegion

    story = story_of("A", "AB", "B")
    patched = probe.node(host, model, "custom", story=story, anchors=1)
    masks = {"A": left_half(0.25, 0.5, 0), "B": torch.cat([left_half(0), 1 - left_half(0.5), left_half(1)])}
    for name, mask in masks.items():
        (patched,) = StoryReelCharacterRegion.execute(model=patched, character=name, mask=mask).result
    seen = []
    replacements = patched.model_options["transformer_options"]["patches_replace"]["attn1"]
    for key, patch in list(replacements.items()):
        if isinstance(patch, SharedAttention):

            def over(q, k, v, extra_options, patch=patch):
                out = patch(q, k, v, extra_options)
                seen.append((q, k, v, out, extra_options))
                return out

            replacements[key] = over
    conds = probe.conditioning(3, 768, 1), probe.conditioning(1, 768, 2)
    probe.sample(patched, *conds, probe.latent(3, 16, 16), steps=1)
    q, k, v, out, options = seen[0]
    step, (height, width) = float(f"{float(options['sigmas'][0]):.6g}"), options["activations_shape"][-2:]
    columns = torch.arange(height * width) % width
    pixels = 16 * 8 // height
    drawn = {frame: draws.sample_each(0, step, pixels, frame, len(columns), 0.5) for frame in (0, 2)}
    for chunk in range(2):
        rows = slice(chunk * 3, chunk * 3 + 3)
        for half, source in ((columns < width // 2, 0), (columns >= width // 2, 2)):
            counts = torch.zeros(3, len(columns))
            counts[1] = 1
            lent = drawn[source]
            counts[source, lent[columns[lent] < width // 4] if source == 0 else lent] = 1
            expected = brute.attention(q[rows][1, half], k[rows], v[rows], options["n_heads"], counts)
            torch.testing.assert_close(out[rows][1, half].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_recording_holds_the_character_alone(host, probe, model, find):
    """From the second step on; in the first one nobody is found yet."""
    from storyreel.nodes.record import StoryReelRecordCharacters

    shared = find(probe.node(host, model, "custom", story=story_of("A", "B"), sampling_rate=1.0))
    options = {"precision": "fp32", "device": "cpu", "max_gb": 1.0, "step_stride": 1}
    recorded, bank = StoryReelRecordCharacters.execute(model=shared, **options).result
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    probe.sample(recorded, *conds, probe.latent(2, 16, 16), steps=3)
    (recording,) = bank.recordings
    first, *later = recording.steps
    for (_, step, pixels), index in recording.indices.items():
        tokens = recording.levels[pixels].tokens
        if pixels > 8:
            continue  # sampling_rate is of the coarse levels
        assert (len(index) > tokens * 0.4) if step == first else (0 < len(index) < tokens * 0.4)


# What cannot work


@pytest.mark.parametrize("name", ["flux"])
def test_a_transformer_is_refused_by_name(find, models, name):
    with pytest.raises(ValueError, match="Find Characters: MODEL is Flux.*; a UNet .* is expected"):
        find(models(name))


def test_no_text_encoder_is_refused(host, model):
    from storyreel.nodes.regions import StoryReelFindCharacters

    with pytest.raises(ValueError, match="Find Characters: The clip input is empty"):
        StoryReelFindCharacters.execute(model=model, clip=None, dropout=0.0, start_percent=0.0)


def test_no_story_is_refused(host, probe, model, find):
    patched = find(probe.node(host, model, "custom"))
    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)
    with pytest.raises(ValueError, match="Find Characters: Consistent Self-Attention has no STORY"):
        probe.sample(patched, *conds, probe.latent(2))


def test_another_conditioning_is_named(run, caplog):
    with caplog.at_level(logging.WARNING):
        run(story_of("A", "AB", before="rain, " * 5), tokens=12)
    assert (
        "Find Characters: the conditioning has 12 tokens, and the prompt of frame 1 has words at token" in caplog.text
    )


def test_a_late_start_is_named(run, caplog):
    with caplog.at_level(logging.WARNING):
        run(story_of("A", "AB"), start_percent=1.0)
    assert "Find Characters: no character was found" in caplog.text
