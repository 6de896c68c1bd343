"""Encode Story with PhotoMaker, against the host's own PhotoMaker: which token gets which photo, and what stays."""

import re

import pytest
import torch
from harness import tiny

PAIR = "[Bob] a man img in a black suit\n[Alice] a woman img in a white shirt"
SCENES = "[Bob] reads\n[NC] rain on a window\n[Alice] runs\n[Bob] and [Alice] dance"
LONG = "a very old lighthouse with a spiral staircase, " * 8
MAN, WOMAN = 786, 2308  # tokens of CLIP


def portrait(seed: int, count: int = 1):
    return torch.rand(count, 40, 56, 3, generator=torch.Generator().manual_seed(seed))


BOB, ALICE = portrait(1), portrait(2)


@pytest.fixture(scope="module")
def clip(host):
    return tiny.sdxl_clip()


@pytest.fixture(scope="module")
def photomaker(host):
    return tiny.shallow_photomaker()


@pytest.fixture
def story_of(host):
    def story_of(scenes=SCENES, characters=PAIR, style="(No style)", negative="blurry"):
        inputs = dict(characters=characters, scenes=scenes, style=style, negative=negative)
        return host.nodes["StoryReelScript"].execute(**inputs).result[0]

    return story_of


@pytest.fixture
def encode(host, clip, photomaker):
    """encode(story, *photos, **inputs) -> (positive, negative)"""

    def encode(story, *photos, **inputs):
        connected = {f"photos_{number}": images for number, images in enumerate(photos, 1)}
        values = dict(clip=clip, photomaker=photomaker, characters="", trigger_word="img", start_percent=0.0) | inputs
        with torch.inference_mode():
            return host.nodes["StoryReelEncodePhotos"].execute(story=story, photos=connected, **values).result

    return encode


@pytest.fixture
def text(host, clip):
    """text(prompt) -> (cond, pooled) of CLIP Text Encode"""

    def text(prompt):
        ((cond, extras),) = host.nodes["CLIPTextEncode"]().encode(clip, prompt)[0]
        return cond, extras["pooled_output"]

    return text


@pytest.fixture
def by_module(photomaker, text):
    """by_module(prompt, position, images) -> cond of a prompt without trigger words, its tokens from `position` on
    fused with the images by the host's module, called as its node does."""

    def by_module(prompt, position, images):
        import comfy.clip_vision

        cond = text(prompt)[0].clone()
        mask = torch.zeros(1, cond.shape[1], dtype=torch.bool)
        mask[0, position : position + len(images)] = True
        pixels = comfy.clip_vision.clip_preprocess(images).float()[None]
        with torch.inference_mode():
            return photomaker(id_pixel_values=pixels, prompt_embeds=cond, class_tokens_mask=mask)

    return by_module


def place_of(clip, prompt: str, token: int) -> int:
    """Where a prompt's only such token stands in its encoded row."""
    (place,) = [i for i, (one, *_) in enumerate(sum(clip.tokenize(prompt)["l"], [])) if one == token]
    return place


def test_a_row_is_what_the_hosts_node_gives(host, story_of, encode, clip, photomaker):
    """By hand, for one prompt, in which the host's node counts words and tokens alike: each weight begins a word."""
    story = story_of("[Bob] (in a red coat, by the sea:1.0)", "[Bob] (man:1.0) photomaker")
    ((cond, extras),), _ = encode(story, BOB, trigger_word="photomaker")
    with torch.inference_mode():
        by_hand = host.nodes["PhotoMakerEncode"].execute(photomaker, BOB, clip, story.prompts[0]).result[0]
    ((expected, others),) = by_hand
    assert torch.equal(cond, expected) and torch.equal(extras["pooled_output"], others["pooled_output"])
    assert "photomaker" in story.prompts[0]


@pytest.mark.parametrize(
    ("characters", "style", "scene"),
    [
        ("[Bob] a man img, in a suit", "(No style)", "[Bob] reads"),
        ("[Bob] a man img", "Japanese Anime", "[Bob] reads"),
        ("[Bob] a (man img:1.3) in a suit", "Photographic", "at a table [Bob] reads, and rests"),
        ("[Bob] an extraordinarily moustachioed man IMG's coat", "Line art", "[Bob] (reads:0.7)"),
        ("[Bob] a man img in a suit", "Comic book", f"{LONG} [Bob] reads"),
        ("a man img in a suit", "(No style)", "reads"),
        ("[Bob] a man img with an image and imgs", "(No style)", "[Bob] reads"),
    ],
    ids=["comma", "style", "weight", "tokens of a word", "two chunks", "no name", "other words"],
)
def test_a_photo_is_at_the_token_before_the_trigger_word(
    story_of, encode, by_module, text, clip, characters, style, scene
):
    """Which is gone. Words of several tokens, weights, styles and long prompts move neither."""
    story = story_of(scene, characters, style)
    without = re.sub(r" img\b", "", story.prompts[0], count=1, flags=re.IGNORECASE)
    assert len(without) == len(story.prompts[0]) - 4
    ((cond, extras),), _ = encode(story, BOB)
    place = place_of(clip, without, MAN)
    assert torch.equal(cond, by_module(without, place, BOB))
    assert torch.equal(extras["pooled_output"], text(without)[1])
    assert not torch.equal(cond[:, place], text(without)[0][:, place])


@pytest.mark.parametrize("words", [72, 73, 74, 75])
def test_a_chunk_may_end_before_or_behind_the_word(story_of, encode, clip, words):
    """CLIP's first chunk has room for 75 words. One photo more or less changes the word's token and no other."""
    story = story_of(f"{'the ' * words} [Bob] walks", "[Bob] man img")
    ((one, _),), _ = encode(story, BOB)
    ((other, _),), _ = encode(story, portrait(9))
    assert one.shape[1] == 77 * 2 or words < 74
    assert (one != other).any(-1).nonzero()[:, 1].tolist() == [place_of(clip, story.prompts[0], MAN)]


@pytest.mark.parametrize("trigger", ["img", "photomaker"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_several_photos_each_gets_a_class_word(story_of, encode, by_module, clip, count, trigger):
    """As in PhotoMaker: the word before the trigger word once for each photo, whatever the tokens of that one are."""
    photos = portrait(3, count)
    story = story_of("[Bob] reads", f"[Bob] a man {trigger}, in a suit")
    ((cond, _),), _ = encode(story, photos, trigger_word=trigger)
    repeated = f"a {'man ' * (count - 1)}man, in a suit reads"
    expected = by_module(repeated, 2, photos)
    assert (cond - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(cond, by_module(repeated, 2, photos.flip(0)))


def test_frames_without_the_character_are_those_of_clip_text_encode(story_of, encode, text):
    """Bit by bit, beside frames with photos; Alice has none here, and so her trigger word is a word as any other."""
    story = story_of()
    positive, negative = encode(story, BOB)
    ((rows, extras),) = positive
    plain = [text(prompt) for prompt in story.prompts]
    for number, (cond, pooled) in enumerate(plain):
        same = (
            torch.equal(rows[number : number + 1], cond),
            torch.equal(extras["pooled_output"][number : number + 1], pooled),
        )
        assert same == ((True, True) if number in (1, 2) else (False, False))
    assert all(torch.equal(row, text(story.negative)[0][0]) for row in negative[0][0])
    assert len(negative[0][0]) == 4


def test_two_characters_in_a_frame_keep_their_own_photos(story_of, encode, text, clip):
    """Each photo changes the token of its own character and no other, whoever comes first."""
    story = story_of("[Bob] and [Alice] dance\n[Alice] and [Bob] dance")
    ((both, _),), _ = encode(story, BOB, ALICE)
    ((swapped, _),), _ = encode(story, ALICE, BOB, characters="Alice, [Bob]")
    assert torch.equal(both, swapped)
    for row, prompt in enumerate(story.prompts):
        without = prompt.replace(" img", "")
        cond, man, woman = text(without)[0][0], place_of(clip, without, MAN), place_of(clip, without, WOMAN)
        changed = (both[row] != cond).any(-1).nonzero().flatten().tolist()
        assert changed == sorted([man, woman])
        ((other_alice, _),), _ = encode(story, BOB, portrait(9))
        assert (other_alice[row] != both[row]).any(-1).nonzero().flatten().tolist() == [woman]


def test_twins_of_one_description_take_turns(story_of, encode, clip):
    story = story_of("[Bob] and [Rob] dance", "[Bob] a man img\n[Rob] a man img")
    ((both, _),), _ = encode(story, BOB, ALICE)
    tokens = sum(clip.tokenize(story.prompts[0].replace(" img", ""))["l"], [])
    bob, rob = [i for i, (token, _) in enumerate(tokens) if token == MAN]
    ((other, _),), _ = encode(story, BOB, portrait(9))
    assert (other != both).any(-1).nonzero()[:, 1].tolist() == [rob] != [bob]


@pytest.mark.parametrize("description", ["a man img", "a man img in a hat"])
def test_nobody_else_gets_the_photos_for_an_alike_description(story_of, encode, clip, description):
    story = story_of("[Rob] and [Bob] dance", f"[Bob] a man img\n[Rob] {description}")
    ((bob, _),), _ = encode(story, BOB)
    ((other, _),), _ = encode(story, portrait(9))
    tokens = sum(clip.tokenize(story.prompts[0])["l"], [])
    (_, own) = [i for i, (token, _) in enumerate(tokens) if token == MAN]
    assert (other != bob).any(-1).nonzero()[:, 1].tolist() == [own]


def test_before_start_percent_the_prompt_counts_without_photos(story_of, encode, text):
    story = story_of()
    positive, negative = encode(story, BOB, ALICE, start_percent=0.3)
    ((fused, _),), _ = encode(story, BOB, ALICE, start_percent=0.0)
    (before, early), (after, late) = positive
    assert (early["start_percent"], early["end_percent"]) == (0.0, 0.3)
    assert (late["start_percent"], late["end_percent"]) == (0.3, 1.0)
    assert torch.equal(after, fused) and len(negative) == 1
    for row, prompt in enumerate(story.prompts):
        assert torch.equal(before[row], text(prompt.replace(" img", ""))[0][0])
    assert torch.equal(early["pooled_output"], late["pooled_output"])


REFUSED = {
    "trigger_word": (dict(trigger_word="a img"), "trigger_word is 'a img'; one word of letters is expected"),
    "stranger": (dict(characters="Rob"), "characters has Rob, who is not in the story; there are Bob, Alice."),
    "twice": (dict(characters="Bob, Bob"), "characters has a name twice"),
    "too few names": (dict(characters="Bob"), "photos_2 is connected and there is 1 character"),
    "no trigger": (dict(trigger_word="photo"), "the description of Bob has no photo; write it behind the word"),
    "no clip": (dict(clip=None), "holds no text encoder"),
    "other model": (dict(photomaker=torch.nn.Linear(1, 1)), "photomaker is a Linear; a model of PhotoMaker version 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(story_of, encode, case):
    inputs, message = REFUSED[case]
    with pytest.raises(ValueError) as error:
        encode(story_of(), BOB, ALICE, **inputs)
    assert message in str(error.value)


def test_a_description_that_begins_with_the_trigger_word_is_refused(story_of, encode):
    with pytest.raises(ValueError, match="the description of Bob begins with img; a word that says who this is"):
        encode(story_of("[Bob] reads", "[Bob] img of a man"), BOB)


def test_another_familys_text_encoder_is_refused(host, tiny_checkpoint, story_of, encode):
    (_, clip, *_) = host.load_checkpoint(tiny_checkpoint("sd15_full"))
    with pytest.raises(ValueError, match="clip has the text encoders l; PhotoMaker is for SDXL"):
        encode(story_of(), BOB, clip=clip)


def test_photos_of_nobody_in_the_frames_are_named(story_of, encode, caplog):
    encode(story_of("[NC] rain\n[Bob] reads"), BOB, ALICE)
    assert "no frame shows Alice, so the photos have no effect" in caplog.text
