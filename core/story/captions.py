"""Captions that replace those of the script."""

import re
from dataclasses import replace

from .script import check_caption
from .story import UNNAMED, Story

_TAG = re.compile(r"\[([^\[\]]*)\]")


def with_captions(story: Story, text: str) -> Story:
    """The story with the captions of `text`, one line a frame in their order; an empty line is no caption.

    Frames after the last line keep the captions of the script, so an empty text changes nothing. `[Name]` of a
    character becomes the name.

    Raises ValueError for more lines than frames, and for a caption that is too long.
    """
    lines = text.rstrip("\n").splitlines() if text.strip() else []
    if len(lines) > len(story.frames):
        raise ValueError(
            f"captions has {len(lines)} lines, and the story {len(story.frames)} frames; one line a frame is expected."
        )
    names = {character.name for character in story.characters} - {UNNAMED}
    frames = list(story.frames)
    for number, line in enumerate(lines):
        line = _TAG.sub(lambda tag: tag[1] if tag[1] in names else tag[0], line)
        caption = " ".join(line.split())
        if fault := check_caption(caption):
            raise ValueError(f"captions line {number + 1}: {fault}.")
        frames[number] = replace(frames[number], caption=caption)
    return replace(story, frames=tuple(frames))
