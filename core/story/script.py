r"""The story script: two plain texts in, a `Story` out.

The syntax is that of the published StoryDiffusion app, line by line: `[Bob] a man in a black suit` describes a
character, `[Bob] at home, reads the paper #Monday` is a frame with its caption, `[NC]` marks a frame without
characters. Only the half-width # marks a caption or a remark, and the last one of a line counts.

Differences from that app: `\#` writes a number sign, comments and blank lines are skipped, white space is tidied,
captions show names instead of tags, a character may go unused, and what cannot be right is reported, all of it at once.
Sizes are bounded, so that no text of the size that a server takes can occupy it for long: see the constants.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .lines import invisible, misplaced, read_lines, split_at_mark, tidy, unescaped, visible, without_comments
from .problems import Problems, ScriptError, did_you_mean, listed, quoted
from .story import UNNAMED, Character, Frame, Story
from .styles import NO_STYLE, PLACE, Style

__all__ = ["ScriptError", "bare_name", "check_caption", "read_script", "unknown_style"]

NO_CHARACTER = "NC"
MOST_FRAMES = 10_000  # and as many characters
MOST_CAPTION = 2_000  # characters, which is a full page of letters
MOST_PROMPT = 20_000  # characters of one frame's prompt, or of the negative one
MOST_TEXT = 10_000_000  # characters of all prompts together

_TAG = re.compile(r"\[([^\[\]]*)\]")
# What an input method for Chinese or Japanese types when its user wants [ and ].
_WIDE_TAG = re.compile(r"[［【]([^\[\]［］【】]*)[］】]")


@dataclass
class _Cast:
    """The characters text, read: each name with its line and with its description, tidied but for a space before it."""

    line: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    # Beginnings of lines whose tag could not be read: a name in one of them is not reported again as unknown.
    broken: list[str] = field(default_factory=list)

    def add_broken(self, line: str) -> None:
        if len(self.broken) < 50:
            self.broken.append(visible(line[:200]))

    def knows(self, tag: str) -> bool:
        return tag == NO_CHARACTER or (tag != UNNAMED and tag in self.words)

    def was_tried(self, tag: str) -> bool:
        return tag != UNNAMED and visible(tag) in self._broken_text

    @cached_property
    def names(self) -> list[str]:
        return [name for name in self.words if name != UNNAMED]

    @cached_property
    def by_visible(self) -> dict[str, str]:
        return {visible(name): name for name in [*self.names, NO_CHARACTER]}

    @cached_property
    def _broken_text(self) -> str:
        return "\n".join(self.broken)


def read_script(
    characters: str, scenes: str, style: str, negative: str, styles: Mapping[str, Style]
) -> tuple[Story, tuple[str, ...]]:
    """Read a script.

    Returns the story, and remarks: sentences about things that are valid but may surprise the author.
    Raises ScriptError with the problems of both texts and of the style's name.
    """
    problems = Problems()
    remarks: list[str] = []
    cast = _read_characters(characters, problems, remarks)
    known = styles.get(style)
    chosen = known or Style(NO_STYLE, PLACE)
    frames = _read_scenes(scenes, cast, chosen, problems, remarks)
    if known is None:
        problems.add("", unknown_style(style, styles))
    words = tidy(without_comments(negative))
    if len(words) > MOST_PROMPT:
        problems.add("negative", f"it is {len(words)} characters long; at most {MOST_PROMPT} are read")
    problems.check()

    story = Story(
        characters=tuple(Character(name, words.strip()) for name, words in cast.words.items()),
        frames=tuple(frames),
        style=style,
        negative=tidy(f"{chosen.negative} {words}"),
    )
    return story, tuple(remarks)


def unknown_style(style: str, styles: Mapping[str, Style]) -> str:
    """The sentence about a style that is not in `styles`."""
    hint = did_you_mean(style, styles, '"{}"') or f"; there are {listed(map(quoted, styles), len(styles))}"
    return f'style "{quoted(style)}" does not exist{hint}'


def check_caption(caption: str) -> str:
    """What is wrong with a caption, or ""."""
    if len(caption) <= MOST_CAPTION:
        return ""
    return f"the caption is {len(caption)} characters long; at most {MOST_CAPTION} are drawn"


def bare_name(text: str) -> str:
    """The name of a character that stands by itself, with the script's brackets or without them."""
    return tidy(text.strip().removeprefix("[").removesuffix("]"))


def _read_characters(text: str, problems: Problems, remarks: list[str]) -> _Cast:
    cast = _Cast()
    untagged = []
    for count, (number, line) in enumerate(read_lines(text)):
        where = f"characters line {number}"
        if count == MOST_FRAMES:
            problems.add(where, f"the characters text has more lines; at most {MOST_FRAMES} are read")
            break
        tag = _TAG.search(line)
        wide = None if tag else _WIDE_TAG.match(line)
        if stray := _stray_bracket(line[: tag.start()] if tag else line):
            problems.add(where, stray)
            cast.add_broken(line)
        elif wide:
            problems.add(where, f"{quoted(wide[0])} is not a tag; write [{quoted(wide[1])}]")
            cast.add_broken(line)
        elif not tag:
            untagged.append((number, unescaped(line)))
        else:
            _describe(cast, tag, where, number, problems)

    if cast.words:
        if untagged:
            lines = listed((str(number) for number, _ in untagged), len(untagged))
            many = len(untagged) > 1
            verb = "have no [Tag] and are" if many else "has no [Tag] and is"
            remarks.append(f"characters line{'s' * many} {lines} {verb} ignored")
        for name, words in cast.words.items():
            if held := next((tag for tag in _tags(words) if cast.knows(tag)), None):
                problems.add(
                    f"characters line {cast.line[name]}",
                    f"the description of [{quoted(name)}] holds the tag [{quoted(held)}]; describe it in words instead",
                )
    elif untagged and not cast.broken:
        cast.words[UNNAMED] = tidy(" ".join(line for _, line in untagged))
        _check_length(UNNAMED, cast, "characters", problems)
    return cast


def _describe(cast: _Cast, tag: re.Match, where: str, number: int, problems: Problems) -> None:
    name = tidy(unescaped(tag[1]))
    words, _, _ = split_at_mark(tag.string[tag.end() :])
    if not name:
        problems.add(where, "the tag is empty; write a name in it")
    elif name == NO_CHARACTER:
        problems.add(where, f'[{NO_CHARACTER}] means "no character" and cannot be described')
    elif unseen := misplaced(name):
        problems.add(where, f"[{quoted(visible(name))}] holds the invisible character {unseen}; write it without")
        cast.add_broken(tag[0])
    elif name in cast.words:
        problems.add(where, f"[{quoted(name)}] is described in line {cast.line[name]} already; keep one of the two")
    else:
        if not visible(tidy(words)):
            problems.add(where, f"[{quoted(name)}] has no description; write one after the tag")
        cast.words[name], cast.line[name] = " " * words[:1].isspace() + tidy(words), number
        _check_length(name, cast, where, problems)


def _check_length(name: str, cast: _Cast, where: str, problems: Problems) -> None:
    if (length := len(cast.words[name])) > MOST_PROMPT:
        problems.add(where, f"the description is {length} characters long; at most {MOST_PROMPT} are read")
        cast.words[name] = ""


def _read_scenes(text: str, cast: _Cast, style: Style, problems: Problems, remarks: list[str]) -> list[Frame]:
    frames, several_marks, room = [], [], MOST_TEXT
    unnamed, count = cast.words.get(UNNAMED, ""), 0
    for count, (number, line) in enumerate(read_lines(text), 1):
        where = f"scenes line {number}"
        if count > MOST_FRAMES:
            problems.add(where, f"the scenes text has more frames; at most {MOST_FRAMES} are allowed")
            break
        scene, caption, marks = split_at_mark(tidy(line))
        if marks > 1:
            several_marks.append(number)
        tags = _tags(scene)
        shown = tuple(tag for tag in tags if tag in cast.words)
        _check_scene(scene, tags, shown, cast, where, problems)

        words = _fill(scene, lambda name: f"{cast.words[name]} " if name in cast.words else None, MOST_PROMPT)
        if unnamed and NO_CHARACTER not in tags:
            shown = (UNNAMED,)
            words = f"{unnamed},{words}"
        length = len(style.prompt) + (len(words) - len(PLACE)) * style.prompt.count(PLACE)
        room -= length
        if room < 0:
            problems.add(where, f"the prompts up to this line hold over {MOST_TEXT} characters; a story holds no more")
            break
        if length > MOST_PROMPT:
            problems.add(where, f"its prompt is over {MOST_PROMPT} characters long; no more are read")
            continue
        caption = _fill(
            scene if caption is None else caption, lambda name: name if name in cast.words else None, MOST_CAPTION
        )
        if fault := check_caption(caption):
            problems.add(where, f"{fault}{'' if marks else '; write # and a shorter one after the scene'}")
            continue
        frames.append(Frame(number, words, tidy(style.apply(words)), shown, caption))
    if not count:
        problems.add(
            "",
            'the scenes text has no frames; write one line for each image: "[Bob] at home, reads the paper #Monday"',
        )
    if several_marks:
        many = len(several_marks) > 1
        remarks.append(
            f"scenes line{'s' * many} {listed(map(str, several_marks), len(several_marks))}: the last # begins the "
            r"caption; write \# for a # in the text"
        )
    return frames


def _check_scene(
    scene: str, tags: tuple[str, ...], shown: tuple[str, ...], cast: _Cast, where: str, problems: Problems
) -> None:
    pieces = _TAG.split(scene)[::2]
    for piece in pieces:
        if stray := _stray_bracket(piece):
            problems.add(where, stray)
    for tag in tags:
        if not cast.knows(tag) and not cast.was_tried(tag):
            problems.add(where, lambda tag=tag: _unknown(tag, cast))
    text = "".join(pieces)
    for wide, name in {match[0]: tidy(match[1]) for match in _WIDE_TAG.finditer(text)}.items():
        if cast.knows(name) or cast.was_tried(name):
            problems.add(where, f"{quoted(wide)} is not a tag; write [{quoted(name)}]")
    if not shown and not visible(text).strip():
        problems.add(where, "the frame has no text; describe what it shows")


def _tags(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tidy(name) for name in _TAG.findall(text)))


def _stray_bracket(text: str) -> str:
    if "[" in text:
        return 'the tag is not closed; "]" is missing'
    return '"]" closes no tag; "[" is missing before it' if "]" in text else ""


def _fill(text: str, words_of: Callable[[str], str | None], most: int) -> str:
    """`text` with the words for every known [Tag], without [NC], tidied; cut shortly after `most` characters.

    A tag may touch the letters around it, as is usual in scripts without spaces; where words are written with spaces
    ("[Bob]sits") one is put in.
    """
    filled, length = [""], 0
    for index, piece in enumerate(_TAG.split(text)):
        if index % 2:
            name = tidy(piece)
            words = "" if name == NO_CHARACTER else words_of(name)
            piece = f"[{piece}]" if words is None else words
        if not piece:
            continue
        if _is_spaced_letter(filled[-1][-1:]) and _is_spaced_letter(piece[0]):
            filled.append(" ")
        filled.append(piece)
        length += len(piece)
        if length > 2 * most:  # no white space to tidy would bring it back within bounds
            break
    return tidy("".join(filled))


def _is_spaced_letter(letter: str) -> bool:
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in ("W", "F", "H")


def _unknown(tag: str, cast: _Cast) -> str:
    if not tag:
        return f"the tag is empty; write a character's name or {NO_CHARACTER} in it"
    if unseen := misplaced(tag):
        return f"[{quoted(visible(tag))}] holds the invisible character {unseen}; write it without"
    twin = cast.by_visible.get(visible(tag))
    if twin and (unseen := invisible(tag) or invisible(twin)):
        return f"[{quoted(tag)}] is not a character; it differs from [{quoted(twin)}] by the invisible {unseen}"
    hint = did_you_mean(tag, [*cast.names, NO_CHARACTER], "[{}]")
    if not hint and cast.names:
        hint = f"; there are {listed((f'[{quoted(name)}]' for name in cast.names), len(cast.names))}"
    return f"[{quoted(tag)}] is not a character{hint or f'; describe it in the characters text: [{quoted(tag)}] ...'}"
