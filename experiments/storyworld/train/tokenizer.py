"""Captions as the tokens of the host's CLIP tokenizer, in a vocabulary of the world's own words."""

import re
from random import Random

import torch
from storyreel.core.storyworld import captions
from torch import Tensor

LENGTH = 77  # of the host's chunks: start, tokens, end and padding, which is the end again
# What a prompt may hold and the world does not know: one row stands for all of it, and these teach it to mean nothing.
STRANGERS = "photo comic style detailed best quality happy old city car dog tree named bob mia very the of is".split()


class Vocabulary:
    """Rows of the embedding: 0 for what is unknown, then the start, the end, the comma, and the world's words.

    token_ids: the host tokenizer's number of each row but the first. A word may take several tokens.
    """

    def __init__(self, tokenizer):
        (chunk,) = tokenizer.tokenize_with_weights("")
        start, end = (int(token) for token, _ in chunk[:2])
        spelled = {word: self._spell(tokenizer, word) for word in (",", *captions.vocabulary())}
        self.token_ids = list(dict.fromkeys([start, end, *(id for ids in spelled.values() for id in ids)]))
        rows = {id: row for row, id in enumerate(self.token_ids, start=1)}
        self.start, self.end = rows[start], rows[end]
        self._rows = {word: [rows[id] for id in ids] for word, ids in spelled.items()}

    def __len__(self) -> int:
        return len(self.token_ids) + 1

    @staticmethod
    def _spell(tokenizer, word: str) -> list[int]:
        (chunk,) = tokenizer.tokenize_with_weights(word)
        end = chunk[-1][0]
        return [int(id) for id, _ in chunk[1:] if id != end]

    def encode(self, captions: list[str], length: int = LENGTH) -> Tensor:
        """Rows [captions, length]."""
        encoded = torch.full((len(captions), length), self.end)
        for row, text in zip(encoded, captions, strict=True):
            tokens = [self.start, *(row for word in re.findall(r"\w+|,", text) for row in self._rows.get(word, [0]))]
            tokens = tokens[: length - 1]
            row[: len(tokens)] = torch.tensor(tokens)
        return encoded


def with_strangers(rng: Random, caption: str, chance: float = 0.15) -> str:
    """The caption, by chance with words in it that mean nothing here."""
    if rng.random() >= chance:
        return caption
    words = caption.split(" ")
    for _ in range(rng.randint(1, 5)):
        words.insert(rng.randint(0, len(words)), rng.choice(STRANGERS))
    return " ".join(words)
