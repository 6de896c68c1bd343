"""Where a prompt means somebody of whom there are photos: at the word before a trigger word, as in "a man img".

PhotoMaker (arXiv 2312.04461) takes the trigger word out of the prompt and writes its class word, "man", once for each
photo. The embedding of each of these words is then fused with a photo.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from .story import Character

Token = tuple  # a token of the host's tokenizers: what it is, its weight, and the number of its word, 0 for none
Chunks = list[list[Token]]


@dataclass(frozen=True)
class TriggerWord:
    """The owner of a trigger word in a prompt, if it has one, and which of its mentions the word belongs to."""

    owner: str | None
    mention: int


@dataclass(frozen=True)
class Place:
    """A token that a photo is fused with: its position in the encoded prompt, whose photo, and which, from 0."""

    position: int
    owner: str
    photo: int


def find_triggers(text: str, trigger: str) -> list[re.Match]:
    """Every place where `text` has the trigger word; letters around it make it another word."""
    return list(re.finditer(rf"(?<![^\W\d_]){re.escape(trigger)}(?![^\W\d_])", text, re.IGNORECASE))


def check_description(character: Character, trigger: str) -> None:
    """Raise ValueError for a character whose description has no place for photos."""
    found = find_triggers(character.description, trigger)
    name, example = character.name or "the character", f"for instance: a man {trigger} in a black suit"
    if not found:
        raise ValueError(
            f"the description of {name} has no {trigger}; write it behind the word that says who this is, {example}."
        )
    if not re.search(r"\w", character.description[: found[0].start()]):
        raise ValueError(
            f"the description of {name} begins with {trigger}; a word that says who this is is expected before it, "
            f"{example}."
        )


def mark_photos(
    prompt: str, characters: Sequence[Character], photos: Mapping[str, int], trigger: str
) -> tuple[str, list[TriggerWord]]:
    """A prompt with one trigger word for each further word that its photos need, and what each trigger word in it is.

    characters: those in the frame, in the order of their tags. photos: the number of photos of each who has some.
    Of n photos the class word itself takes one, so n - 1 trigger words make room for the others; of one, one is written
    that will be taken out.
    """
    by_text: dict[str, list[str]] = {}
    for character in filter(lambda one: one.description, characters):
        by_text.setdefault(character.description, []).append(character.name)
    descriptions = "|".join(re.escape(text) for text in sorted(by_text, key=len, reverse=True))
    seen: Counter[str] = Counter()
    pieces, words, end = [], [], 0

    def add(text: str, owner: str | None) -> None:
        owner = owner if owner in photos else None
        copies = max(1, photos[owner] - 1) if owner is not None else 1
        at = 0
        for match in find_triggers(text, trigger):
            mention = len({word.mention for word in words})
            words.extend([TriggerWord(owner, mention)] * copies)
            pieces.extend([text[at : match.start()], " ".join([match[0]] * copies)])
            at = match.end()
        pieces.append(text[at:])

    for match in re.finditer(descriptions, prompt):
        names = by_text[match[0]]  # twins may have one description; they take turns
        add(prompt[end : match.start()], None)
        add(match[0], names[seen[match[0]] % len(names)])
        seen[match[0]] += 1
        end = match.end()
    add(prompt[end:], None)
    return "".join(pieces), words


def place_photos(
    chunks: Chunks, trigger: Sequence[int], words: Sequence[TriggerWord], photos: Mapping[str, int]
) -> tuple[Chunks, list[Place]]:
    """The tokens of a marked prompt as they are encoded, and the places of its photos in order.

    trigger: the tokens of the trigger word. words: what each trigger word in the prompt is, as `mark_photos` gives it.
    As in PhotoMaker, trigger words are taken out and the rest of a chunk closes up; its last token fills it.
    Raises ValueError if the tokens have another number of trigger words.
    """
    texts = [(c, i) for c, chunk in enumerate(chunks) for i, token in enumerate(chunk) if token[2]]
    found = _runs([chunks[c][i][0] for c, i in texts], list(trigger))
    if len(found) != len(words):
        raise ValueError(
            f"the prompt has {len(words)} trigger words and its tokens have {len(found)}; choose another trigger_word."
        )
    replaced: dict[tuple[int, int], Token] = {}
    owners: dict[tuple[int, int], tuple[str, int]] = {}
    dropped = set()
    for word, group in groupby(zip(words, found, strict=True), key=lambda pair: pair[0]):
        if word.owner is None:
            continue
        starts = [start for _, start in group]
        places = [texts[start + i] for start in starts for i in range(len(trigger))]
        source = texts[starts[0] - 1]
        copies = places[: photos[word.owner] - 1]
        replaced |= {place: chunks[source[0]][source[1]] for place in copies}
        owners |= {place: (word.owner, number) for number, place in enumerate([source, *copies])}
        dropped |= set(places[len(copies) :])
    return _rebuilt(chunks, replaced, owners, dropped)


def _runs(tokens: list, sought: list[int]) -> list[int]:
    """Where `sought` begins in `tokens`, of which some may be embeddings."""
    size, found, start = len(sought), [], 0
    while start + size <= len(tokens):
        run = tokens[start : start + size]
        is_one = all(isinstance(token, int) for token in run) and run == sought
        if is_one:
            found.append(start)
        start += size if is_one else 1
    return found


def _rebuilt(chunks: Chunks, replaced: Mapping, owners: Mapping, dropped: set) -> tuple[Chunks, list[Place]]:
    rebuilt, places = [], []
    for c, chunk in enumerate(chunks):
        kept = [i for i in range(len(chunk)) if (c, i) not in dropped]
        places += [Place(c * len(chunk) + at, *owners[c, i]) for at, i in enumerate(kept) if (c, i) in owners]
        tokens = [replaced.get((c, i), chunk[i])[:2] for i in kept]
        rebuilt.append(tokens + [chunk[-1][:2]] * (len(chunk) - len(tokens)))
    return rebuilt, places
