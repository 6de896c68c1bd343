"""The story nodes on the real host: reading and refusing scripts, encoding them, and the latents to sample."""

import json
import os
import sys

import pytest
import torch
from harness import tiny, transformers
from storyreel.core.story.frames import Frames, frames_in
from storyreel.core.story.styles import PUBLISHED_STYLES

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
    """clip_of(family) -> a CLIP"""
    return lambda family: tiny.sdxl_clip() if family == "sdxl" else host.load_checkpoint(tiny_checkpoint(family))[1]


@pytest.fixture
def styles_file(host):
    path = host.base / "user" / "default" / "storyreel" / "styles.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


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


def failure(host, prompt):
    """What the user sees of a prompt that fails: the one error that the page gets, and which nodes had run."""
    first = len(host.events)
    host.validate(prompt)
    with pytest.raises(RuntimeError) as error:
        host.run(prompt)
    assert sum(name == "execution_error" for name, _ in host.events[first:]) == 1
    ran = {data["node"] for name, data in host.events[first:] if name == "executing" and data["node"]}
    return str(error.value), ran


def linked(text):
    return {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}}


@pytest.mark.parametrize("by_link", [False, True], ids=["typed", "linked"])
def test_all_problems_are_told_once_and_before_any_sampling(host, by_link):
    scenes = "[Bbo] reads\n[Alice] runs\n[Alicia sings"
    latent = dict(story=["2", 0], width=64, height=64, noise="different")
    prompt = shown(
        linked(scenes),
        script(scenes=["1", 0] if by_link else scenes),
        {"class_type": "StoryReelStoryLatent", "inputs": latent},
    )
    text, ran = failure(host, prompt)
    assert text.count("The script has 2 problems:") == 1
    for line in ("scenes line 1: [Bbo] is not a character; did you mean [Bob]?", "scenes line 3"):
        assert text.count(line) == 1
    assert ran <= {"1", "2"}


def test_an_unknown_style_is_refused_by_name_and_once(host):
    with pytest.raises(ValueError) as refusal:
        host.validate(shown(script(style="Comic bok")))
    ((_, entry),) = refusal.value.node_errors.items()
    (error,) = entry["errors"]
    assert error["details"] == 'style - style "Comic bok" does not exist; did you mean "Comic book"?'


@pytest.mark.parametrize(
    "style", [3, {"a": 1}, "Comic \ud83d", "x" * 100_000], ids=["number", "object", "half", "long"]
)
def test_a_style_that_is_no_name_is_refused_in_a_sentence(host, style):
    with pytest.raises(ValueError) as refusal:
        host.validate(shown(script(style=style)))
    ((_, entry),) = refusal.value.node_errors.items()
    (error,) = entry["errors"]
    assert error["details"].startswith("style - style ") and len(error["details"]) < 500
    error["details"].encode("utf-8")


def test_texts_that_come_by_a_link_are_read_when_they_are_there(host):
    assert len(host.run(shown(linked(SCENES), script(scenes=["1", 0]))).values["2"][0].frames) == 4
    with pytest.raises(ValueError, match="style"):
        host.validate(shown(linked(SCENES), script(scenes=["1", 0], style="none of them")))


def test_choices_and_comments_are_offered_as_in_the_hosts_own_encoder(host):
    inputs = host.nodes["StoryReelScript"].INPUT_TYPES()["required"]
    own = host.nodes["CLIPTextEncode"].INPUT_TYPES()["required"]["text"][1]
    for name in ("characters", "scenes", "negative"):
        assert inputs[name][1]["dynamicPrompts"] is own["dynamicPrompts"] is True


def test_remarks_appear_on_the_node_and_stay_after_a_cached_run(host):
    prompt = shown(script(characters=f"a lonely man\n{PAIR}", scenes="[Bob] wins #We're #1!"))
    for _ in range(2):
        messages = host.run(prompt, cached=True).outputs["1"]["text"]
        assert len(messages) == 2
        assert messages[0] == "characters line 1 has no [Tag] and is ignored"
        assert messages[1].startswith("scenes line 1:")


def test_half_an_emoji_is_a_story_and_an_error_that_can_be_sent(host):
    story = host.run(shown(script(characters="[Bob] a man \ud83d", scenes="[Bob] waves #Hi \ude00!"))).values["1"][0]
    assert story.captions == ("Hi \ufffd!",)
    for text in (*story.prompts, *story.captions, story.negative):
        text.encode("utf-8")
    text, _ = failure(host, shown(script(scenes="[Bob\ud83d] sits")))
    assert "scenes line 1" in text
    text.encode("utf-8")


def test_own_styles_are_offered_used_and_noticed_when_they_change(host, styles_file):
    styles_file.write_text(json.dumps([{"name": "Woodcut", "prompt": "woodcut, {prompt}", "negative_prompt": "photo"}]))
    assert "Woodcut" in host.nodes["StoryReelScript"].INPUT_TYPES()["required"]["style"][1]["options"]
    story = host.run(shown(script(style="Woodcut")), cached=True).values["1"][0]
    assert (story.prompts[1], story.negative) == ("woodcut, rain on a window", "photo blurry")

    styles_file.write_text(json.dumps([{"name": "Woodcut", "prompt": "print of {prompt}"}]), encoding="utf-8-sig")
    assert (
        host.run(shown(script(style="Woodcut")), cached=True).values["1"][0].prompts[1] == "print of rain on a window"
    )


ENTRY = '{"name": "Woodcut", "prompt": "woodcut, {prompt}"}'
BROKEN = {  # a way to write the file -> the reported error
    "bad entry": ('[{"name": "Woodcut", "prompt": "no place"}]', 'entry 1 ("Woodcut")'),
    "no text": (b"\xff\xfe\x00[", "cannot be read as UTF-8"),
    "empty": (b"", "is not valid JSON"),
    "deep": ("[" * 200_000, "is nested too deeply"),
    "large": ("[" + " " * 3_000_000 + "]", "is larger than"),
    "garbage": ('[3, null, "a", [], {}, 0.5, true, {"name": 7}]', "3 more entries cannot be used"),
    "surrogate": ('[{"name": "Wood\\ud83dcut", "prompt": "{prompt}"}]', "half a character"),
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "pipe": (lambda path: os.mkfifo(path), "is not a file"),
    "dangling link": (lambda path: path.symlink_to(path.parent / "nowhere"), "cannot be read"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_styles_file_is_named_on_the_node_and_costs_its_own_styles_alone(host, styles_file, kind):
    content, error = BROKEN[kind]
    if callable(content):
        if sys.platform == "win32":
            pytest.skip("needs a POSIX file system")
        content(styles_file)
    else:
        styles_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = host.nodes["StoryReelScript"].INPUT_TYPES()["required"]["style"][1]["options"]
    assert options == [style.name for style in PUBLISHED_STYLES]

    prompt = shown(script(style="Line art"))
    for _ in range(2):
        (text,) = host.run(prompt, cached=True).outputs["1"]["text"]
        assert text.startswith(str(styles_file)) and error in text
        assert len(text) < 1000
    with pytest.raises(ValueError) as refusal:
        host.validate(shown(script(style="Woodcut")))
    assert 'style "Woodcut" does not exist' in str(refusal.value) and error in str(refusal.value)


def test_a_bad_entry_of_the_styles_file_costs_no_other(host, styles_file):
    styles_file.write_text(f"[7, {ENTRY}, {ENTRY}]")
    run = host.run(shown(script(style="Woodcut")))
    assert run.values["1"][0].prompts[1] == "woodcut, rain on a window"
    (text,) = run.outputs["1"]["text"]
    assert "entry 1 is a number" in text and "entry 3: the name" in text


# Encoding.


def assert_rows(conditioning, expected):
    """`conditioning` is one entry, row i of which is the (cond, pooled) of `expected[i]`, bit for bit."""
    ((cond, extra),) = conditioning
    assert len(cond) == len(extra["pooled_output"]) == len(expected)
    for row, (one, pooled) in enumerate(expected):
        assert torch.equal(cond[row : row + 1], one)
        assert torch.equal(extra["pooled_output"][row : row + 1], pooled)


@pytest.mark.parametrize("family", ["sd15_full", "sdxl"])
def test_a_row_is_what_the_hosts_own_encoder_gives(host, clip_of, family):
    def alone(text):
        ((cond, extra),) = encode(host, clip, text)
        return cond, extra["pooled_output"]

    clip = clip_of(family)
    story = story_of(host, scenes="[Bob] reads a (newspaper:1.3)\n[NC] rain")
    positive, negative = call(host, "StoryReelEncodeStory", clip=clip, story=story)
    assert_rows(positive, [alone(text) for text in story.prompts])
    assert_rows(negative, [alone(story.negative)] * 2)


@pytest.mark.parametrize(
    ("family", "scene", "words"),
    [("sd15_full", LONG, "blurry"), ("sd15_full", "rain", LONG), ("sdxl", LONG, "blurry")],
    ids=["long frame", "long negative", "long frame, sdxl"],
)
def test_shorter_prompts_are_padded_with_empty_chunks(host, clip_of, family, scene, words):
    def padded(text):
        tokens = clip.tokenize(text)
        for encoder, (empty,) in clip.tokenize("").items():
            tokens[encoder] += [empty] * (chunks - len(tokens[encoder]))
        return clip.encode_from_tokens(tokens, return_pooled=True)

    clip = clip_of(family)
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


def test_an_encoder_whose_lengths_vary_gives_rows_that_end_in_zeros(host):
    """Other values of one token each are filled up, too."""

    class OneTokenALetter:
        def tokenize(self, text, **options):
            return {"letters": [[(ord(letter), 1.0) for letter in text]]}

        def encode_from_tokens_scheduled(self, tokens, show_pbar):
            count = len(tokens["letters"][0])
            return [[torch.ones(1, count, 8), {"pooled_output": None, "of_layers": torch.ones(1, 2, count, 4)}]]

    story = story_of(host)
    counts = [len(text) for text in story.prompts]
    ((rows, extras),), _ = call(host, "StoryReelEncodeStory", clip=OneTokenALetter(), story=story)
    assert len(set(counts)) > 1 and rows.shape[1] == max(counts)
    for row, count in enumerate(counts):
        for values in (rows[row], extras["of_layers"][row].transpose(0, 1), extras["attention_mask"][row]):
            assert (values[:count] == 1).all() and (values[count:] == 0).all()


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
    drawn = comfy.sample.prepare_noise(latent["samples"], 5, latent.get("batch_index"))
    for row in range(4):
        for other in range(4):
            assert torch.equal(drawn[row], drawn[other]) == (shared[row] == shared[other])


@pytest.mark.parametrize(("width", "named"), [(64, False), (72, True)])
def test_frames_with_the_noise_of_any_batch_name_none(host, width, named):
    """Other packs' seed modes work on a LATENT without batch_index only. The noise is the same where it is left out."""
    import comfy.sample

    (latent,) = call(host, "StoryReelStoryLatent", story=story_of(host), width=width, height=104, noise="different")
    assert ("batch_index" in latent) == named
    drawn, of_indices = (
        comfy.sample.prepare_noise(latent["samples"], 5, index) for index in (latent.get("batch_index"), [0, 1, 2, 3])
    )
    assert torch.equal(drawn, of_indices)


def test_a_frame_taken_out_of_the_batch_keeps_its_noise(host):
    import comfy.sample

    (latent,) = call(
        host, "StoryReelStoryLatent", story=story_of(host), width=72, height=104, noise="same per character"
    )
    (alone,) = host.nodes["LatentFromBatch"]().frombatch(latent, 3, 1)
    batch, one = (comfy.sample.prepare_noise(part["samples"], 5, part.get("batch_index")) for part in (latent, alone))
    assert torch.equal(batch[3:], one)


@pytest.mark.parametrize("size", [56, 100, 1004])
@pytest.mark.parametrize("by_link", [False, True], ids=["typed", "linked"])
def test_a_size_that_no_image_can_have_is_told_once_and_before_any_sampling(host, size, by_link):
    inputs = dict(story=["1", 0], width=["2", 0] if by_link else size, height=64, noise="different")
    number = {"class_type": "PrimitiveInt", "inputs": {"value": size}}
    text, ran = failure(host, shown(script(), number, {"class_type": "StoryReelStoryLatent", "inputs": inputs}))
    assert text.count(f"width is {size}; a multiple of 8") == 1
    assert ran <= {"1", "2", "3"}
    with pytest.raises(ValueError, match=f"height is {size}"):
        call(host, "StoryReelStoryLatent", story=story_of(host), width=64, height=size, noise="different")


@pytest.mark.parametrize("size", [-8, 20000])
def test_a_size_out_of_range_is_refused_by_the_host(host, size):
    inputs = dict(story=["1", 0], width=size, height=64, noise="different")
    with pytest.raises(ValueError, match="width"):
        host.validate(shown(script(), {"class_type": "StoryReelStoryLatent", "inputs": inputs}))


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


SIDES = {None: 512, "sd15": 512, "sdxl_slim": 1024, "world": 128, "qwen": 1328, "zimage": 1024, "flux2": 1024}


@pytest.mark.parametrize(("name", "side"), SIDES.items())
def test_without_a_size_a_latent_has_that_of_the_models_family(host, tiny_checkpoint, name, side):
    from storyreel.host import storyworld

    model = {} if name is None else {"model": storyworld.load_model()}
    if name in transformers.FAMILIES:
        model = {"model": transformers.build(name)}
    elif name not in (None, "world"):
        model = {"model": host.load_model(tiny_checkpoint(name))}
    (latent,) = call(host, "StoryReelStoryLatent", story=story_of(host), width=0, height=64, noise="different", **model)
    assert latent["samples"].shape[2:] == (8, side // 8)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("flux2", (128, 4, 6)), ("qwen", (16, 1, 8, 12)), ("zimage", (16, 8, 12)), ("flux", (16, 8, 12))],
)
def test_a_latent_fits_every_model(host, name, shape):
    """Of 96 x 64 pixels: as the model's own empty latent, and still with the frames of the story."""
    (latent,) = call(host, "StoryReelStoryLatent", story=story_of(host), width=96, height=64, noise="different")
    frames = len(latent["samples"])
    seen = []

    def look(executor, noise, latent_image, *args, **kwargs):
        seen.append((tuple(noise.shape), tuple(latent_image.shape), frames_in(latent_image)))
        return executor(noise, latent_image, *args, **kwargs)

    model = transformers.build(name)
    model.add_wrapper_with_key("outer_sample", "look", look)
    images = transformers.sample(model, *transformers.conds(frames), latent)
    assert seen == [((frames, *shape), (frames, *shape), Frames.all(frames))]
    assert images.shape == (frames, *shape)


def test_the_size_of_a_family_is_found_without_a_word_in_the_log(host, tiny_checkpoint, caplog):
    from storyreel.host.story.latents import trained_size

    assert trained_size(host.load_model(tiny_checkpoint("sdxl_slim"))) == 1024
    assert [record.message for record in caplog.records if "trained_size" in record.message] == []
