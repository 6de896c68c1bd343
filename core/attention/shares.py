"""How much of its attention a frame gives to each image whose tokens it reads.

The share of an image is the sum of the softmax weights of its tokens, with the weight that `strength` gives them, as
the mean over queries and heads. Shares of one frame add up to 1. The rest of its sequence, such as a transformer's
text, counts as the frame itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from .extended import log_mass
from .segments import Keys, Segment, with_biases
from .sharing import Group


@dataclass(frozen=True)
class Shares:
    """The shares of the rows of a call, summed over parts of it: of the groups, the heads or the queries.

    sums: [B, B + images of the bank], float64: row i gave sums[i, j] to row j. It is zero at first.
    mask: bool [B, N], the queries that read shared tokens; the others read their own alone. None = all.
    weight: of what is added.
    """

    sums: Tensor
    mask: Tensor | None = None
    weight: float = 1.0

    @classmethod
    def empty(cls, rows: int, images: int, mask: Tensor | None = None) -> "Shares":
        return cls(torch.zeros(rows, rows + images, dtype=torch.float64), mask)

    def of_queries(self, index: Tensor | slice, count: int, tokens: int) -> "Shares":
        """For calls with these of `tokens` queries alone. count: how many they are."""
        mask = None if self.mask is None else self.mask[:, index]
        return replace(self, mask=mask, weight=self.weight * count / tokens)

    def of_heads(self, count: int, heads: int) -> "Shares":
        """For calls with so many of the heads alone."""
        return replace(self, weight=self.weight * count / heads)

    def add(
        self,
        q: Tensor,
        k: Tensor,
        groups: Sequence[Group],
        samples: Sequence[Sequence[Tensor]],
        *,
        shared: Tensor | None = None,
        own: Sequence[Tensor] | None = None,
        stored: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({}),
        strength: float = 1.0,
        limit: int = 64 << 20,
    ) -> None:
        """Add the shares of a call of `extended.extended_attention` with these arguments. shared: of its keys.

        limit: bytes that the computation may take.
        """
        keys = Keys(k, k, None if shared is None else (shared, shared), own, stored, strength)
        for group, sample in zip(groups, samples, strict=True):
            segments = keys.shared_segments(group, sample)
            for row, weight in group.targets.items():
                read = with_biases(keys.segments(group, segments, row), group, row)
                self._add_row(row, q[row], keys, [part for part in read if part.length], weight * self.weight, limit)

    def _add_row(self, row: int, q: Tensor, keys: Keys, segments: Sequence[Segment], weight: float, limit: int) -> None:
        """q: [N, heads, d]."""
        reading = q if self.mask is None else q[self.mask[row]]
        part = len(reading) / len(q)
        self.sums[row, row] += weight * (1 - part)
        if not len(reading) or all(segment.is_of(row) for segment in segments):
            self.sums[row, row] += weight * part
            return
        means = _shares(reading, keys, segments, limit).cpu()
        for segment, share in zip(segments, means.tolist(), strict=True):
            column = len(self.sums) + segment.row if segment.source == "stored" else segment.row
            self.sums[row, column] += weight * part * share


def _shares(q: Tensor, keys: Keys, segments: Sequence[Segment], limit: int) -> Tensor:
    """The share of each segment, [segments], float64: some heads and some queries at a time. q: [N, heads, d]."""
    queries, heads, dim = q.shape
    longest = max(segment.length for segment in segments)
    heads_at_once = min(heads, max(1, limit // 4 // (longest * dim * 8)))
    queries_at_once = max(1, limit // 2 // (heads_at_once * 4 * (2 * longest + 3 * len(segments))))
    sums = torch.zeros(len(segments), dtype=torch.float64, device=q.device)
    for first in range(0, heads, heads_at_once):
        part = slice(first, first + heads_at_once)
        some = keys.only_heads(part)
        for span in q[:, part].movedim(1, 0).split(queries_at_once, dim=1):
            masses = torch.stack([log_mass(span, some.keys_of(segment)) + segment.bias for segment in segments])
            sums += masses.softmax(0).sum((1, 2), dtype=torch.float64)
    return sums / (queries * heads)
