"""Scores of a story's frames, by which some are drawn again, and which of a frame's tries is kept.

A try that is drawn is an image in the folder like any other, and its score is in the index. A score is computed from
files alone, one image at a time. So whenever a run ends, the next one finds every try that was finished, and decides as
it would have.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.attention.sharing import Cast
from ...core.inputs import check_finite
from ...core.metrics.similarity import mean_cosine
from ...core.story.retakes import next_try
from ..attention.regions import REGIONS, Regions
from ..common.run_folder import name_of
from ..metrics import features
from .drawn_frames import FrameFolder, Index
from .frame_plan import LENGTH, FramePlan, Try

GRAY = 0.5  # outside of a subject


class FrameScores:
    """How alike a frame and the anchor frames of its characters are, as Measure Story computes it for a frame.

    encoder_key: stands for clip_vision. model: may have regions of characters; then only these are compared.
    """

    def __init__(
        self, folder: FrameFolder, plan: FramePlan, cast: Cast, clip_vision, encoder_key: str, threshold: float, model
    ):
        self.folder, self.plan, self.cast = folder, plan, cast
        self.clip_vision, self.encoder_key, self.threshold = clip_vision, encoder_key, threshold
        self.regions: Regions = model.model_options["transformer_options"].get(REGIONS, Regions({}))
        self._embedded: dict[tuple[str, frozenset[str]], Tensor] = {}

    @property
    def encoder(self) -> str:
        """What to call it in a report."""
        return features.name_of(self.clip_vision)

    def covers(self, number: int) -> bool:
        """Whether a frame is scored."""
        return len(self.plan.tries[number]) > 1

    def of(self, number: int, index: Index) -> list[float | None]:
        """The scores of a frame's tries, None where there is none yet."""
        return [index.scores.get(self._key(one)) for one in self.plan.tries[number]]

    def next(self, number: int, index: Index) -> tuple[Try, bool]:
        """The try of a frame that comes next, and whether it is the one that is kept."""
        place, kept = next_try(self.of(number, index), self.threshold)
        return self.plan.tries[number][place], kept

    def is_finished(self, number: int, index: Index) -> bool:
        """Whether it is known which try of a frame is kept, and its image is on disk."""
        one, kept = self.next(number, index)
        return kept and one.key in index.images

    def settle(self, numbers: Sequence[int]) -> tuple[Index, dict[int, Try]]:
        """Score what is on disk of these frames: the index, and {frame: the try that has to be drawn next}."""
        index, missing = self.folder.read(), {}
        known = len(index.scores)
        for number in numbers:
            one, kept = self.next(number, index)
            while one.key in index.images and not kept:
                index.scores[self._key(one)] = self._compute(number, one, index)
                one, kept = self.next(number, index)
            if one.key not in index.images:
                missing[number] = one
        if len(index.scores) > known:
            self.folder.add({}, {}, scores=index.scores)
        return index, missing

    def _key(self, one: Try) -> str:
        """Of a score: the key of a try covers the anchor frames that the frame is compared with."""
        return name_of([one.key, self.encoder_key])[:LENGTH]

    def _compute(self, number: int, one: Try, index: Index) -> float:
        pairs = []
        for anchor in self.plan.anchors_of(number, self.cast):
            names = self.cast[number] & self.cast[anchor]
            pairs.append([self._embed(key, names, index) for key in (one.key, self.plan.keys[anchor])])
        images, anchors = zip(*pairs, strict=True)
        return mean_cosine(torch.cat(images), torch.cat(anchors))

    def _embed(self, key: str, names: frozenset[str], index: Index) -> Tensor:
        """[1, d] of an image, or of the region of some characters in it."""
        masks = [self.regions.masks[name] for name in sorted(names & self.regions.masks.keys())]
        masks = [mask for mask in masks if len(mask) == 1]  # for all images
        names = names if len(masks) == len(names) else frozenset()
        if (key, names) not in self._embedded:
            image = self.folder.read_images([index.images[key]])
            if names:
                mask = torch.stack([subject(mask, image) for mask in masks]).amax(0)
                image = image * mask + GRAY * (1 - mask)
            embedded = features.embed_images(self.clip_vision, image)
            check_finite("the embedding by clip_vision", embedded, "image")  # no index holds such a score
            self._embedded[key, names] = embedded
        return self._embedded[key, names]


def subject(mask: Tensor, image: Tensor) -> Tensor:
    """A mask [1, H, W] as [1, h, w, 1], for an image [1, h, w, 3]."""
    resized = F.interpolate(mask[None].float().cpu(), image.shape[1:3], mode="bilinear", align_corners=False)
    return resized[0].unsqueeze(-1)
