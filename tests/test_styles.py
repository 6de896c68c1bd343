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
        Style("Woodcut", "woodcut, {prompt}", "photo"),
        Style("木版", "{prompt}"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "not valid JSON"),
        ('{"Woodcut": "woodcut, {prompt}"}', "should hold a list"),
        ('[{"name": "A", "prompt": "{prompt}"}, "B"]', "entry 2"),
        ('[{"prompt": "{prompt}"}]', 'entry 1 has no "name"'),
        ('[{"name": "A", "prompt": "no place"}]', 'entry 1 ("A"): "prompt"'),
        ('[{"name": "A"}]', 'entry 1 ("A"): "prompt"'),
        ('[{"name": "A", "prompt": "{prompt}", "negative_prompt": 3}]', 'entry 1 ("A"): "negative_prompt"'),
        (
            '[{"name": "A", "prompt": "{prompt}"}, {"name": "A", "prompt": "{prompt}"}]',
            'entry 2: the name "A" is taken',
        ),
    ],
)
def test_a_bad_file_is_named_with_its_entry(text, said):
    with pytest.raises(StyleFileError) as error:
        read_styles(text, "styles.json")
    message = str(error.value)
    assert message.startswith("styles.json")
    assert said in message
    assert "\n" not in message
