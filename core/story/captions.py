"""Captions apart from the script: the same story with other words below its images."""

from dataclasses import replace

from .story import UNNAMED, Story


def with_captions(story: Story, text: str) -> Story:
    """The story with the captions of `text`, one line a frame in their order; an empty line is no caption.

    Frames behind the last line keep the captions of the script, so an empty text changes nothing. `[Name]` of a
    character becomes the name.

    Raises ValueError for more lines than frames.
    """
    lines = text.rstrip("\n").splitlines() if text.strip() else []
    if len(lines) > len(story.frames):
        raise ValueError(
            f"captions has {len(lines)} lines, and the story {len(story.frames)} frames; one line a frame is expected."
        )
    names = [character.name for character in story.characters if character.name != UNNAMED]
    frames = list(story.frames)
    for number, line in enumerate(lines):
        for name in names:
            line = line.replace(f"[{name}]", name)
        frames[number] = replace(frames[number], caption=" ".join(line.split()))
    return replace(story, frames=tuple(frames))
