"""At which tokens of a frame's prompt the words of its characters stand."""

from collections.abc import Hashable, Mapping, Sequence

Token = Hashable


def positions_of(
    names: Sequence[str], words: Mapping[str, Sequence[Token]], prompt: Sequence[tuple[int, Token]]
) -> dict[str, tuple[int, ...]]:
    """{name: positions} of the words of these characters in a prompt, without those that are not found.

    names: in the order in which the prompt shows them. words: the tokens of each description. prompt: its tokens with
    their positions, without those that start, end and fill up a text.

    A prompt holds a description word by word. Where several begin at a token, the longest is meant ("a man in a hat",
    not "a man"), and equal ones belong to their characters in turn.
    """
    found: dict[str, list[int]] = {}
    turn = list(dict.fromkeys(names))
    tokens, place = [token for _, token in prompt], 0
    while place < len(tokens):
        here = [n for n in turn if words.get(n) and tokens[place : place + len(words[n])] == list(words[n])]
        if not here:
            place += 1
            continue
        name = max(here, key=lambda n: len(words[n]))  # the first of equal ones
        turn.remove(name)
        turn.append(name)
        length = len(words[name])
        found.setdefault(name, []).extend(position for position, _ in prompt[place : place + length])
        place += length
    return {name: tuple(positions) for name, positions in found.items()}
