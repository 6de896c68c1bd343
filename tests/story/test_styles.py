"""Styles: the published names are there, and a user's own file is read or refused with one sentence."""

import json

import pytest
from storyreel.core.story.styles import DEFAULT_STYLE, NO_STYLE, PUBLISHED_STYLES, Style, StyleFileError, read_styles

OFFICIAL_NAMES = [
    "(No style)",
    "Japanese Anime",
    "Digital/Oil Painting",
    "Pixar/Disney Character",
    "Photographic",
    "Comic book",
    "Line art",
    "Black and White Film Noir",
    "Isometric Rooms",
]


def test_the_nine_official_names_are_there():
    assert [style.name for style in PUBLISHED_STYLES] == OFFICIAL_NAMES
    assert DEFAULT_STYLE in OFFICIAL_NAMES


@pytest.mark.parametrize("style", PUBLISHED_STYLES, ids=lambda style: style.name)
def test_a_style_keeps_the_scene_and_adds_to_it_unless_it_is_none(style):
    scene = "a {curly} (fox:1.2)"
    assert scene in style.apply(scene)
    assert (style.apply(scene) == scene and not style.negative) == (style.name == NO_STYLE)


def test_the_scene_goes_to_every_place():
    assert Style("twice", "tiny {prompt} in a box, {prompt}").apply("fox") == "tiny fox in a box, fox"


def test_own_styles_are_read():
    entries = [
        {"name": "Woodcut", "prompt": "woodcut, {prompt}", "negative_prompt": "photo"},
        {"name": "木版", "prompt": "{prompt}"},
    ]
    assert read_styles(json.dumps(entries), "styles.json") == (
        (Style("Woodcut", "woodcut, {prompt}", "photo"), Style("木版", "{prompt}")),
        (),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[{", "not valid JSON"),
        ('{"Woodcut": "woodcut, {prompt}"}', "holds an object; a list, [{"),
        ('"Woodcut"', 'holds "Woodcut"'),
        ("NaN", "holds a number"),
        ("null", "holds null"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[1" + "0" * 5_000 + "]", "not valid JSON"),
    ],
)
def test_a_file_without_entries_is_refused_in_one_sentence(text, message):
    with pytest.raises(StyleFileError) as error:
        read_styles(text, "styles.json")
    assert_sentence(str(error.value), "styles.json", message)


GOOD = '{"name": "A", "prompt": "{prompt}"}'


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('"B"', 'entry 2 is "B"'),
        ("null", "entry 2 is null"),
        ("[[[[]]]]", "entry 2 is a list"),
        ('{"prompt": "{prompt}"}', 'entry 2 has no "name"'),
        ('{"name": " ", "prompt": "{prompt}"}', 'entry 2 has no "name"'),
        ('{"name": 7, "prompt": "{prompt}"}', 'entry 2: "name" is a number'),
        ('{"name": NaN, "prompt": "{prompt}"}', 'entry 2: "name" is a number'),
        ('{"name": "B\\nb", "prompt": "{prompt}"}', 'entry 2: "name" is "B b"; one line'),
        (f'{{"name": "{"B" * 101}", "prompt": "{{prompt}}"}}', "100 characters at most"),
        ('{"name": "B\\ud83d", "prompt": "{prompt}"}', 'entry 2: "name" holds half a character'),
        ('{"name": "B", "prompt": "{prompt} \\ude00"}', 'entry 2 ("B"): "prompt" holds half a character'),
        ('{"name": "B", "prompt": "no place"}', 'entry 2 ("B"): "prompt"'),
        ('{"name": "B"}', 'entry 2 ("B"): "prompt"'),
        ('{"name": "B", "prompt": {"a": 1}}', 'entry 2 ("B"): "prompt" is an object'),
        ('{"name": "B", "prompt": "{prompt}", "negative_prompt": 3}', 'entry 2 ("B"): "negative_prompt" is a number'),
        (GOOD, 'entry 2: the name "A" is taken'),
    ],
)
def test_a_bad_entry_is_named_and_costs_no_other(entry, message):
    styles, (fault,) = read_styles(f'[{GOOD}, {entry}, {{"name": "C", "prompt": "{{prompt}}"}}]', "styles.json")
    assert [style.name for style in styles] == ["A", "C"]
    assert_sentence(fault, "styles.json", message)


def assert_sentence(message, start, part):
    assert message.startswith(start) and message.endswith(".")
    assert part in message
    assert "\n" not in message and len(message) < 300
    message.encode("utf-8")
