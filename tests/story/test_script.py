"""The story script: its syntax and its error messages."""

import dataclasses
import time

import pytest
from storyreel.core.story.noise import DIFFERENT, PER_CHARACTER, SAME, noise_indices
from storyreel.core.story.script import MOST_CAPTION, MOST_FRAMES, MOST_PROMPT, ScriptError, read_script
from storyreel.core.story.story import UNNAMED
from storyreel.core.story.styles import NO_STYLE, Style

STYLES = {style.name: style for style in (Style(NO_STYLE, "{prompt}"), Style("Ink", "ink, {prompt}, paper", "photo,"))}
BOB = "[Bob] a man in a black suit"
PAIR = f"{BOB}\n[Alice] a woman in a white shirt"


def read(characters, scenes, style=NO_STYLE, negative=""):
    return read_script(characters, scenes, style, negative, STYLES)[0]


def problems(characters, scenes, style=NO_STYLE):
    with pytest.raises(ScriptError) as error:
        read(characters, scenes, style)
    return error.value.problems


def test_a_frame_holds_its_characters_words_and_caption():
    (frame,) = read(PAIR, "[Alice] meets [Bob] at home #Monday").frames
    assert frame.characters == ("Alice", "Bob")
    assert frame.text == "a woman in a white shirt meets a man in a black suit at home"
    assert frame.caption == "Monday"


def test_the_last_hash_begins_the_caption_or_the_remark():
    story = read("[Bob] a man # tall # the hero", "[Bob] sits # down #Monday\n[Bob] waits #")
    assert story.characters[0].description == "a man # tall"
    assert [frame.text for frame in story.frames] == ["a man # tall sits # down", "a man # tall waits"]
    assert story.captions == ("Monday", "")


def test_a_full_width_number_sign_is_text():
    (frame,) = read("[タロウ] 少年、青い帽子", "[タロウ] 走る ＃全角").frames
    assert frame.text == "少年、青い帽子 走る ＃全角"
    assert frame.caption == "タロウ 走る ＃全角"


def test_style_and_negative_are_applied_once_for_any_number_of_characters():
    story = read(PAIR, "[Bob] sits\n[Alice] sits\n[Bob] and [Alice] sit", "Ink", "  ugly ")
    assert story.prompts[0] == "ink, a man in a black suit sits, paper"
    assert story.negative == "photo, ugly"


def test_nc_shows_no_character_but_another_tag_counts():
    story = read(BOB, "[NC] rain\nsnow\n[NC][Bob] walks")
    assert story.cast == (frozenset(), frozenset(), frozenset({"Bob"}))
    assert story.prompts == ("rain", "snow", "a man in a black suit walks")


def test_a_text_without_tags_is_one_character_in_every_frame_but_nc():
    story = read("a man\nwith a hat", "wakes up\n[NC] the moon\nsleeps #Good night")
    assert story.characters[0].name == UNNAMED
    assert story.cast == (frozenset({UNNAMED}), frozenset(), frozenset({UNNAMED}))
    assert story.prompts == ("a man with a hat,wakes up", "the moon", "a man with a hat,sleeps")
    assert story.captions == ("wakes up", "the moon", "Good night")


def test_a_story_needs_no_characters():
    assert read("", "a city at night").cast == (frozenset(),)


def test_a_story_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(BOB, "[Bob] sits").frames = ()


# What the published app gets wrong, and this pack does not.


def test_blank_lines_are_no_frames_but_count_as_lines():
    story = read(f"\n{BOB}\n\n", "\n[Bob] sits\n \t \n[Bob] runs\n\n")
    assert [frame.line for frame in story.frames] == [2, 4]


def test_captions_name_characters_instead_of_printing_tags():
    story = read(PAIR, "[Bob]'s house, [NC] quiet\n[Bob]sits\n[Alice] waves #[Bob] is late, says [Alice]")
    assert story.captions == ("Bob's house, quiet", "Bob sits", "Bob is late, says Alice")


def test_white_space_is_one_space_and_none_at_the_ends():
    story = read("  [Bob]   a  man\t, tall ", "   [ Bob ]   runs\u3000 fast  #  at   last  ", negative=" a \n b ")
    assert story.frames[0].text == "a man , tall runs fast"
    assert story.captions == ("at last",)
    assert story.characters[0].description == "a man , tall"
    assert story.negative == "a b"


def test_a_character_may_be_described_and_not_used():
    story, remarks = read_script(PAIR, "[Bob] sits", NO_STYLE, "", STYLES)
    assert [character.name for character in story.characters] == ["Bob", "Alice"]
    assert story.unused == ("Alice",)
    assert not remarks


def test_an_untagged_line_among_tagged_ones_is_a_remark():
    story, remarks = read_script(f"a lonely man\n{BOB}", "[Bob] sits", NO_STYLE, "", STYLES)
    assert len(story.characters) == 1
    assert any("line 1" in remark for remark in remarks)


def test_there_may_be_many_characters_and_many_frames():
    names = [f"C{number}" for number in range(50)]
    story = read("\n".join(f"[{name}] person {name}" for name in names), "\n".join(f"[{name}] waits" for name in names))
    assert [frame.characters for frame in story.frames] == [(name,) for name in names]


def test_a_character_may_first_appear_anywhere_and_never_alone():
    story = read(PAIR, "[NC] leaves\n[Bob] and [Alice] dance")
    assert story.cast == (frozenset(), frozenset({"Bob", "Alice"}))


def test_a_word_that_touches_a_tag_does_not_run_into_the_description():
    assert read("[Al]a boy", "see[Al]run").prompts == ("see a boy run",)


# Scripts without spaces between words.


def test_chinese_stays_unspaced_around_tags():
    (frame,) = read("[小明] 一个男孩\n[小红]一个女孩 #备注", "[小明]看着[小红]。").frames
    assert frame.characters == ("小明", "小红")
    assert frame.text == "一个男孩 看着一个女孩 。"
    assert frame.caption == "小明看着小红。"


def test_a_name_is_the_same_in_composed_and_decomposed_form():
    story = read("[ガク] 少年", "[カ\u3099ク] 走る")
    assert story.frames[0].characters == ("ガク",)


def test_brackets_of_an_input_method_are_pointed_out():
    lines = problems("【小明】 一个男孩\n[小红] 一个女孩", "【小明】 跑步\n［小红］ 睡觉\n[NC] 书名【无关】")
    assert [line.partition(":")[0] for line in lines] == ["characters line 1", "scenes line 1", "scenes line 2"]
    assert all("[小明]" in line or "[小红]" in line for line in lines)


# Error messages.


def test_every_problem_is_reported_at_once_with_its_line():
    lines = problems(
        "[Bob] a man\n[Bob] another man\n[Zoe]\n[Max a boy\nodd] [Tim] a dog\n[NC] nobody\n[] nothing",
        "[Bbo] walks\n\n[bob] sits\n[Bob sleeps\nBob] wakes\n[NC] #The end\n[Quentin] sings\n[] hums",
        "Inc",
    )
    assert lines == (
        "characters line 2: [Bob] is described in line 1 already; keep one of the two",
        "characters line 3: [Zoe] has no description; write one after the tag",
        'characters line 4: the tag is not closed; "]" is missing',
        'characters line 5: "]" closes no tag; "[" is missing before it',
        'characters line 6: [NC] means "no character" and cannot be described',
        "characters line 7: the tag is empty; write a name in it",
        "scenes line 1: [Bbo] is not a character; did you mean [Bob]?",
        "scenes line 3: [bob] is not a character; did you mean [Bob]?",
        'scenes line 4: the tag is not closed; "]" is missing',
        'scenes line 5: "]" closes no tag; "[" is missing before it',
        "scenes line 6: the frame has no text; describe what it shows",
        "scenes line 7: [Quentin] is not a character; there are [Bob], [Zoe]",
        "scenes line 8: the tag is empty; write a character's name or NC in it",
        'style "Inc" does not exist; did you mean "Ink"?',
    )


def test_the_error_shows_all_problems():
    with pytest.raises(ValueError) as error:
        read(BOB, "[Bbo] walks\n[Rob] sits")
    assert str(error.value).splitlines()[0] == "The script has 2 problems:"
    assert all(line in str(error.value) for line in error.value.problems)


def test_tags_without_any_description():
    assert problems("", "[Bob] walks") == (
        "scenes line 1: [Bob] is not a character; describe it in the characters text: [Bob] ...",
    )


def test_a_tag_for_the_unnamed_character_is_a_problem():
    (line,) = problems("a man with a hat", "wakes up\n[Bob] walks")
    assert line.startswith("scenes line 2: [Bob] is not a character")


def test_a_wrong_case_nc_is_understood_as_a_slip():
    assert problems(BOB, "[nc] rain") == ("scenes line 1: [nc] is not a character; did you mean [NC]?",)


def test_a_two_letter_name_with_one_wrong_letter_is_suggested():
    assert problems("[小明] 一个男孩", "[小民] 跑步") == (
        "scenes line 1: [小民] is not a character; did you mean [小明]?",
    )


def test_no_frames():
    (line,) = problems(BOB, " \n\n")
    assert line.startswith("the scenes text has no frames")


def test_a_description_cannot_refer_to_another():
    (line,) = problems("[Bob] the brother of [Alice]\n[Alice] a woman", "[Bob] sits")
    assert line.startswith("characters line 1:") and "[Alice]" in line


def test_a_name_in_a_broken_line_is_not_reported_again_in_every_frame():
    assert len(problems("[Bob a man", "[Bob] sits\n[Bob] runs")) == 1


# Number signs, comments and invisible characters.


def test_an_escaped_number_sign_is_text_everywhere():
    story = read(
        r"[Agent \#1] a man \#7 # the hero", "[Agent \\#1] runs \\#2 #We're \\#1!\n[Agent \\#1] waits \\#\n[NC] a\\b #"
    )
    assert [(c.name, c.description) for c in story.characters] == [("Agent #1", "a man #7")]
    assert story.prompts == ("a man #7 runs #2", "a man #7 waits #", r"a\b")
    assert story.captions == ("We're #1!", "Agent #1 waits #", "")


def test_a_second_number_sign_is_pointed_out():
    _, remarks = read_script(BOB, "[Bob] wins #We're #1!\n[Bob] sits #one\n[Bob] \\# #two", NO_STYLE, "", STYLES)
    assert len(remarks) == 1
    assert "scenes line 1:" in remarks[0] and r"\#" in remarks[0]


COMMENTED = [  # characters, scenes
    (
        f"// who\n{BOB} // the hero",
        "// how it begins\n[Bob] sits // he is tired\n\n  // the end\n[Bob] runs #Go! // louder",
    ),
    (
        f"/* who */\n{BOB}/* the hero */",
        "/* how it\nbegins */\n[Bob] sits/* he is tired */\n[Bob] runs #Go! /* louder */ // x /*",
    ),
]


@pytest.mark.parametrize(("characters", "scenes"), COMMENTED, ids=["lines", "blocks"])
def test_comments_are_no_frames_and_no_words(characters, scenes):
    story = read(characters, scenes, negative="ugly // very\n/* or */ blurry")
    assert story.characters[0].description == "a man in a black suit"
    assert [frame.text for frame in story.frames] == ["a man in a black suit sits", "a man in a black suit runs"]
    assert story.captions == ("Bob sits", "Go!")
    assert story.negative == "ugly blurry"


def test_what_only_looks_like_a_comment_stays():
    scenes = "[Bob] reads http://x.org/a // b\n[Bob] and/or me /* open\n[Bob] 1//2 #http://x.org"
    assert read(BOB, scenes).captions == ("Bob reads http://x.org/a", "Bob and/or me /* open", "http://x.org")


def test_a_comment_keeps_the_lines_count():
    assert problems(BOB, "// one\n[Bob] sits\n// two\n[Zed] runs")[0].startswith("scenes line 4: [Zed]")


@pytest.mark.parametrize(
    "code", [0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0x2066, 0xFEFF, 0xFE0F, 0x34F, 7]
)
def test_an_unseen_character_in_a_tag_is_named(code):
    hidden, name = f"B{chr(code)}ob", f"U+{code:04X}"
    (line,) = problems(BOB, f"[{hidden}] sits")
    assert line.startswith("scenes line 1:") and name in line
    (line,) = problems(f"[{hidden}] a man", "[Bob] sits")
    assert line.startswith(("characters line 1:", "scenes line 1:")) and name in line
    (line,) = problems(PAIR, f"[Alice] sits\n[Bob{chr(code)}] sits")
    assert name in line


def test_a_joiner_that_spells_a_name_is_a_letter():
    for name in ("می\u200cرود", "क्\u200dष", "👩\u200d🚀", "❤\ufe0f"):
        assert read(f"[{name}] a person", f"[{name}] sits").cast == (frozenset({name}),)


def test_a_byte_order_mark_is_no_text():
    assert read(f"\ufeff{BOB}", "\ufeff[Bob] sits").prompts == ("a man in a black suit sits",)
    assert problems(BOB, "\u200b #nothing")[0].endswith("the frame has no text; describe what it shows")


def test_half_an_emoji_in_a_message_can_be_sent():
    for lines in (problems(BOB, "[B\ud83d] sits"), problems(BOB, "[Bob] sits", "I\ude00k")):
        lines[0].encode("utf-8")


# Sizes. Texts of 1 MB, as a server takes them.

MB = 1_000_000
NAMES = "\n".join(f"[Name {number}] a person" for number in range(700))


def of_size(text, size=MB):
    return (text * (size // len(text) + 1))[:size]


LARGE = {  # characters, scenes: each would take minutes, or all memory, if it were read with no bound
    "unknown names": (NAMES, "\n".join(f"[Nmae {number}x] sits {'a' * 1400}" for number in range(700))),
    "long unknown names": (NAMES, "\n".join(f"[{'N' * 1400}{number}] sits" for number in range(700))),
    "distinct unknown names": ("\n".join(f"[a{i}" for i in range(50_000)), "".join(f"[b{i}]" for i in range(50_000))),
    "one word": (BOB, "a" * MB),
    "one line": (BOB, of_size("a word ")),
    "lines": (BOB, of_size("x\n")),
    "characters": ("".join(f"[a{i}]x\n" for i in range(100_000)), "[a1] x"),
    "open brackets": (BOB, "[" * MB),
    "closed brackets": ("]" * MB, "]" * MB),
    "empty tags": ("[]" * 500_000, of_size("[]")),
    "nested brackets": (BOB, "[" * 500_000 + "]" * 500_000),
    "wide brackets": (BOB, of_size("【Bob】")),
    "number signs": (BOB, "#" * MB),
    "a description in every tag": (f"[B] {'a ' * 250_000}", of_size("[B]")),
    "a description in every frame": (f"[B] {'a ' * 9_000}", of_size("[B]x\n")),
    "open comments": (BOB, of_size("/*")),
    "accents": (BOB, "a" + of_size("\u0316\u0301")),
    "unseen": (BOB, of_size("[\u200b]")),
    "untagged": (f"{BOB}\n" + of_size("abc\n"), "[Bob] sits"),
    "repeated": (of_size(f"{BOB}\n"), "[Bob] sits"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_script_of_a_megabyte_is_read_in_time_with_a_short_answer(name):
    start = time.process_time()
    with pytest.raises(ScriptError) as error:
        read(*LARGE[name])
    assert time.process_time() - start < 2
    assert len(str(error.value)) < 12_000
    assert len(error.value.problems) <= 20


def test_the_first_mistakes_are_spelled_out_and_the_others_counted():
    with pytest.raises(ScriptError) as error:
        read(BOB, "[Zed] sits\n" * 700)
    lines = str(error.value).splitlines()
    assert lines[0] == "The script has 700 problems:"
    assert lines[1].startswith("scenes line 1:") and lines[20].startswith("scenes line 20:")
    assert lines[21:] == ["... and 680 more"]


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        (f"[Bob] sits\n[Bob] runs #{'a' * (MOST_CAPTION + 1)}", "scenes line 2: the caption is 2001 characters long"),
        ("[Bob] sits\n" * (MOST_FRAMES + 1), "scenes line 10001:"),
        (f"[Bob] {'a' * MOST_PROMPT} #", "scenes line 1: its prompt is over 20000"),
        (f"[Bob] {'a' * MOST_CAPTION}", "write # and a shorter one"),
    ],
    ids=["caption", "frames", "prompt", "caption that is the scene"],
)
def test_sizes_have_stated_bounds(scenes, message):
    (line,) = problems(BOB, scenes)
    assert message in line


def test_what_is_within_the_bounds_is_read():
    story = read(BOB, f"[NC] {'a' * MOST_PROMPT} #{'b' * MOST_CAPTION}\n" + "[Bob] sits\n" * (MOST_FRAMES - 1))
    assert len(story.frames) == MOST_FRAMES
    assert (len(story.prompts[0]), len(story.captions[0])) == (MOST_PROMPT, MOST_CAPTION)


# Which frames share a noise.


@pytest.mark.parametrize(
    ("policy", "indices"), [(DIFFERENT, [0, 1, 2, 3, 4]), (SAME, [0] * 5), (PER_CHARACTER, [0, 1, 2, 0, 2])]
)
def test_noise_policies(policy, indices):
    scenes = "[Bob] sits\n[NC] rain\n[Alice] runs\n[Bob] and [Alice] dance\n[Alice] and [Bob] sleep"
    assert noise_indices(read(PAIR, scenes), policy) == indices
