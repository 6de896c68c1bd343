"""The story script: two plain texts in, a `Story` out.

The syntax is that of the published StoryDiffusion app, line by line: `[Bob] a man in a black suit` describes a
character, `[Bob] at home, reads the paper #Monday` is a frame with its caption, `[NC]` marks a frame without
characters. Only the half-width # marks a caption or a remark, and the last one of a line counts.

Differences from that app: blank lines are skipped, white space is tidied, captions show names instead of tags, a
character may go unused, any number of characters and frames is allowed, and what cannot be right is reported, all of
it at once.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .story import UNNAMED, Character, Frame, Story
from .styles import NO_STYLE, PLACE, Style

NO_CHARACTER = "NC"
_TAG = re.compile(r"\[([^\[\]]*)\]")
# What an input method for Chinese or Japanese types when its user wants [ and ].
_WIDE_TAG = re.compile(r"[［【]([^\[\]［］【】]*)[］】]")


class ScriptError(ValueError):
    """A script cannot be read. `problems` holds one line for each thing to mend; str() gives all of them."""

    def __init__(self, problems: list[str]):
        self.problems = tuple(problems)
        head = [] if len(problems) == 1 else [f"The script has {len(problems)} problems:"]
        super().__init__("\n".join([*head, *problems]))


@dataclass
class _Cast:
    """The characters text, read: each name with its line and with its description as typed."""

    line: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    # Lines whose tag could not be read: a name found in one of them is not reported a second time as unknown.
    broken: list[str] = field(default_factory=list)


def read_script(
    characters: str, scenes: str, style: str, negative: str, styles: Mapping[str, Style]
) -> tuple[Story, tuple[str, ...]]:
    """Read a script.

    Returns the story, and remarks: sentences on what is not wrong but may surprise the author.
    Raises ScriptError with every problem of both texts and of the style's name.
    """
    problems: list[str] = []
    remarks: list[str] = []
    cast = _read_characters(characters, problems, remarks)
    chosen = styles.get(style)
    frames = _read_scenes(scenes, cast, chosen or Style(NO_STYLE, PLACE), problems)
    if chosen is None:
        hint = _did_you_mean(style, styles, '"{}"') or f"; there are {', '.join(styles)}"
        problems.append(f'style "{style}" does not exist{hint}')
    if problems:
        raise ScriptError(problems)

    story = Story(
        characters=tuple(Character(name, _tidy(words)) for name, words in cast.words.items()),
        frames=tuple(frames),
        style=style,
        negative=_tidy(f"{chosen.negative} {negative}"),
    )
    return story, tuple(remarks)


def _read_characters(text: str, problems: list[str], remarks: list[str]) -> _Cast:
    cast = _Cast()
    untagged = []
    for number, line in _lines(text):
        where = f"characters line {number}"
        tag = _TAG.search(line)
        wide = None if tag else _WIDE_TAG.match(line)
        if stray := _stray_bracket(line[: tag.start()] if tag else line):
            problems.append(f"{where}: {stray}")
            cast.broken.append(line)
        elif wide:
            problems.append(f"{where}: {wide[0]} is not a tag; write [{_tidy(wide[1])}]")
            cast.broken.append(line)
        elif not tag:
            untagged.append((number, line))
        else:
            _describe(cast, tag, where, number, problems)

    if cast.words:
        remarks += [f"characters line {number} has no [Tag] and is ignored" for number, _ in untagged]
        for name, words in cast.words.items():
            if held := [tag for tag in _tags(words) if _is_known(tag, cast)]:
                problems.append(
                    f"characters line {cast.line[name]}: the description of [{name}] holds the tag [{held[0]}]; "
                    "put it in words"
                )
    elif untagged and not cast.broken:
        cast.words[UNNAMED] = " ".join(line for _, line in untagged)
    return cast


def _describe(cast: _Cast, tag: re.Match, where: str, number: int, problems: list[str]) -> None:
    name = _tidy(tag[1])
    words, remark, _ = tag.string[tag.end() :].rpartition("#")
    if not remark:
        words = tag.string[tag.end() :]
    if not name:
        problems.append(f"{where}: the tag is empty; write a name in it")
    elif name == NO_CHARACTER:
        problems.append(f'{where}: [{NO_CHARACTER}] means "no character" and cannot be described')
    elif name in cast.words:
        problems.append(f"{where}: [{name}] is described in line {cast.line[name]} already; keep one of the two")
    else:
        if not _tidy(words):
            problems.append(f"{where}: [{name}] has no description; write one after the tag")
        cast.words[name], cast.line[name] = words, number


def _read_scenes(text: str, cast: _Cast, style: Style, problems: list[str]) -> list[Frame]:
    frames = []
    for number, line in _lines(text):
        where = f"scenes line {number}"
        scene, mark, caption = line.rpartition("#")
        if not mark:
            scene = caption = line
        pieces = _TAG.split(scene)
        faults = [stray for piece in pieces[::2] if (stray := _stray_bracket(piece))]
        tags = _tags(scene)
        faults += [_unknown(tag, cast) for tag in tags if not _is_known(tag, cast) and not _was_tried(tag, cast)]
        for wide in _WIDE_TAG.finditer("".join(pieces[::2])):
            if _is_known(name := _tidy(wide[1]), cast) or _was_tried(name, cast):
                faults.append(f"{wide[0]} is not a tag; write [{name}]")

        shown = tuple(tag for tag in tags if tag in cast.words)
        if not shown and not _tidy("".join(pieces[::2])):
            faults.append("the frame has no text; say what it shows")
        problems += [f"{where}: {fault}" for fault in faults]

        words = _fill(scene, {name: f"{words} " for name, words in cast.words.items()})
        if UNNAMED in cast.words and NO_CHARACTER not in tags:
            shown = (UNNAMED,)
            words = f"{_tidy(cast.words[UNNAMED])},{words}"
        frames.append(
            Frame(
                line=number,
                text=words,
                prompt=_tidy(style.apply(words)),
                characters=shown,
                caption=_fill(caption, {name: name for name in cast.words}),
            )
        )
    if not frames:
        problems.append(
            'the scenes text has no frames; write one line a picture, such as "[Bob] at home, reads the paper #Monday"'
        )
    return frames


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Composed form, so that a name is the same name whichever way its accents or kana marks were typed.
    for number, line in enumerate(unicodedata.normalize("NFC", text).splitlines(), 1):
        if line := line.strip():
            yield number, line


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _tags(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_tidy(name) for name in _TAG.findall(text)))


def _stray_bracket(text: str) -> str:
    if "[" in text:
        return 'the tag is not closed; "]" is missing'
    return '"]" closes no tag; "[" is missing before it' if "]" in text else ""


def _fill(text: str, words: Mapping[str, str]) -> str:
    """`text` with the words for every known [Tag], without [NC], tidied.

    A tag may touch the letters around it, as is usual in scripts without spaces; where words are written with spaces
    ("[Bob]sits") one is put in.
    """
    filled = ""
    for index, piece in enumerate(_TAG.split(text)):
        if index % 2:
            name = _tidy(piece)
            piece = "" if name == NO_CHARACTER else words.get(name, f"[{piece}]")
        if _is_spaced_letter(filled[-1:]) and _is_spaced_letter(piece[:1]):
            filled += " "
        filled += piece
    return _tidy(filled)


def _is_spaced_letter(letter: str) -> bool:
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in ("W", "F", "H")


def _is_known(tag: str, cast: _Cast) -> bool:
    return tag == NO_CHARACTER or (tag != UNNAMED and tag in cast.words)


def _was_tried(tag: str, cast: _Cast) -> bool:
    return tag != UNNAMED and any(tag in line for line in cast.broken)


def _unknown(tag: str, cast: _Cast) -> str:
    if not tag:
        return f"the tag is empty; write a character's name or {NO_CHARACTER} in it"
    names = [name for name in cast.words if name != UNNAMED]
    hint = _did_you_mean(tag, [*names, NO_CHARACTER], "[{}]")
    if not hint and names:
        hint = f"; there are {', '.join(f'[{name}]' for name in names)}"
    return f"[{tag}] is not a character{hint or f'; describe it in the characters text: [{tag}] ...'}"


def _did_you_mean(word: str, choices: Iterable[str], form: str) -> str:
    """A question after the nearest of `choices`, or nothing. One letter of two may differ: many names have only two."""
    by_folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean {form.format(by_folded[near[0]])}?" if near else ""
