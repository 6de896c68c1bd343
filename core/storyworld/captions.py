"""The world's language, both ways: from the truth to captions, from a prompt to what it names.

A caption is a character's description and what happens to it, the two halves of a line of a story script:
"a big blue hero with a red top hat" and "waving on a beach, on the left". What it does not name is free.
"""

import re
from collections.abc import Iterable, Sequence
from random import Random

from . import attributes as world
from .attributes import Picture, attributes

SCENES = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "town": "in a town",
    "mountains": "in the mountains",
    "forest": "in a forest",
    "desert": "in a desert",
    "night": "at night",
    "room": "in a room",
}
PLACES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
FACINGS = {"left": "looking left", "ahead": "looking ahead", "right": "looking right"}
PANS = {"left": "panning left", "right": "panning right"}

CHARACTER = ("size", "shape", "color", "hat", "hat color", "scarf color")
TAG = "Hero"


def choose_named(rng: Random, picture: Picture) -> frozenset[str]:
    """Which attributes a caption names, by chance: any number of the character's, most often action and scene."""
    has = attributes(picture)
    character = [name for name in CHARACTER if name in has]
    named = set(rng.sample(character, rng.randint(0, len(character))))
    for name, share in (("action", 0.95), ("scene", 0.9), ("place", 0.35), ("facing", 0.35), ("pan", 1.0)):
        chosen = rng.random() < share
        if chosen and name in has:
            named.add(name)
    return frozenset(named)


def caption(picture: Picture, named: Iterable[str]) -> str:
    """The caption of a picture or a clip: the attributes in `named` and the number of heroes."""
    named = frozenset(named)
    return f"{describe_character(picture, named)} {describe_scene(picture, named)}".strip()


def describe_character(picture: Picture, named: frozenset[str]) -> str:
    """The part of a caption about the character."""
    values = _named_values(picture, named)
    number = values["number"]
    several = number != "hero"
    words = [values[name] for name in ("size", "shape", "color") if name in values]
    parts = []
    if {"hat", "hat color"} & values.keys():
        hat = [values[name] for name in ("hat color", "hat") if name in values]
        parts.append(" ".join([*hat, "hats"]) if several else _with_article([*hat, "hat"]))
    if "scarf color" in values:
        scarf = values["scarf color"]
        parts.append(f"{scarf} scarves" if several else _with_article([scarf, "scarf"]))
    noun = " ".join([*words, number]) if several else _with_article([*words, number])
    return " with ".join([noun, " and ".join(parts)]) if parts else noun


def describe_scene(picture: Picture, named: frozenset[str]) -> str:
    """The part of a caption about the action, the scene, the place and the camera."""
    values = _named_values(picture, named)
    actions = values.get("action", "").split(",")
    if len(actions) > 1:
        each = [f"one {action}" for action in actions]
        actions = [" ".join([", ".join(each[:-1]), "and", each[-1]])]
    start = [*filter(None, actions), *([SCENES[values["scene"]]] if "scene" in values else [])]
    rest = [
        phrases[values[name]]
        for name, phrases in (("facing", FACINGS), ("place", PLACES), ("pan", PANS))
        if name in values
    ]
    return ", ".join(filter(None, [" ".join(start), *rest]))


def script(pictures: Sequence[Picture], named: Iterable[str]) -> tuple[str, str]:
    """A story script of pictures that share a look: the characters text and the scenes text, one line a picture.

    Read by the story parser, it gives each picture's caption again, where the pictures show equally many heroes of
    equal size or the size is not named.
    """
    named = frozenset(named)
    characters = f"[{TAG}] {describe_character(pictures[0], named)}"
    return characters, "\n".join(f"[{TAG}] {describe_scene(picture, named)}".strip() for picture in pictures)


def read(prompt: str) -> dict[str, str]:
    """The attributes that a prompt names, as `attributes` gives them. Words of no meaning here are passed over."""
    words = " ".join(_words(prompt))
    found = {}

    def keep(name: str, pattern: str, group: int | str = 1):
        if match := re.search(rf"\b{pattern}\b", words):
            found[name] = match[group]

    color, hat = _any(world.COLORS), _any(world.HATS)
    look = rf"(?:(?P<size>{_any(world.SIZES)}) )?(?:(?P<shape>{_any(world.SHAPES)}) )?(?:(?P<color>{color}) )?"
    if match := re.search(rf"\b{look}(?P<number>{_any(world.NUMBERS.values())})\b", words):
        found |= {name: value for name, value in match.groupdict().items() if value}
    keep("hat", rf"({hat}) hats?")
    keep("hat color", rf"({color}) (?:{hat} )?hats?")
    keep("scarf color", rf"({color}) (?:scarf|scarves)")
    action = _any(dict.fromkeys((*world.PICTURE_ACTIONS, *world.CLIP_ACTIONS)))
    if actions := re.findall(rf"\bone ({action})\b", words):
        found["action"] = ",".join(actions)
    else:
        keep("action", f"({action})")
    for name, phrases in (("scene", SCENES), ("place", PLACES), ("facing", FACINGS), ("pan", PANS)):
        for value, phrase in phrases.items():
            if re.search(rf"\b{phrase}\b", words):
                found[name] = value
    return found


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption may hold, sorted: the order is that of the word embeddings of trained models."""
    closed = [*world.SHAPES, *world.COLORS, *world.HATS, *world.SIZES, *world.NUMBERS.values()]
    closed += [*world.PICTURE_ACTIONS, *world.CLIP_ACTIONS]
    closed += [phrase for phrases in (SCENES, PLACES, FACINGS, PANS) for phrase in phrases.values()]
    return tuple(sorted({*_words(" ".join(closed)), *"a an and hat hats one scarf scarves with".split()}))


def unknown_words(prompt: str) -> tuple[str, ...]:
    """The words of a prompt that the world does not know, each once, in the prompt's order."""
    known = set(vocabulary())
    return tuple(dict.fromkeys(word for word in _words(prompt) if word not in known))


def _named_values(picture: Picture, named: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in attributes(picture).items() if name in named or name == "number"}


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower())


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"
