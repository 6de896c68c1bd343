"""Self-attention over own and shared tokens: O_i = softmax(Q_i [K_shared; K_i]^T / sqrt(d)) [V_shared; V_i].

Everything works on projected tensors, so a token's key and value are computed once however many images read it.
Tokens are gathered, so no mask is needed and any attention kernel works. Keys are laid out as

    | shared tokens: of source a | of source b | ... | own tokens of the target |

The shared tokens are written once for all targets of a group; between two targets only the last part changes. The
samples of a target that is also a source are among the shared tokens already; it adds the rest of its own tokens, so
that none counts twice.

Memory: only the buffer above is allocated beyond plain attention. It stays under a limit because the heads are
processed in parts. Where the keys of a single head exceed the limit, the keys are processed in parts as well, and the
partial softmaxes are merged by their log-sum-exp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks.attend import Attend, attend_plain
from .sharing import Group


@dataclass(frozen=True)
class Segment:
    """Tokens of one image: `index` [m] into its tokens, or all of them. `bias` is added to their logits."""

    row: int
    index: Tensor | None
    length: int
    bias: float = 0.0

    def write(self, source: Tensor, target: Tensor) -> None:
        """Copy the tokens of `source` [B, N, c] into `target` [m, c]."""
        if self.index is None:
            target.copy_(source[self.row])
        else:
            torch.index_select(source[self.row], 0, self.index, out=target)

    def split(self, length: int) -> list["Segment"]:
        """The same tokens in segments of at most `length`."""
        if self.length <= length:
            return [self]
        index = torch.arange(self.length) if self.index is None else self.index
        return [Segment(self.row, part, len(part), self.bias) for part in index.split(length)]


def complement(index: Tensor, tokens: int) -> Tensor:
    """The token indices in [0, tokens) that are not in `index`, ascending."""
    rest = torch.ones(tokens, dtype=torch.bool, device=index.device)
    rest[index] = False
    return rest.nonzero().flatten()


def extended_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    groups: Sequence[Group],
    samples: Sequence[Sequence[Tensor]],
    *,
    strength: float = 1.0,
    limit: int = 64 << 20,
    attend: Attend = attend_plain,
    whole_heads: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of every row over its own tokens and the shared tokens of its groups.

    q, k, v: [B, N, heads * d], projected, of cond or of uncond alone; there may be fewer queries than keys.
    groups: sources and targets; a row in several groups gets the weighted sum of their estimates.
    samples: for each group the shared token indices [m] of each source row, in the order of `group.sources`.
    strength: weight of a shared token in the softmax; 1 as published, 0 removes it.
    limit: bytes that keys, values and output of one call may take beyond q, k, v and the result.
    whole_heads: always pass all heads and keys in one call, for an `attend` that needs them together.
    out: where to write the result; a new tensor if None.

    Returns [B, N, heads * d].
    """
    if out is None:
        out = torch.empty_like(q)
    if any(weight != 1 for group in groups for weight in group.targets.values()):
        out.zero_()
    for group, sample in zip(groups, samples, strict=True):
        if not any(map(len, sample)):
            _add_plain(out, q, k, v, heads, group.targets, attend)
        else:
            _add_group(out, q, k, v, heads, group, sample, strength, limit, attend, whole_heads)
    return out


def _add_plain(out, q, k, v, heads, targets, attend):
    for row, weight in targets.items():
        only = slice(row, row + 1)
        _add(out[row], attend(q[only], k[only], v[only], heads, None)[0], weight)


def _add(target: Tensor, estimate: Tensor, weight: float) -> None:
    # A single estimate is copied, not summed, so that it stays what the kernel gave to the last bit.
    if weight == 1:
        target.copy_(estimate)
    else:
        target.add_(estimate, alpha=weight)


def _add_group(out, q, k, v, heads, group, sample, strength, limit, attend, whole_heads):
    tokens = k.shape[1]
    dim = q.shape[2] // heads
    bias = math.log(strength) if strength > 0 else -math.inf
    shared = [
        Segment(row, None if len(index) == tokens else index, len(index), bias)
        for row, index in zip(group.sources, sample, strict=True)
        if len(index)
    ]
    shared_tokens = sum(segment.length for segment in shared)
    head_bytes = (2 * (shared_tokens + tokens) + q.shape[1]) * dim * q.element_size()
    at_once = heads if whole_heads else min(heads, limit // head_bytes)
    if at_once == 0:
        _add_group_by_keys(out, q, k, v, heads, group, shared, limit, attend)
        return

    for first in range(0, heads, at_once):
        count = min(at_once, heads - first)
        part = slice(first * dim, (first + count) * dim)
        mine = out[..., part], q[..., part], k[..., part], v[..., part]
        _add_heads(*mine, count, group, shared, shared_tokens, strength, limit, attend)


def _add_heads(out, q, k, v, heads, group, shared, shared_tokens, strength, limit, attend):
    """All targets of a group, for these heads. The buffers are freed before the next heads are processed."""
    tokens, width = k.shape[1:]
    keys = k.new_empty(shared_tokens + tokens, width)
    values = torch.empty_like(keys)
    _write(shared, k, keys)
    _write(shared, v, values)
    for row, weight in group.targets.items():
        own = _own(group, shared, row, tokens)
        end = shared_tokens + own.length
        if own.length:
            own.write(k, keys[shared_tokens:end])
            own.write(v, values[shared_tokens:end])
        biases = None if strength == 1 else _biases([*shared, own], group, row, keys)
        attended = keys[None, :end], values[None, :end], heads, biases
        _add(out[row], _attend_queries(q[row : row + 1], *attended, limit, attend)[0], weight)


def _write(segments: Sequence[Segment], source: Tensor, target: Tensor) -> None:
    start = 0
    for segment in segments:
        segment.write(source, target[start : start + segment.length])
        start += segment.length


def _own(group: Group, shared: Sequence[Segment], row: int, tokens: int) -> Segment:
    """The own tokens that `row` adds to the shared ones."""
    mine = next((segment for segment in shared if segment.row == row), None)
    if group.own == "all" or mine is None:
        return Segment(row, None, tokens)
    if mine.index is None:
        return Segment(row, torch.empty(0, dtype=torch.long), 0)
    rest = complement(mine.index, tokens)
    return Segment(row, rest, len(rest))


def _biases(segments: Sequence[Segment], group: Group, row: int, like: Tensor) -> Tensor:
    """Logit bias of every key [M]: log(strength) for shared tokens, 0 for own tokens.

    In Algorithm 1 ("all", with the target's own samples among the shared tokens) the own samples count as shared.
    """
    mine = group.own == "rest"
    return torch.cat([like.new_full((s.length,), 0.0 if mine and s.row == row else s.bias) for s in segments])


def _attend_queries(q, k, v, heads, bias, limit, attend):
    """Attention with a bias, some queries at a time: kernels that store the logits stay under the limit."""
    if bias is None:
        return attend(q, k, v, heads, None)
    at_once = max(1, limit // (len(bias) * heads * q.element_size()))
    parts = q.split(at_once, dim=1)
    return torch.cat([attend(part, k, v, heads, bias.expand(part.shape[1], -1)) for part in parts], dim=1)


def _add_group_by_keys(out, q, k, v, heads, group, shared, limit, attend):
    """One head at a time, and only some of its keys at a time."""
    tokens = k.shape[1]
    dim = q.shape[2] // heads
    # A quarter of the limit for a part's keys and values; logits, output and partial output share the rest.
    length = max(1, limit // 4 // (2 * dim * q.element_size()))
    for row, weight in group.targets.items():
        own = _own(group, shared, row, tokens)
        # samples of the target itself carry no bias
        unbiased = [row] if group.own == "rest" else []
        sources = [Segment(s.row, s.index, s.length) if s.row in unbiased else s for s in shared]
        parts = _parts([*sources, own], length)
        for head in range(heads):
            part = slice(head * dim, (head + 1) * dim)
            estimate = _merge(q[row, :, part], k[..., part], v[..., part], parts, limit, attend)
            _add(out[row, :, part], estimate, weight)


def _parts(segments: Sequence[Segment], length: int) -> list[list[Segment]]:
    """The segments in parts of at most `length` tokens; all tokens of a part have one bias."""
    parts = []
    pieces = [piece for segment in segments if segment.length for piece in segment.split(length)]
    for piece in sorted(pieces, key=lambda piece: piece.bias):
        if parts and parts[-1][0].bias == piece.bias and sum(p.length for p in parts[-1]) + piece.length <= length:
            parts[-1].append(piece)
        else:
            parts.append([piece])
    return parts


def _merge(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[list[Segment]], limit: int, attend: Attend) -> Tensor:
    """Attention of one head over several parts of its keys, from the attention over each and its log-sum-exp.

    With Z_p the sum of exp(logits) over part p, O = sum_p Z_p O_p / sum_p Z_p. q [N, d], k and v [B, N, d] -> [N, d].
    """

    def over(part: list[Segment]) -> tuple[Tensor, Tensor]:
        keys = k.new_empty(sum(piece.length for piece in part), k.shape[-1])
        values = torch.empty_like(keys)
        _write(part, k, keys)
        _write(part, v, values)
        estimate = attend(q[None], keys[None], values[None], 1, None)[0].float()
        return estimate, _log_mass(q, keys, limit // 4)[:, None] + part[0].bias

    merged, total = over(parts[0])
    for part in parts[1:]:
        estimate, mass = over(part)
        both = torch.logaddexp(total, mass)
        merged = merged * (total - both).exp() + estimate * (mass - both).exp()
        total = both
    return merged.to(q.dtype)


def _log_mass(q: Tensor, k: Tensor, limit: int) -> Tensor:
    """Log of the sum over keys of exp(q k / sqrt(d)), a few queries at a time. [N, d], [M, d] -> [N], float32."""
    at_once = max(1, limit // (4 * len(k)))
    scale = q.shape[-1] ** -0.5
    return torch.cat([(part.float() @ k.float().T * scale).logsumexp(-1) for part in q.split(at_once)])
