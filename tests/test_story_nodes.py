"""The story nodes on the real host: reading and refusing scripts, encoding them, and the latents to sample."""

import json

import pytest
import torch

BOB = "[Bob] a man in a black suit"
PAIR = f"{BOB}\n[Alice] a woman in a white shirt"
SCENES = "[Bob] reads\n[NC] rain on a window\n[Alice] runs\n[Bob] and [Alice] dance"
LONG = "a very old lighthouse keeper with a long grey beard, " * 8


def script(characters=PAIR, scenes=SCENES, style="(No style)", negative="blurry"):
    inputs = dict(characters=characters, scenes=scenes, style=style, negative=negative)
    return {"class_type": "StoryReelScript", "inputs": inputs}


def shown(*nodes):
    """A prompt of the given nodes, 1, 2, ..., the last of which is shown."""
    prompt = {str(number): node for number, node in enumerate(nodes, 1)}
    return prompt | {"show": {"class_type": "PreviewAny", "inputs": {"source": [str(len(nodes)), 0]}}}


def call(host, node, **inputs):
    return host.nodes[node].execute(**inputs).result


def story_of(host, **inputs):
    return call(host, "StoryReelScript", **script(**inputs)["inputs"])[0]


def encode(host, clip, text):
    return host.nodes["CLIPTextEncode"]().encode(clip, text)[0]


@pytest.fixture
def clip_of(host, tiny_checkpoint):
    return lambda checkpoint: host.load_checkpoint(tiny_checkpoint(checkpoint))[1]


@pytest.fixture
def styles_file(host):
    path = host.base / "user" / "default" / "storyreel" / "styles.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.unlink(missing_ok=True)


# The script.


def test_the_example_that_the_node_comes_with_is_a_story(host):
    inputs = host.nodes["StoryReelScript"].INPUT_TYPES()["required"]
    example = {name: options["default"] for name, (_, options) in inputs.items()}
    story = host.run(shown({"class_type": "StoryReelScript", "inputs": example})).values["1"][0]
    assert len(story.frames) >= 5
    assert len(story.characters) == 2
    assert all(story.captions)
    assert frozenset() in story.cast
    assert {frozenset({character.name}) for character in story.characters} < set(story.cast)


def test_all_problems_are_found_before_anything_runs(host):
    with pytest.raises(ValueError) as refusal:
        host.validate(shown(script(scenes="[Bbo] reads\n[Alice] runs\n[Alicia sings")))
    for said in ("scenes line 1: [Bbo] is not a character; did you mean [Bob]?", "scenes line 3"):
        assert said in str(refusal.value)


def test_an_unknown_style_is_refused_by_name(host):
    with pytest.raises(ValueError, match='style "Comic bok" does not exist; did you mean "Comic book"?'):
        host.validate(shown(script(style="Comic bok")))


def test_texts_that_come_by_a_link_are_read_when_they_are_there(host):
    good, bad = (
        {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}} for text in (SCENES, "[Zed] sits")
    )
    assert len(host.run(shown(good, script(scenes=["1", 0]))).values["2"][0].frames) == 4
    with pytest.raises(RuntimeError, match=r"scenes line 1: \[Zed\] is not a character"):
        host.run(shown(bad, script(scenes=["1", 0])))
    with pytest.raises(ValueError, match="style"):
        host.validate(shown(good, script(scenes=["1", 0], style="none of them")))


def test_own_styles_are_offered_used_and_noticed_when_they_change(host, styles_file):
    styles_file.write_text(json.dumps([{"name": "Woodcut", "prompt": "woodcut, {prompt}", "negative_prompt": "photo"}]))
    assert "Woodcut" in host.nodes["StoryReelScript"].INPUT_TYPES()["required"]["style"][1]["options"]
    story = host.run(shown(script(style="Woodcut")), cached=True).values["1"][0]
    assert (story.prompts[1], story.negative) == ("woodcut, rain on a window", "photo blurry")

    styles_file.write_text(json.dumps([{"name": "Woodcut", "prompt": "print of {prompt}"}]), encoding="utf-8-sig")
    assert (
        host.run(shown(script(style="Woodcut")), cached=True).values["1"][0].prompts[1] == "print of rain on a window"
    )


def test_a_bad_styles_file_is_named_and_leaves_the_published_styles(host, styles_file, caplog):
    styles_file.write_text('[{"name": "Woodcut", "prompt": "no place"}]')
    with pytest.raises(ValueError) as refusal:
        host.validate(shown(script(style="Woodcut")))
    assert str(styles_file) in str(refusal.value)
    assert 'entry 1 ("Woodcut")' in str(refusal.value)

    assert len(host.run(shown(script(style="Line art"))).values["1"][0].frames) == 4
    assert str(styles_file) in caplog.text


def test_a_styles_file_that_is_no_text_is_named(host, styles_file):
    styles_file.write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        host.validate(shown(script(style="Woodcut")))


# Encoding.


def assert_rows(conditioning, expected):
    """`conditioning` is one entry, row i of which is the (cond, pooled) of `expected[i]`, bit for bit."""
    ((cond, extra),) = conditioning
    assert len(cond) == len(extra["pooled_output"]) == len(expected)
    for row, (one, pooled) in enumerate(expected):
        assert torch.equal(cond[row : row + 1], one)
        assert torch.equal(extra["pooled_output"][row : row + 1], pooled)


@pytest.mark.parametrize("checkpoint", ["sd15_full", "sdxl"])
def test_a_row_is_what_the_hosts_own_encoder_gives(host, clip_of, checkpoint):
    def alone(text):
        ((cond, extra),) = encode(host, clip, text)
        return cond, extra["pooled_output"]

    clip = clip_of(checkpoint)
    story = story_of(host, scenes="[Bob] reads a (newspaper:1.3)\n[NC] rain")
    positive, negative = call(host, "StoryReelEncodeStory", clip=clip, story=story)
    assert_rows(positive, [alone(text) for text in story.prompts])
    assert_rows(negative, [alone(story.negative)] * 2)


@pytest.mark.parametrize(
    ("checkpoint", "scene", "words"),
    [("sd15_full", LONG, "blurry"), ("sd15_full", "rain", LONG), ("sdxl", LONG, "blurry")],
    ids=["long frame", "long negative", "long frame, sdxl"],
)
def test_shorter_prompts_are_padded_with_empty_chunks(host, clip_of, checkpoint, scene, words):
    def padded(text):
        tokens = clip.tokenize(text)
        for encoder, (empty,) in clip.tokenize("").items():
            tokens[encoder] += [empty] * (chunks - len(tokens[encoder]))
        return clip.encode_from_tokens(tokens, return_pooled=True)

    clip = clip_of(checkpoint)
    chunks = max(len(sections) for sections in clip.tokenize(LONG).values())
    assert chunks > 1
    story = story_of(host, scenes=f"[Bob] reads\n[NC] {scene}", negative=words)
    positive, negative = call(host, "StoryReelEncodeStory", clip=clip, story=story)
    assert positive[0][0].shape[1] == negative[0][0].shape[1] == 77 * chunks
    assert_rows(positive, [padded(text) for text in story.prompts])
    assert_rows(negative, [padded(story.negative)] * 2)


def test_embeddings_work_as_in_the_hosts_own_encoder(host, tiny_checkpoint):
    folder = host.base / "models" / "embeddings"
    folder.mkdir(exist_ok=True)
    vectors = torch.randn(2, 768, generator=torch.Generator().manual_seed(1))
    torch.save({"string_to_param": {"*": vectors}}, folder / "story_hero.pt")
    loaded = host.nodes["CheckpointLoaderSimple"]().load_checkpoint(tiny_checkpoint("sd15_full").name)
    story = story_of(host, characters="[Bob] a man, embedding:story_hero", scenes="[Bob] reads\n[NC] rain")
    ((cond, _),), _ = call(host, "StoryReelEncodeStory", clip=loaded[1], story=story)
    assert torch.equal(cond[:1], encode(host, loaded[1], story.prompts[0])[0][0])
    assert not torch.equal(cond[:1], encode(host, loaded[1], "a man, reads")[0][0])


def test_hooks_and_their_schedule_reach_every_row(host, clip_of):
    import comfy.hooks

    generator = torch.Generator().manual_seed(2)
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    lora = {
        f"{layer}.lora_up.weight": torch.randn(3072, 4, generator=generator),
        f"{layer}.lora_down.weight": torch.randn(4, 768, generator=generator),
    }
    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=0.0, strength_clip=1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.0, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    (hooked,) = host.nodes["SetClipHooks"]().apply_hooks(clip_of("sd15_full"), True, True, hooks)

    story = story_of(host, scenes="[Bob] reads\n[NC] rain")
    positive, negative = call(host, "StoryReelEncodeStory", clip=hooked, story=story)
    for conditioning, texts in ((positive, story.prompts), (negative, [story.negative])):
        assert len(conditioning) == 2
        assert not torch.equal(conditioning[0][0], conditioning[1][0])
        for row, text in enumerate(texts):
            for (cond, extra), (expected, expected_extra) in zip(conditioning, encode(host, hooked, text), strict=True):
                assert torch.equal(cond[row : row + 1], expected)
                for key in ("clip_start_percent", "clip_end_percent"):
                    assert extra[key] == expected_extra[key]
                assert set(expected_extra["hooks"].hooks) < set(extra["hooks"].hooks)  # and the one that follows frames


def test_a_missing_text_encoder_is_said_in_one_sentence(host):
    with pytest.raises(ValueError, match="no text encoder"):
        call(host, "StoryReelEncodeStory", clip=None, story=story_of(host))


def test_an_encoder_whose_lengths_vary_is_refused(host):
    class OneTokenALetter:
        def tokenize(self, text):
            return {"letters": [[(ord(letter), 1.0) for letter in text]]}

        def encode_from_tokens_scheduled(self, tokens, show_pbar):
            return [[torch.zeros(1, len(tokens["letters"][0]), 8), {"pooled_output": None}]]

    with pytest.raises(ValueError, match="share a batch"):
        call(host, "StoryReelEncodeStory", clip=OneTokenALetter(), story=story_of(host))


def test_encoding_can_be_interrupted(host, clip_of):
    from comfy.model_management import InterruptProcessingException

    story = story_of(host)
    host.interrupt()
    with pytest.raises(InterruptProcessingException):
        call(host, "StoryReelEncodeStory", clip=clip_of("sd15_full"), story=story)


# Latents.


@pytest.mark.parametrize(
    ("noise", "shared"),
    [("different", [0, 1, 2, 3]), ("same for all", [0, 0, 0, 0]), ("same per character", [0, 1, 2, 0])],
)
def test_frames_share_noise_as_the_policy_says(host, noise, shared):
    import comfy.sample

    (latent,) = call(host, "StoryReelStoryLatent", story=story_of(host), width=72, height=104, noise=noise)
    assert latent["samples"].shape == (4, 4, 13, 9)
    assert not latent["samples"].any()
    drawn = comfy.sample.prepare_noise(latent["samples"], 5, latent["batch_index"])
    for row in range(4):
        for other in range(4):
            assert torch.equal(drawn[row], drawn[other]) == (shared[row] == shared[other])


def test_a_frame_taken_out_of_the_batch_keeps_its_noise(host):
    import comfy.sample

    (latent,) = call(
        host, "StoryReelStoryLatent", story=story_of(host), width=72, height=104, noise="same per character"
    )
    (alone,) = host.nodes["LatentFromBatch"]().frombatch(latent, 3, 1)
    batch, one = (comfy.sample.prepare_noise(part["samples"], 5, part["batch_index"]) for part in (latent, alone))
    assert torch.equal(batch[3:], one)


@pytest.mark.parametrize("size", [100, 56, 20000])
def test_a_size_that_no_picture_can_have_is_refused(host, size):
    latent = {
        "class_type": "StoryReelStoryLatent",
        "inputs": dict(story=["1", 0], width=size, height=64, noise="different"),
    }
    with pytest.raises(ValueError, match=f"width is {size}; a multiple of 8"):
        host.validate(shown(script(), latent))
    with pytest.raises(ValueError, match=f"height is {size}"):
        call(host, "StoryReelStoryLatent", story=story_of(host), width=64, height=size, noise="different")


# Together.


def test_a_story_is_sampled_in_one_batch(host, tiny_checkpoint):
    prompt = {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": tiny_checkpoint("sd15_full").name}},
        "script": script(scenes=f"{SCENES}\n[NC] {LONG}"),
        "encode": {"class_type": "StoryReelEncodeStory", "inputs": {"clip": ["load", 1], "story": ["script", 0]}},
        "latent": {
            "class_type": "StoryReelStoryLatent",
            "inputs": {"story": ["script", 0], "width": 64, "height": 64, "noise": "same for all"},
        },
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["load", 0], "positive": ["encode", 0], "negative": ["encode", 1],
                "latent_image": ["latent", 0], "seed": 3, "steps": 2, "cfg": 5.0,
                "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load", 2]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }  # fmt: skip
    run = host.run(prompt)
    images = run.values["decode"][0]
    assert images.shape == (5, 64, 64, 3)
    # one noise for all, so that only the prompts can make the pictures differ
    assert all(not torch.equal(images[0], image) for image in images[1:])
    assert any(event == "progress" and data["max"] == 6 for event, data in run.events)  # five prompts and the negative
