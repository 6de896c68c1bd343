"""Text encoding of a whole story: one prompt a frame, in one batched CONDITIONING."""

from collections.abc import Sequence

import comfy.model_management
import comfy.utils
import torch

from .frame_rows import mark_rows, without_frames

# Encoders whose model fills texts up with zeros on the left.
ZEROS_ON_THE_LEFT = frozenset({"mistral3_24b"})  # Flux.2 dev


def encode_story(clip, prompts, negative: str) -> tuple[list, list]:
    """Encode `prompts`, one row each, and `negative` in as many equal rows, with the host's own CLIP.

    Every row is padded to the longest of all, so positive and negative have one length: tensors are [F, T, C], pooled
    outputs [F, C]. CLIP's texts get empty chunks; those of language models get the encoder's own padding, which
    "attention_mask" [F, T] marks with 0. A row without padding is what the host's CLIPTextEncode gives for its prompt.
    Hooks and schedules of `clip` apply: as many entries come back as the schedule has. Where fewer images are sampled
    than there are prompts, rows follow the frames, see `frames`.

    Raises ValueError if there is no text encoder, or if it gives prompts lengths that cannot share a batch.
    """
    if clip is None:
        raise ValueError(
            "The clip input is empty: the checkpoint holds no text encoder. Load one with Load CLIP or DualCLIPLoader."
        )
    tokens = _tokenize(clip, (*prompts, negative))
    progress = comfy.utils.ProgressBar(len(tokens))
    encoded = []
    for row in tokens:
        comfy.model_management.throw_exception_if_processing_interrupted()
        encoded.append(clip.encode_from_tokens_scheduled(row, show_pbar=False))
        progress.update(1)
    if ZEROS_ON_THE_LEFT & tokens[0].keys():
        encoded = _fill_up(encoded)
    *rows, negative_row = encoded
    positive, negative_rows = mark_rows(_stack(rows), _stack([negative_row] * len(rows)), count=len(rows))
    return positive, negative_rows


def pick_row(conditioning: list, index: int) -> list:
    """Row `index` of a batched CONDITIONING, as `encode_story` makes them; the last row holds on."""
    picked = []
    for cond, extras in conditioning:
        rows = len(cond)
        row = slice(min(index, rows - 1), min(index, rows - 1) + 1)
        own = {
            key: value[row] if isinstance(value, torch.Tensor) and value.ndim and len(value) == rows else value
            for key, value in without_frames(extras).items()
        }
        picked.append([cond[row], own])
    return picked


def count_rows(conditioning: list) -> int:
    """How many prompts a CONDITIONING holds, as rows of its batch."""
    return max(len(cond) for cond, _ in conditioning)


def _tokenize(clip, texts: Sequence[str]) -> list[dict]:
    """The tokens of each text, as long as those of the longest where the encoder has padding."""
    tokens = [clip.tokenize(text) for text in texts]
    lengths = {}
    for encoder in tokens[0]:
        rows = [row[encoder] for row in tokens]
        longest = max(len(row[0]) for row in rows)
        if encoder not in ZEROS_ON_THE_LEFT and any(len(row) == 1 and len(row[0]) < longest for row in rows):
            lengths[f"{encoder}_min_length"] = longest
    if lengths:
        tokens = [clip.tokenize(text, tokenizer_options=lengths) for text in texts]
    _pad_chunks(tokens, clip.tokenize(""))
    return tokens


def _pad_chunks(tokens: list[dict], empty: dict) -> None:
    """Give all `tokens` as many chunks as the longest has, per encoder; one without chunks has one and keeps it."""
    for encoder, blank in empty.items():
        longest = max(len(row[encoder]) for row in tokens)
        for row in tokens:
            row[encoder] = row[encoder] + blank * (longest - len(row[encoder]))


def _fill_up(rows: list[list]) -> list[list]:
    """The texts with zeros on their left, as long as the longest, as their model would fill them up."""
    longest = max(cond.shape[1] for row in rows for cond, _ in row)
    return [
        [[torch.nn.functional.pad(cond, (0, 0, longest - cond.shape[1], 0)), extra] for cond, extra in row]
        for row in rows
    ]


def _stack(rows: list[list]) -> list:
    """One CONDITIONING from one a row: entry by entry of the schedule, tensors along the batch, the rest as it is."""
    stacked = []
    for entries in zip(*rows, strict=True):
        conds, extras = zip(*entries, strict=True)
        lengths = {cond.shape[1] for cond in conds}
        if len(lengths) > 1:
            raise ValueError(
                f"This text encoder gives the story's prompts {min(lengths)} to {max(lengths)} tokens, which cannot "
                "share a batch; one whose prompts can be padded is expected."
            )
        if any("t5xxl_ids" in extra for extra in extras):
            raise ValueError(
                "Anima's text encoder hands its model the token ids of one prompt, so prompts cannot share a batch. "
                "Encode frames one by one, or use another model for stories."
            )
        whole = {"attention_mask": torch.ones(1, *lengths, dtype=torch.long)}
        keys = dict.fromkeys(key for extra in extras for key in extra)
        values = {key: [extra.get(key, whole.get(key)) for extra in extras] for key in keys}
        stacked.append([torch.cat(conds), {key: _stack_value(rows) for key, rows in values.items()}])
    return stacked


def _stack_value(values: list):
    return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
