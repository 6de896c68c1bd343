"""Styles: a template around every prompt of a story, and words for its negative prompt.

The nine names are those of the published StoryDiffusion app; the wording is this pack's own. A user's own styles are
read from JSON in the list form that style files for SDXL share: `{"name": ..., "prompt": ..., "negative_prompt": ...}`.
"""

import json
from dataclasses import dataclass

from ..text import encodable
from .problems import quoted

PLACE = "{prompt}"
NO_STYLE = "(No style)"
DEFAULT_STYLE = "Japanese Anime"
MOST_NAME = 100  # characters of a style's name
FORM = f'a list, [{{"name": "...", "prompt": "... {PLACE} ...", "negative_prompt": "..."}}],'


class StyleFileError(ValueError):
    """A file of user styles, or an entry of it, cannot be used; the message says which, and what was expected."""


@dataclass(frozen=True)
class Style:
    """`prompt` holds {prompt} wherever the scene goes; `negative` stands before the story's negative prompt."""

    name: str
    prompt: str
    negative: str = ""

    def apply(self, text: str) -> str:
        return self.prompt.replace(PLACE, text)


PUBLISHED_STYLES = (
    Style(NO_STYLE, "{prompt}"),
    Style(
        "Japanese Anime",
        "anime film still, {prompt}, crisp ink outlines, cel shading in two tones, clear bright colours, "
        "softly painted background",
        "photo, 3d render, realistic skin, muddy colours, rough sketch,",
    ),
    Style(
        "Digital/Oil Painting",
        "painting of {prompt}, broad confident brushwork, rich layered pigment, canvas texture, warm directed light",
        "photo, flat vector art, cartoon outline, plastic surfaces, low contrast,",
    ),
    Style(
        "Pixar/Disney Character",
        "family animation film frame, {prompt}, rounded 3d character design, large expressive eyes, "
        "soft global illumination, playful colours",
        "photo, flat drawing, sketch lines, grim mood, lifeless eyes,",
    ),
    Style(
        "Photographic",
        "photograph of {prompt}, natural light, 50mm lens, shallow depth of field, true-to-life colour, fine detail",
        "drawing, painting, cartoon, 3d render, oversaturated, airbrushed,",
    ),
    Style(
        "Comic book",
        "comic book panel, {prompt}, bold black contours, halftone shading, strong primary colours, dynamic framing",
        "photo, 3d render, washed out colours, thin faint lines, lettering,",
    ),
    Style(
        "Line art",
        "line drawing of {prompt}, even black pen strokes on white paper, no shading, economical detail",
        "photo, colour, grey wash, heavy shadow, paint texture, 3d render,",
    ),
    Style(
        "Black and White Film Noir",
        "black and white film noir still, {prompt}, hard key light, long shadows, venetian blinds, 35mm film grain",
        "colour, pastel, cheerful daylight, flat lighting, cartoon,",
    ),
    Style(
        "Isometric Rooms",
        "isometric cutaway diorama, {prompt}, tiny furnished room seen from above at an angle, tidy geometry, "
        "soft even shadows",
        "perspective distortion, fisheye, close-up, photo of a landscape, clutter,",
    ),
)


def read_styles(text: str, source: str) -> tuple[tuple[Style, ...], tuple[str, ...]]:
    """Read a user's styles from JSON `text`; `source` is the file's name for messages.

    Returns the styles that can be used, and a sentence on each entry that cannot.
    Raises StyleFileError for a text that holds no list of entries.
    """
    try:
        entries = json.loads(text)
    except RecursionError:
        raise StyleFileError(f"{source} is nested too deeply; {FORM} is expected.") from None
    except ValueError as error:  # a JSONDecodeError, or a number with too many digits
        raise StyleFileError(f"{source} is not valid JSON: {error}.") from None
    if not isinstance(entries, list):
        raise StyleFileError(f"{source} holds {_shown(entries)}; {FORM} is expected.")
    styles: dict[str, Style] = {}
    faults = []
    for number, entry in enumerate(entries, 1):
        try:
            style = _read_entry(entry, f"{source}, entry {number}")
            if style.name in styles:
                raise StyleFileError(f'{source}, entry {number}: the name "{style.name}" is taken by an earlier entry.')
            styles[style.name] = style
        except StyleFileError as error:
            faults.append(str(error))
    return tuple(styles.values()), tuple(faults)


def _read_entry(entry: object, where: str) -> Style:
    if not isinstance(entry, dict):
        raise StyleFileError(f'{where} is {_shown(entry)}; an object with "name" and "prompt" is expected.')
    name = _text_of(entry, "name", where).strip()
    if not name:
        raise StyleFileError(f'{where} has no "name".')
    if len(name) > MOST_NAME or not name.isprintable():
        raise StyleFileError(
            f'{where}: "name" is {_shown(name)}; one line of {MOST_NAME} characters at most is expected.'
        )
    where = f'{where} ("{name}")'
    prompt = _text_of(entry, "prompt", where)
    if PLACE not in prompt:
        raise StyleFileError(f'{where}: "prompt" should be a text with {PLACE} where the scene goes.')
    return Style(name, prompt, _text_of(entry, "negative_prompt", where))


def _text_of(entry: dict, key: str, where: str) -> str:
    text = entry.get(key, "")
    if not isinstance(text, str):
        raise StyleFileError(f'{where}: "{key}" is {_shown(text)}; a text is expected.')
    if encodable(text) != text:
        raise StyleFileError(f'{where}: "{key}" holds half a character (a lone surrogate); write it whole.')
    return text


def _shown(value: object) -> str:
    """What a file holds, in a sentence: short, whatever it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f'"{quoted(value)}"'
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)
