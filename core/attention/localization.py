"""Where in an image a character stands, from the cross-attention of its own words.

A place of the image that belongs to a character attends to the words that describe it (Hertz et al., prompt-to-prompt,
arXiv 2208.01626). As in ConsiStory (arXiv 2402.03286) these maps are averaged over layers, heads and the steps so far,
and divided in two by the threshold of Otsu (1979), a little smoothed. Where two characters claim a place, the one whose
map is higher there, relative to its own highest value, gets it. So no two characters stand in one place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, pad

LIMIT = 64 << 20  # bytes that logits take at a time
LEAST = 16  # tokens of the shorter side of the maps
EVEN = 1e-4  # largest difference in an even map, as a share of its highest value


def word_attention(q: Tensor, k: Tensor, heads: int, words: Sequence[Tensor], limit: int = LIMIT) -> Tensor:
    """How much each place of an image attends to some words, on average over heads and their tokens.

    q [N, C], k [T, C]: projected queries of the image and keys of its text. words: of each character the positions [m]
    of its tokens in the text. limit: bytes that logits take at a time.

    Returns float32 [characters, N]: means of the probabilities softmax(q k^T / sqrt(d)) over all T tokens.
    """
    q, k = (tensor.unflatten(-1, (heads, -1)).transpose(0, 1).float() for tensor in (q, k))  # [heads, N or T, d]
    at_once = max(1, limit // (4 * heads * k.shape[1]))
    parts = []
    for part in q.split(at_once, 1):
        chances = (part @ k.transpose(1, 2) * part.shape[-1] ** -0.5).softmax(-1).mean(0)
        parts.append(torch.stack([chances[:, positions].mean(1) for positions in words]))
    return torch.cat(parts, 1)


def otsu(values: Tensor) -> float | None:
    """The threshold that divides values [n] in two classes of the largest variance between them; None for equal ones.

    The upper class holds the values above the threshold. With w the share of the lower class, and m and M the means of
    the classes, the variance between them is w (1 - w) (M - m)^2.
    """
    ordered = values.double().flatten().sort().values
    lower = torch.arange(1, len(ordered), dtype=torch.float64, device=ordered.device)
    sums = ordered.cumsum(0)
    upper = len(ordered) - lower
    between = lower * upper * ((sums[-1] - sums[:-1]) / upper - sums[:-1] / lower) ** 2
    between[ordered[1:] <= ordered[:-1]] = -1  # equal values are of one class
    if not len(between) or between.max() <= 0:
        return None
    place = int(between.argmax())
    return ((ordered[place] + ordered[place + 1]) / 2).item()


def separate(maps: Tensor, height: int, width: int) -> list[Tensor | None]:
    """The tokens of each character at a level of height x width tokens, disjoint, from its map [characters, h, w].

    Returns for each character bool [height * width], or None if its map is even.
    """
    even = maps.flatten(1).amin(1) >= maps.flatten(1).amax(1) * (1 - EVEN)
    maps = smooth(maps)
    lowest, highest = maps.flatten(1).amin(1), maps.flatten(1).amax(1)
    scaled = (maps - lowest[:, None, None]) / (highest - lowest).masked_fill(even, 1)[:, None, None]
    scaled[even] = 0
    thresholds = [None if is_even else otsu(one) for one, is_even in zip(scaled, even.tolist(), strict=True)]
    resized = resize(scaled, height, width).flatten(1)
    winner = resized.argmax(0)
    return [
        None if threshold is None else (resized[number] > threshold) & (winner == number)
        for number, threshold in enumerate(thresholds)
    ]


def smooth(maps: Tensor) -> Tensor:
    """Each value of maps [c, h, w] averaged with its neighbors by the weights 1, 2, 1 along both axes."""
    weights = maps.new_tensor([1, 2, 1]) / 4
    padded = pad(maps[None], (1, 1, 1, 1), mode="replicate").transpose(0, 1)
    return conv2d(padded, weights.outer(weights)[None, None])[:, 0]


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [c, h, w] at another size: means of areas where it is smaller, linear between them where it is larger."""
    if height <= maps.shape[1] and width <= maps.shape[2]:
        return adaptive_avg_pool2d(maps, (height, width))
    return interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]


def map_level(sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The coarsest of these levels (height, width) with enough tokens to tell two characters apart, else the finest."""
    enough = [size for size in sides if min(size) >= LEAST]
    return min(enough) if enough else max(sides)
