"""Which keys a target reads, in which order: segments of tokens of one image each, laid out as `extended` says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sharing import Group


@dataclass(frozen=True, eq=False)
class Segment:
    """Tokens of one image: `index` [m] into its tokens, or all of them. `bias` is added to their logits.

    source: where the image is: "own", "shared" (see `extended_attention`), or "stored", then `row` is its place there.
    """

    row: int
    index: Tensor | None
    length: int
    source: str
    bias: float = 0.0

    @classmethod
    def of(cls, row: int, index: Tensor | None, tokens: int, source: str, bias: float = 0.0) -> "Segment":
        """index: ascending, of `tokens`; None = all of them."""
        length = tokens if index is None else len(index)
        return cls(row, None if length == tokens else index, length, source, bias)

    def is_of(self, row: int) -> bool:
        """Whether these are tokens of a row of the batch."""
        return self.row == row and self.source != "stored"

    def write(self, tokens: Tensor, target: Tensor) -> None:
        """Copy from the image's `tokens` [N, heads, d] into `target` [m, heads, d]."""
        if self.index is None:
            target.copy_(tokens)
        else:
            torch.index_select(tokens, 0, self.index.to(tokens.device), out=target)

    def split(self, length: int) -> list["Segment"]:
        """The same tokens in segments of at most `length`."""
        if self.length <= length:
            return [self]
        index = torch.arange(self.length) if self.index is None else self.index
        return [replace(self, index=part, length=len(part)) for part in index.split(length)]


@dataclass(frozen=True)
class Keys:
    """The keys and values that the rows of a call may read. The fields: see `extended.extended_attention`."""

    k: Tensor
    v: Tensor
    shared: tuple[Tensor, Tensor] | None
    own: Sequence[Tensor] | None
    stored: Mapping[int, tuple[Tensor, Tensor]]
    strength: float

    @property
    def tokens(self) -> int:
        return self.k.shape[1]

    @property
    def token_bytes(self) -> int:
        """Of one head."""
        return self.k.shape[3] * self.k.element_size()

    def only_heads(self, part: slice) -> "Keys":
        shared = None if self.shared is None else (self.shared[0][:, :, part], self.shared[1][:, :, part])
        stored = {image: (k[:, part], v[:, part]) for image, (k, v) in self.stored.items()}
        return replace(self, k=self.k[:, :, part], v=self.v[:, :, part], shared=shared, stored=stored)

    def own_of(self, row: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a row's own tokens."""
        k, v = self.k[row], self.v[row]
        return (k, v) if self.own is None else (k[self.own[row]], v[self.own[row]])

    def shared_segments(self, group: Group, sample: Sequence[Tensor]) -> list[Segment]:
        """The shared tokens of a group, those of a bank last. sample: as in `extended.extended_attention`."""
        bias = math.log(self.strength) if self.strength > 0 else -math.inf
        tokens = self.tokens if self.shared is None else self.shared[0].shape[1]
        shared = [
            Segment.of(row, index, tokens, "shared", bias)
            for row, index in zip(group.sources, sample, strict=True)
            if len(index)
        ]
        return [*shared, *(Segment.of(i, None, len(self.stored[i][0]), "stored", bias) for i in group.stored)]

    def segments(self, group: Group, shared: list[Segment], row: int) -> list[Segment]:
        """What a target reads: shared tokens, and last the own tokens that it adds to them."""
        own = None if self.own is None else self.own[row]
        mine = next((segment for segment in shared if segment.is_of(row)), None)
        if mine is not None and group.own == "rest":
            if self.shared is not None:
                shared = [segment for segment in shared if segment is not mine]
            else:
                own = _without(own, mine.index, self.tokens, self.k.device)
        return [*shared, Segment.of(row, own, self.tokens, "own")]

    def buffers(self, length: int) -> tuple[Tensor, Tensor]:
        """Empty keys and values [length, heads, d]."""
        keys = self.k.new_empty(length, *self.k.shape[2:])
        return keys, torch.empty_like(keys)

    def keys_of(self, segment: Segment) -> Tensor:
        """The keys of a segment, [heads, m, d]."""
        k, _ = self.source_of(segment)
        return (k if segment.index is None else k[segment.index.to(k.device)]).movedim(1, 0)

    def write(self, segments: Sequence[Segment], keys: Tensor, values: Tensor) -> None:
        """Copy these tokens to the end of the buffers [m, heads, d]."""
        start = len(keys) - total_length(segments)
        for segment in segments:
            k, v = self.source_of(segment)
            segment.write(k, keys[start : start + segment.length])
            segment.write(v, values[start : start + segment.length])
            start += segment.length

    def source_of(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """Keys and values of the image that a segment is of, [N, heads, d]."""
        if segment.source == "stored":
            return self.stored[segment.row]
        k, v = self.shared if segment.source == "shared" and self.shared is not None else (self.k, self.v)
        return k[segment.row], v[segment.row]


def total_length(segments: Sequence[Segment]) -> int:
    return sum(segment.length for segment in segments)


def with_biases(segments: Sequence[Segment], group: Group, row: int) -> list[Segment]:
    """What a target reads, with the biases that it reads it with: log(strength) for shared tokens, 0 for own tokens.

    In Algorithm 1 ("all", with the target's own samples among the shared tokens) the own samples count as shared.
    """
    mine = group.own == "rest"
    return [replace(segment, bias=0.0) if mine and segment.is_of(row) else segment for segment in segments]


def in_parts(segments: Sequence[Segment], length: int) -> list[list[Segment]]:
    """The segments in parts of at most `length` tokens; all tokens of a part have one bias."""
    parts = []
    pieces = [piece for segment in segments if segment.length for piece in segment.split(length)]
    for piece in sorted(pieces, key=lambda piece: piece.bias):
        if parts and parts[-1][0].bias == piece.bias and total_length(parts[-1]) + piece.length <= length:
            parts[-1].append(piece)
        else:
            parts.append([piece])
    return parts


def _without(own: Tensor | None, sampled: Tensor | None, tokens: int, device: torch.device) -> Tensor:
    """The own tokens that are not among the sampled ones, ascending; None = all tokens."""
    rest = torch.zeros(tokens, dtype=torch.bool, device=device)
    rest[... if own is None else own] = True
    rest[... if sampled is None else sampled] = False
    return rest.nonzero().flatten()
