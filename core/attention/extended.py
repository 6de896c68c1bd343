"""Self-attention over own and shared tokens: O_i = softmax(Q_i [K_shared; K_i]^T / sqrt(d)) [V_shared; V_i].

Everything works on projected tensors, so a token's key and value are computed once however many images read it.
Tokens are gathered, so no mask is needed and any attention kernel works. Keys are laid out as

    | shared tokens: of source a | of source b | ... | own tokens of the target |

The shared tokens are written once for all targets of a group; between two targets only the last part changes. The
samples of a target that is also a source are among the shared tokens already; it adds the rest of its own tokens, so
that none counts twice. Where shared tokens have other keys than own ones (see `positions`), such a target reads the
samples of the other sources and all of its own tokens, so its shared tokens are written anew.

Memory: only the buffer above and one row of queries are allocated beyond plain attention. They stay under a limit
because the heads are processed in parts. Where the keys of a single head exceed the limit, the keys are processed in
parts as well, and the partial softmaxes are merged by their log-sum-exp.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..networks.attend import Attend, attend_plain
from .segments import Keys, Segment, in_parts, total_length, with_biases
from .sharing import Group


def extended_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Group],
    samples: Sequence[Sequence[Tensor]],
    *,
    shared: tuple[Tensor, Tensor] | None = None,
    own: Sequence[Tensor] | None = None,
    stored: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({}),
    strength: float = 1.0,
    limit: int = 64 << 20,
    attend: Attend = attend_plain,
    whole_heads: bool = False,
    maskless: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of every row over its own tokens and the shared tokens of its groups.

    q, k, v: [B, N, heads, d], projected, of cond or of uncond alone, in any memory layout; there may be fewer queries
        than keys.
    groups: sources and targets; a row in several groups gets the weighted sum of their estimates.
    samples: for each group the shared token indices [m] of each source row, in the order of `group.sources`.
    shared: the keys and values [B, T, heads, d] that `samples` are indices into; None = k and v.
    own: for each row the indices [m] of its own tokens that it reads, ascending; None = all.
    stored: keys and values [m, heads, d] of images of a bank, by the numbers of `Group.stored`.
    strength: weight of a shared token in the softmax; 1 as published, 0 removes it.
    limit: bytes that queries, keys, values and output of one call may take beyond q, k, v and the result.
    whole_heads: always pass all heads and keys in one call, for an `attend` that needs them together.
    maskless: never pass a bias to `attend`, for kernels that ignore it: with a strength other than 1, shared and own
        tokens are attended apart and merged.
    out: where to write the result, shaped like q; a new tensor if None.

    Returns [B, N, heads, d].
    """
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if any(weight != 1 for group in groups for weight in group.targets.values()):
        out.zero_()
    call = _Call(q, out, Keys(k, v, shared, own, stored, strength), limit, attend, maskless)
    for group, sample in zip(groups, samples, strict=True):
        if any(map(len, sample)) or group.stored:
            call.add_group(group, sample, whole_heads)
        else:
            call.add_plain(group)
    return out


@dataclass(frozen=True)
class _Call:
    """One call of `extended_attention`, or some heads of it."""

    q: Tensor
    out: Tensor
    keys: Keys
    limit: int
    attend: Attend
    maskless: bool

    @property
    def heads(self) -> int:
        return self.q.shape[2]

    def only_heads(self, first: int, count: int) -> "_Call":
        part = slice(first, first + count)
        return replace(self, q=self.q[:, :, part], out=self.out[:, :, part], keys=self.keys.only_heads(part))

    def add_plain(self, group: Group) -> None:
        """Attention of the targets over their own tokens alone."""
        for row, weight in group.targets.items():
            k, v = self.keys.own_of(row)
            _add(self.out[row], _attend(self.attend, self.q[row], k, v, None), weight)

    def add_group(self, group: Group, sample: Sequence[Tensor], whole_heads: bool) -> None:
        """Attention of the targets over own and shared tokens, as many heads at a time as the limit allows."""
        shared = self.keys.shared_segments(group, sample)
        head_bytes = 2 * (total_length(shared) + self.keys.tokens + self.q.shape[1]) * self.keys.token_bytes
        at_once = self.heads if whole_heads else min(self.heads, self.limit // head_bytes)
        if at_once == 0:
            self.add_by_keys(group, shared)
            return
        for first in range(0, self.heads, at_once):
            self.only_heads(first, min(at_once, self.heads - first)).add_at_once(group, shared)

    def add_at_once(self, group: Group, shared: list[Segment]) -> None:
        """All heads and keys of a target in one call. The buffers are freed at the end."""
        keys, values = self.keys.buffers(total_length(shared) + self.keys.tokens)
        written = []
        for row, weight in group.targets.items():
            *read, own = segments = self.keys.segments(group, shared, row)
            end = total_length(segments)
            self.keys.write([own] if read == written else segments, keys[:end], values[:end])
            written = read
            biases = None if self.keys.strength == 1 else _biases(with_biases(segments, group, row), keys)
            estimate = self.attend_in_parts(self.q[row], keys[:end], values[:end], biases)
            _add(self.out[row], estimate, weight)

    def attend_in_parts(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Attention with a bias [M], some queries at a time: kernels that store the logits stay under the limit."""
        if bias is None:
            return _attend(self.attend, q, k, v, None)
        if self.maskless:
            return self.merge_by_bias(q, k, v, bias)
        at_once = max(1, self.limit // (len(bias) * self.heads * q.element_size()))
        parts = [_attend(self.attend, part, k, v, bias.expand(len(part), -1)) for part in q.split(at_once)]
        return torch.cat(parts)

    def merge_by_bias(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The same without a bias: the attention over each run of keys with one bias, merged. [N, heads, d]"""
        borders = (bias[1:] != bias[:-1]).nonzero().flatten().cpu() + 1
        runs = zip(*(tensor.tensor_split(borders) for tensor in (k, v, bias)), strict=True)
        return _merge(self.over(q, keys, values, bias[0]) for keys, values, bias in runs).to(q.dtype)

    def over(self, q: Tensor, k: Tensor, v: Tensor, bias: float | Tensor) -> tuple[Tensor, Tensor]:
        """Attention over some of the keys, which have one bias, and its log-sum-exp: see `_merge`."""
        estimate = _attend(self.attend, q, k, v, None).float()
        at_once = max(1, self.limit // 4 // (4 * len(k)))
        masses = [
            torch.cat([log_mass(part, k[:, head]) for part in q[:, head].split(at_once)]) for head in range(self.heads)
        ]
        return estimate, torch.stack(masses, 1)[..., None] + bias

    def add_by_keys(self, group: Group, shared: list[Segment]) -> None:
        """One head at a time, and only some of its keys at a time."""
        # A quarter of the limit for a part's keys and values; logits, output and partial output share the rest.
        length = max(1, self.limit // 4 // (2 * self.keys.token_bytes))
        for row, weight in group.targets.items():
            parts = in_parts(with_biases(self.keys.segments(group, shared, row), group, row), length)
            for head in range(self.heads):
                estimate = self.only_heads(head, 1).merge(row, parts)
                _add(self.out[row, :, head : head + 1], estimate, weight)

    def merge(self, row: int, parts: Sequence[list[Segment]]) -> Tensor:
        """Attention of one head over several parts of its keys. Returns [N, 1, d]."""
        q = self.q[row]

        def over(part: list[Segment]) -> tuple[Tensor, Tensor]:
            keys, values = self.keys.buffers(total_length(part))
            self.keys.write(part, keys, values)
            return self.over(q, keys, values, part[0].bias)

        return _merge(map(over, parts)).to(q.dtype)


def _attend(attend: Attend, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of one row. q [N, heads, d], k and v [M, heads, d], bias [N, M] -> [N, heads, d]."""
    heads = q.shape[1]
    return attend(*(t.flatten(1)[None] for t in (q, k, v)), heads, bias)[0].unflatten(-1, (heads, -1))


def _merge(parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention over several parts of the keys, from the attention over each [N, heads, d] and its log-sum-exp
    [N, heads, 1]: with Z_p the sum of exp(logits) over part p, O = sum_p Z_p O_p / sum_p Z_p."""
    parts = iter(parts)
    merged, total = next(parts)
    for estimate, mass in parts:
        both = torch.logaddexp(total, mass)
        merged = merged * (total - both).exp() + estimate * (mass - both).exp()
        total = both
    return merged


def _add(target: Tensor, estimate: Tensor, weight: float) -> None:
    # A single estimate is copied, not summed, so that it stays what the kernel gave to the last bit.
    if weight == 1:
        target.copy_(estimate)
    else:
        target.add_(estimate, alpha=weight)


def _biases(segments: Sequence[Segment], like: Tensor) -> Tensor:
    """Logit bias of every key [M]."""
    return torch.cat([like.new_full((segment.length,), segment.bias) for segment in segments])


def log_mass(q: Tensor, k: Tensor) -> Tensor:
    """Log of the sum over keys of exp(q k / sqrt(d)). [..., N, d], [..., M, d] -> [..., N], float32 or float64."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    return (q.to(dtype) @ k.to(dtype).mT * q.shape[-1] ** -0.5).logsumexp(-1)
