"""Styles: a template around every prompt of a story, and words for its negative prompt.

The nine names are those of the published StoryDiffusion app; the wording is this pack's own. A user's own styles are
read from JSON in the list form that style files for SDXL share: `{"name": ..., "prompt": ..., "negative_prompt": ...}`.
"""

import json
from dataclasses import dataclass

PLACE = "{prompt}"
NO_STYLE = "(No style)"
DEFAULT_STYLE = "Japanese Anime"


class StyleFileError(ValueError):
    """A file of user styles cannot be used; the message names the file, the entry and what was expected."""


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


def read_styles(text: str, source: str) -> tuple[Style, ...]:
    """Read a user's styles from JSON `text`; `source` is the file's name for messages.

    Raises StyleFileError for the first entry that cannot be used.
    """
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise StyleFileError(f"{source} is not valid JSON: {error}.") from error
    if not isinstance(entries, list):
        raise StyleFileError(
            f'{source} should hold a list, [{{"name": "...", "prompt": "... {PLACE} ...", "negative_prompt": "..."}}], '
            f"but holds a {type(entries).__name__}."
        )
    styles: dict[str, Style] = {}
    for number, entry in enumerate(entries, 1):
        style = _read_entry(entry, f"{source}, entry {number}")
        if style.name in styles:
            raise StyleFileError(f'{source}, entry {number}: the name "{style.name}" is taken by an earlier entry.')
        styles[style.name] = style
    return tuple(styles.values())


def _read_entry(entry: object, where: str) -> Style:
    if not isinstance(entry, dict):
        raise StyleFileError(f'{where} should be an object with "name" and "prompt", but is {json.dumps(entry)}.')
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise StyleFileError(f'{where} has no "name".')
    where = f'{where} ("{name}")'
    prompt = entry.get("prompt")
    if not isinstance(prompt, str) or PLACE not in prompt:
        raise StyleFileError(f'{where}: "prompt" should be a text with {PLACE} where the scene goes.')
    negative = entry.get("negative_prompt", "")
    if not isinstance(negative, str):
        raise StyleFileError(f'{where}: "negative_prompt" should be a text.')
    return Style(name.strip(), prompt, negative)
