"""The metrics of a story as a report."""

from collections.abc import Mapping

from ..story.story import UNNAMED, Story
from .similarity import StoryScore


def in_words(story: Story, scores: Mapping[str, StoryScore], not_computed: Mapping[str, str], encoder: str) -> str:
    """The results in words: one line a character and one a frame. scores: {name: results}."""
    lines = [f"Cosines of {encoder}, middle squares of the images (StoryDiffusion, section 4.2)"]
    for name, score in scores.items():
        if score.characters is not None:
            lines += ["", _title(name)]
            lines += [f"  {who or 'everybody'}: {value:.3f}" for who, value in score.characters.items()]
            if not score.characters:
                lines.append("  no character is in two frames")
    lines += ["", f"Frame: {', '.join(score.column for score in scores.values())}"]
    rows = zip(*(score.frames for score in scores.values()), strict=True)
    for number, (frame, values) in enumerate(zip(story.frames, rows, strict=True), 1):
        who = ", ".join(name for name in frame.characters if name != UNNAMED)
        lines.append(f"  {number}. {', '.join(map(_shown, values))}{f'  ({who})' if who else ''}")
    means = [f"{_title(name)}: {score.mean:.3f}" for name, score in scores.items() if score.mean is not None]
    lines += ["", *means] if means else []
    if not_computed:
        lines += ["", "Not computed", *(f"  {name}: {why}" for name, why in not_computed.items())]
    return "\n".join(lines)


def _title(name: str) -> str:
    return name[0].upper() + name[1:]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
