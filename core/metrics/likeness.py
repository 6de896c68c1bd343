"""How alike a video stays, and how well it fits its prompt and its anchor, in the eyes of an image encoder.

Cosines of frames' embeddings: of each frame and the next (frame consistency), of each frame and the prompt (CLIP
text-image score), of each frame and the anchor. The last is PIC, perceptual input conformity (DynamiCrafter, arXiv
2310.12190, section 4), the mean over frames of 1 - D(anchor, frame), with the encoder's cosine distance in the place
of DreamSim's. And what a head makes of the same embeddings: the aesthetic score (see aesthetics).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .aesthetics import AestheticHead
from .metric import Metric, mean

AT_ONCE = 8  # frames an encoder sees in one go


class Likeness(Metric):
    """embed: [B, H, W, 3] -> [B, d]. anchor, prompt: [d], or no prompt. head: of the encoder, or none."""

    name = "likeness"

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        encoder: str,
        anchor: Tensor,
        prompt: Tensor | None = None,
        head: AestheticHead | None = None,
    ):
        super().__init__("consistency", "anchor_likeness", "prompt_likeness", *(["aesthetic"] if head else []))
        self.encoder, self._head = encoder, head
        self._embed, self._anchor, self._prompt = embed, anchor, prompt
        self._waiting: list[Tensor] = []
        self._before: Tensor | None = None

    def update(self, frame: Tensor) -> None:
        self._waiting.append(frame)
        if len(self._waiting) == AT_ONCE:
            self._look()

    def _look(self) -> None:
        rows = self._embed(torch.stack(self._waiting))
        for score in self._head(rows).tolist() if self._head else ():
            self.record(aesthetic=score)
        for row in rows:
            self.record(
                consistency=None if self._before is None else cosine(self._before, row),
                anchor_likeness=cosine(self._anchor, row),
                prompt_likeness=None if self._prompt is None else cosine(self._prompt, row),
            )
            self._before = row
        self._waiting = []

    def results(self) -> dict:
        if self._waiting:
            self._look()
        by = {"encoder": self.encoder} | ({"aesthetic_by": self._head.name} if self._head else {})
        return by | {name: mean(values) for name, values in self.per_frame.items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return cosine_similarity(a.double(), b.double(), dim=-1).item()
