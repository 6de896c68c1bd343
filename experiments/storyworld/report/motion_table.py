"""The tables of semantic motion: which rows there are, and how documents show them."""

from __future__ import annotations

from collections.abc import Mapping

from ..evaluate import motion_tokens
from ..evaluate.motion import DRAWN, DYNAMICRAFTER, INTERPOLATED, PREDICTED, TRUE
from .table import markdown, share

TOKENS = {motion_tokens.DRAWN: 200, motion_tokens.REAL: 0, motion_tokens.LEARNT: 0}  # clips; 0: all that there are
DECODERS = ("", "-text", "-single")
DECODED = {DRAWN: 24} | {f"{whose}{decoder}": 24 for decoder in DECODERS for whose in (INTERPOLATED, PREDICTED, TRUE)}
DECODED |= {f"{whose}-{DYNAMICRAFTER}": 24 for whose in (INTERPOLATED, TRUE)}
WANTED = TOKENS | DECODED
COLUMNS = ("path", "pose", "action", "seen", "every")
LIKENESS = ("patches_first", "patches_frames", "clip_first", "clip_frames")
ERRORS = ("clips", "error, predicted", "error, interpolated", "gain", "cosine, predicted", "cosine, interpolated")


def tokens_table(rows: Mapping[str, dict]) -> list[str]:
    return _table(rows, TOKENS, ERRORS, told)


def decoded_table(rows: Mapping[str, dict]) -> list[str]:
    return _table(rows, DECODED, COLUMNS, lambda row: [share(row, column) for column in COLUMNS])


def likeness_table(rows: Mapping[str, dict]) -> list[str]:
    return _table(rows, DECODED, LIKENESS, lambda row: [share(row, column) for column in LIKENESS])


def told(row: dict) -> list[str]:
    """The cells of a row of tokens: squared errors, and the gain with its 95 % interval."""
    gain = f"{row['gain']:.1%} ({row['gain_low']:.1%} to {row['gain_high']:.1%})"
    cosines = [f"{row[name]:.4f}" for name in ("cosine", "cosine_interpolation")]
    return [str(row["stories"]), f"{row['mse']:.4g}", f"{row['mse_interpolation']:.4g}", gain, *cosines]


def line(row: dict) -> str:
    """A row in words."""
    tokens = row["setting"] in TOKENS
    names = ERRORS if tokens else (*COLUMNS, *LIKENESS)
    cells = told(row) if tokens else [share(row, column) for column in names]
    return f"{row['setting']}: " + "; ".join(f"{name} {cell}" for name, cell in zip(names, cells, strict=True))


def _table(rows: Mapping[str, dict], settings: Mapping[str, int], columns: tuple[str, ...], cells) -> list[str]:
    return markdown(["setting", *columns], [[name, *cells(rows[name])] for name in settings if name in rows])
