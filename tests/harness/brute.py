"""Consistent Self-Attention by brute force, in float64, written from the formulas and sharing nothing with `core`.

Attention of a frame is one softmax over all tokens of all frames of a batch, in which key t of frame j counts c[j, t]
times: O_i = sum_jt c exp(q_i k_jt / sqrt(d)) v_jt / sum_jt c exp(q_i k_jt / sqrt(d)). The variants differ in c alone.
Which tokens were drawn is data here, not mathematics: `drawn(frame)` or `drawn(first frame of a window, frames)`.
"""

import torch


def attention(q, k, v, heads, counts):
    """q [N, C]; k, v [B, M, C]; counts [B, M] -> [N, C]."""
    q, k, v = (t.double().flatten(0, -2).unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    weights = (logits - logits.amax(-1, keepdim=True)).exp() * counts.flatten().double()
    return (weights / weights.sum(-1, keepdim=True) @ v).transpose(0, 1).flatten(1)


def sources_of(frame, casts, anchors):
    """Published rule. anchors 0: everyone who shares a character; k: the k first frames of it alone."""
    if not anchors:
        return {j for j in casts if j != frame and casts[j] & casts[frame]}
    frames = set()
    for name in casts[frame]:
        alone = [j for j in sorted(casts) if casts[j] == {name}] or [j for j in sorted(casts) if name in casts[j]]
        frames |= set(alone[:anchors])
    return frames - {frame}


def published(q, k, v, heads, frames, casts, anchors, drawn, strength=1.0):
    """Low-vram and mask: own tokens once, of each source frame its drawn tokens. q, k, v [B, N, C] -> [B, N, C]."""
    casts = {frame: casts[frame] for frame in frames}
    out = []
    for row, frame in enumerate(frames):
        counts = torch.zeros(k.shape[:2], dtype=torch.double)
        counts[row] = 1
        for other in sources_of(frame, casts, anchors):
            counts[frames.index(other), drawn(other)] = strength
        out.append(attention(q[row], k, v, heads, counts))
    return torch.stack(out)


def algorithm_1(q, k, v, heads, frames, casts, size, stride, drawn, strength=1.0):
    """Paper: the mean over windows; in each, the tokens drawn from it and the own tokens once more.

    Of a window's frames only those count that share a character; a frame that finds nobody attends to itself alone.
    """
    order = sorted(frames)
    size = size if 0 < size < len(order) else len(order)
    starts = list(range(0, len(order) - size + 1, min(stride, size)))
    if starts[-1] != len(order) - size:
        starts.append(len(order) - size)
    out = torch.zeros(*q.shape[:2], v.shape[2], dtype=torch.double)
    times = torch.zeros(len(frames))
    for start in starts:
        window = order[start : start + size]
        for frame in window:
            row = frames.index(frame)
            pool = [j for j in window if j == frame or casts[j] & casts[frame]]
            counts = torch.zeros(k.shape[:2], dtype=torch.double)
            counts[row] = 1
            if len(pool) > 1:
                for other, tokens in zip(pool, drawn(window[0], pool), strict=True):
                    counts[frames.index(other), tokens] += strength
            out[row] += attention(q[row], k, v, heads, counts)
            times[row] += 1
    return out / times[:, None, None]
