"""How alike a video stays, and how well it fits its prompt and its anchor, in the eyes of an image encoder.

Cosines of frames' embeddings: of each frame and the next (frame consistency), of each frame and the prompt (CLIP
text-image score), of each frame and the anchor. The last is PIC, perceptual input conformity (DynamiCrafter, arXiv
2310.12190, section 4), the mean over frames of 1 - D(anchor, frame), with the encoder's cosine distance in the place
of DreamSim's.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .watching import Watcher, mean

AT_ONCE = 8  # frames an encoder sees in one go


class Likeness(Watcher):
    """embed: [B, H, W, 3] -> [B, d]. anchor, prompt: [d], or no prompt."""

    name = "likeness"

    def __init__(self, embed: Callable[[Tensor], Tensor], encoder: str, anchor: Tensor, prompt: Tensor | None = None):
        super().__init__("consistency", "anchor_likeness", "prompt_likeness")
        self.encoder = encoder
        self._embed, self._anchor, self._prompt = embed, anchor, prompt
        self._waiting: list[Tensor] = []
        self._before: Tensor | None = None

    def see(self, frame: Tensor) -> None:
        self._waiting.append(frame)
        if len(self._waiting) == AT_ONCE:
            self._look()

    def _look(self) -> None:
        for row in self._embed(torch.stack(self._waiting)):
            self.note(
                consistency=None if self._before is None else cosine(self._before, row),
                anchor_likeness=cosine(self._anchor, row),
                prompt_likeness=None if self._prompt is None else cosine(self._prompt, row),
            )
            self._before = row
        self._waiting = []

    def figures(self) -> dict:
        if self._waiting:
            self._look()
        return {"encoder": self.encoder} | {name: mean(values) for name, values in self.series.items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return cosine_similarity(a.double(), b.double(), dim=-1).item()
