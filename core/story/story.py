"""The story as a value: what a script says, once it has been read.

A `Story` is immutable and is what the STORY link carries. Nodes read it; nothing changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# The one character of a script that names nobody.
UNNAMED = ""


@dataclass(frozen=True)
class Character:
    """A character: `name` without brackets (or UNNAMED), and the words that stand for it in every prompt."""

    name: str
    description: str


@dataclass(frozen=True)
class Frame:
    """One picture of the story.

    line: number of its line in the scenes text, from 1.
    text: the scene with every [Tag] replaced by its character's description.
    prompt: `text` in the story's style, ready for a text encoder.
    characters: names of those it shows, in the order of the line; empty for an [NC] frame.
    caption: words for the comic page; may be empty.
    """

    line: int
    text: str
    prompt: str
    characters: tuple[str, ...]
    caption: str


@dataclass(frozen=True)
class Story:
    """A whole story. `negative` is the complete negative prompt, the style's share included."""

    characters: tuple[Character, ...]
    frames: tuple[Frame, ...]
    style: str
    negative: str

    def pick(self, numbers: Sequence[int]) -> "Story":
        """A story of these frames, by their numbers from 0."""
        return replace(self, frames=tuple(self.frames[number] for number in numbers))

    @property
    def cast(self) -> tuple[frozenset[str], ...]:
        """Who is in which frame, by name: what attention needs to know of a story."""
        return tuple(frozenset(frame.characters) for frame in self.frames)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of those who are described and in no frame."""
        used = frozenset().union(*self.cast)
        return tuple(character.name for character in self.characters if character.name not in used)

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(frame.prompt for frame in self.frames)

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(frame.caption for frame in self.frames)
