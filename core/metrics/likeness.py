"""How alike a video stays, and how well it fits its prompt and its anchor, by the embeddings of an image encoder.

Cosines of frames' embeddings: of each frame and the next (frame consistency), of each frame and the prompt (CLIP
text-image score), of each frame and the anchor. The last is PIC, perceptual input conformity (DynamiCrafter, arXiv
2310.12190, section 4), the mean over frames of 1 - D(anchor, frame), with the encoder's cosine distance in the place
of DreamSim's. And what a head makes of the same embeddings: the aesthetic score (see aesthetics).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .aesthetics import AestheticHead
from .metric import Metric, mean

AT_ONCE = 8  # frames an encoder sees in one go
COSINES = "consistency", "anchor_likeness", "prompt_likeness"  # always in the results


@dataclass(frozen=True)
class EmbeddingScore:
    """A number for each frame from its embedding.

    series: name of the numbers in a report. score: from the embeddings [B, d] of frames and that of the frame before
    them, None at the start of the video. by: what computes it, if it is more than a cosine.
    """

    series: str
    score: Callable[[Tensor, Tensor | None], Sequence[float | None]]
    by: str | None = None


def consistency() -> EmbeddingScore:
    def score(rows: Tensor, before: Tensor | None) -> list[float | None]:
        pairs = zip([before, *rows[:-1]], rows, strict=True)
        return [None if earlier is None else cosine(earlier, row) for earlier, row in pairs]

    return EmbeddingScore("consistency", score)


def likeness_to(series: str, target: Tensor) -> EmbeddingScore:
    """target: embedding [d] of the anchor or the prompt."""
    return EmbeddingScore(series, lambda rows, _before: [cosine(target, row) for row in rows])


def aesthetic(head: AestheticHead) -> EmbeddingScore:
    return EmbeddingScore("aesthetic", lambda rows, _before: head(rows).tolist(), head.name)


class Likeness(Metric):
    """embed: [B, H, W, 3] -> [B, d]. encoder: its name. Cosines without a score are None."""

    name = "likeness"

    def __init__(self, embed: Callable[[Tensor], Tensor], encoder: str, scores: Sequence[EmbeddingScore]):
        super().__init__(*dict.fromkeys((*COSINES, *(score.series for score in scores))))
        self.encoder, self._scores, self._embed = encoder, scores, embed
        self._waiting: list[Tensor] = []
        self._before: Tensor | None = None

    def update(self, frame: Tensor) -> None:
        self._waiting.append(frame)
        if len(self._waiting) == AT_ONCE:
            self._score()

    def _score(self) -> None:
        rows = self._embed(torch.stack(self._waiting))
        values = dict.fromkeys(self.per_frame, [None] * len(rows))
        values |= {score.series: score.score(rows, self._before) for score in self._scores}
        for row in zip(*values.values(), strict=True):
            self.record(**dict(zip(values, row, strict=True)))
        self._before, self._waiting = rows[-1], []

    def results(self) -> dict:
        if self._waiting:
            self._score()
        by = {f"{score.series}_by": score.by for score in self._scores if score.by}
        return {"encoder": self.encoder} | by | {name: mean(values) for name, values in self.per_frame.items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return cosine_similarity(a.double(), b.double(), dim=-1).item()
