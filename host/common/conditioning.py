"""Text encoding of a whole story: one prompt a frame, in one batched CONDITIONING."""

from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .frame_rows import mark_rows, pick_values, without_frames
from .padded_texts import MASK, OWN_TOKENS, without_padding

# Encoders whose model fills texts up with zeros on the left.
ZEROS_ON_THE_LEFT = frozenset({"mistral3_24b"})  # Flux.2 dev


def encode_story(clip, prompts, negative: str) -> tuple[list, list]:
    """Encode `prompts`, one row each, and `negative` in as many equal rows, with the host's own CLIP.

    Each prompt is encoded alone: its tokens are those of the host's CLIPTextEncode. See `encode_rows`.

    Raises ValueError if there is no text encoder, or if it is Anima's.
    """
    check_text_encoder(clip)
    return encode_rows(clip, [clip.tokenize(text) for text in prompts], clip.tokenize(negative))


def check_text_encoder(clip) -> None:
    """Raise ValueError if there is none."""
    if clip is None:
        raise ValueError(
            "The clip input is empty: the checkpoint holds no text encoder. Load one with Load CLIP or DualCLIPLoader."
        )


def encode_rows(
    clip, rows: Sequence[dict], negative: dict, finish: Callable[[int, list], list] | None = None
) -> tuple[list, list]:
    """Encode the tokens of each prompt into a row of its own, and those of `negative` into as many equal rows.

    finish: makes of the number of a row and its CONDITIONING the one that is wanted, with as many entries for each row.
    Tensors are [F, T, C], T the tokens of the longest prompt; shorter rows are filled up with zeros, which
    "attention_mask" [F, T] marks with 0 and OWN_TOKENS with False, see `padded_texts`. CLIP reads whole chunks: where
    prompts have more than one, all of them and the negative get empty chunks, too.
    Hooks and schedules of `clip` apply: as many entries come back as the schedule has. Where fewer images are sampled
    than there are prompts, rows follow the frames, see `frame_rows`.
    """
    tokens = [*rows, negative]
    _pad_chunks(tokens, clip.tokenize(""))
    progress = comfy.utils.ProgressBar(len(tokens))
    encoded = []
    for number, row in enumerate(tokens):
        comfy.model_management.throw_exception_if_processing_interrupted()
        entries = clip.encode_from_tokens_scheduled(row, show_pbar=False)
        encoded.append(finish(number, entries) if finish and row is not negative else entries)
        progress.update(1)
    *positive_rows, negative_row = encoded
    left = bool(ZEROS_ON_THE_LEFT & negative.keys())
    both = _stack(positive_rows, left), _stack([negative_row] * len(rows), left)
    positive, negative_rows = mark_rows(*both, count=len(rows))
    return positive, negative_rows


def pick_row(conditioning: list, index: int) -> list:
    """Row `index` of a batched CONDITIONING, as `encode_story` makes them; the last row holds on."""
    return [_pick_row(cond, without_frames(extras), min(index, len(cond) - 1)) for cond, extras in conditioning]


def _pick_row(cond: Tensor, extras: dict, index: int) -> list:
    return without_padding(cond[index : index + 1], pick_values(extras, [index], len(cond)))


def stack_rows(positives: Sequence[list], negatives: Sequence[list]) -> tuple[list, list]:
    """Positive and negative of a batch from those of its images, one row each, as `encode_story` makes them."""
    if len(positives) == 1:
        return positives[0], negatives[0]
    positive, negative = mark_rows(_stack(list(positives), False), _stack(list(negatives), False), count=len(positives))
    return positive, negative


def shapes_of(conditioning: list) -> tuple:
    """Rows of equal shapes can be stacked without padding."""

    def shape(value) -> tuple:
        return tuple(map(shape, value)) if isinstance(value, list) else tuple(getattr(value, "shape", ())[1:])

    return tuple(
        (shape(cond), tuple(sorted((key, shape(value)) for key, value in extras.items())))
        for cond, extras in conditioning
    )


def count_rows(conditioning: list) -> int:
    """How many prompts a CONDITIONING holds, as rows of its batch."""
    return max(len(cond) for cond, _ in conditioning)


def _pad_chunks(tokens: list[dict], empty: dict) -> None:
    """Give all `tokens` as many chunks as the longest has, per encoder; one without chunks has one and keeps it."""
    for encoder, blank in empty.items():
        longest = max(len(row[encoder]) for row in tokens)
        for row in tokens:
            row[encoder] = row[encoder] + blank * (longest - len(row[encoder]))


def _stack(rows: list[list], left: bool) -> list:
    """One CONDITIONING from one a row: entry by entry of the schedule, tensors along the batch, the rest as it is.

    left: zeros that fill a row up are on its left, where the model itself puts them.
    """
    stacked = []
    for entries in zip(*rows, strict=True):
        conds, extras = zip(*entries, strict=True)
        if any("t5xxl_ids" in extra for extra in extras):
            raise ValueError(
                "Anima's text encoder hands its model the token ids of one prompt, so prompts cannot share a batch. "
                "Encode frames one by one, or use another model for stories."
            )
        keys = dict.fromkeys(key for extra in extras for key in extra)
        values = {key: [extra.get(key) for extra in extras] for key in keys}
        uneven = len({cond.shape[1] for cond in conds}) > 1
        whole = [torch.ones(1, cond.shape[1], dtype=torch.long, device=cond.device) for cond in conds]
        if uneven or MASK in values:
            masks = values.get(MASK, whole)
            values[MASK] = [own if mask is None else mask.to(own) for mask, own in zip(masks, whole, strict=True)]
        if uneven and not left:
            values[OWN_TOKENS] = [own.bool() for own in whole]
        stacked.append([_join(conds, left), {key: _join(parts, left) for key, parts in values.items()}])
    return stacked


def _join(values: Sequence, left: bool):
    """Tensors [1, ...] of the rows as one, shorter ones filled up with zeros; lists alike; of others the first."""
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return [_join(parts, left) for parts in zip(*values, strict=True)]
    if not isinstance(values[0], Tensor):
        return values[0]
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    rows = values[0].new_zeros(len(values), *shape)
    for row, value in zip(rows, values, strict=True):
        row[tuple(slice(-size if left else 0, None if left else size) for size in value.shape[1:])] = value[0]
    return rows
