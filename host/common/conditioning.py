"""Text encoding of a whole story: one prompt a frame, in one batched CONDITIONING."""

import comfy.model_management
import comfy.utils
import torch

from .frame_rows import mark_rows, without_frames


def encode_story(clip, prompts, negative: str) -> tuple[list, list]:
    """Encode `prompts`, one row each, and `negative` in as many equal rows, with the host's own CLIP.

    Every row is padded with empty chunks to the longest of all, so positive and negative have one length: tensors are
    [F, 77k, C], pooled outputs [F, C]. A row without padding is what the host's CLIPTextEncode gives for its prompt.
    Hooks and schedules of `clip` apply: as many entries come back as the schedule has. Where fewer images are sampled
    than there are prompts, rows follow the frames, see `frames`.

    Raises ValueError if there is no text encoder, or if it gives prompts lengths that cannot share a batch.
    """
    if clip is None:
        raise ValueError(
            "The clip input is empty: the checkpoint holds no text encoder. Load one with CLIPLoader or DualCLIPLoader."
        )
    tokens = [clip.tokenize(text) for text in (*prompts, negative)]
    _pad_chunks(tokens, clip.tokenize(""))

    progress = comfy.utils.ProgressBar(len(tokens))
    encoded = []
    for row in tokens:
        comfy.model_management.throw_exception_if_processing_interrupted()
        encoded.append(clip.encode_from_tokens_scheduled(row, show_pbar=False))
        progress.update(1)
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


def _pad_chunks(tokens: list[dict], empty: dict) -> None:
    """Give all `tokens` as many chunks as the longest has, per encoder; one without chunks has one and keeps it."""
    for encoder, blank in empty.items():
        longest = max(len(row[encoder]) for row in tokens)
        for row in tokens:
            row[encoder] = row[encoder] + blank * (longest - len(row[encoder]))


def _stack(rows: list[list]) -> list:
    """One CONDITIONING from one a row: entry by entry of the schedule, tensors along the batch, the rest as it is."""
    stacked = []
    for entries in zip(*rows, strict=True):
        conds = [cond for cond, _ in entries]
        lengths = {cond.shape[1] for cond in conds}
        if len(lengths) > 1:
            raise ValueError(
                f"This text encoder gives the story's prompts {min(lengths)} to {max(lengths)} tokens, which cannot "
                "share a batch; one that works in chunks of 77 (SD1.5, SD2, SDXL) is expected."
            )
        extras = {key: _stack_value([extra[key] for _, extra in entries]) for key in entries[0][1]}
        stacked.append([torch.cat(conds), extras])
    return stacked


def _stack_value(values: list):
    return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
