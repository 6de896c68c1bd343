"""The similarities of a story as a report."""

from ..story.story import UNNAMED, Story
from .similarity import Similarity


def in_words(story: Story, similarity: Similarity, encoder: str) -> str:
    """The results in words: one line a character and one a frame."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [
        f"Cosines of {encoder}, middle squares of the images (StoryDiffusion, section 4.2)",
        "",
        "Character similarity",
    ]
    lines += [f"  {name or 'everybody'}: {value:.3f}" for name, value in similarity.characters.items()]
    if not similarity.characters:
        lines.append("  no character is in two frames")
    lines += ["", "Frame: likeness to the frames of the same characters, likeness to its prompt"]
    prompts = similarity.prompts or [None] * len(story.frames)
    for number, (frame, value, prompt) in enumerate(zip(story.frames, similarity.frames, prompts, strict=True), 1):
        who = ", ".join(name for name in frame.characters if name != UNNAMED)
        lines.append(f"  {number}. {shown(value)}, {shown(prompt)}{f'  ({who})' if who else ''}")
    if similarity.prompts:
        lines += ["", f"Text-image similarity: {sum(similarity.prompts) / len(similarity.prompts):.3f}"]
    return "\n".join(lines)
