"""Re-identification: whether faces stay the same from frame to frame (StreamingT2V, arXiv 2403.14773, ablations).

Of each frame and the one before, the greatest cosine of FaceNet's features over all pairs of their faces; the mean over
those where both have a face. What finds faces and what tells them apart is handed in.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .metric import Metric, mean


class Reidentification(Metric):
    """find: a frame [H, W, 3] from 0 to 1 -> its N faces. embed: N faces, one or more -> [N, d]. called: by whom.

    Series: face_likeness, a cosine, None where a frame or the one before has no face; faces, how many there are.
    """

    name = "faces"

    def __init__(self, find: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor], called: str):
        super().__init__("face_likeness", "faces")
        self.called = called
        self._find, self._embed = find, embed
        self._before: Tensor | None = None

    def update(self, frame: Tensor) -> None:
        faces = self._find(frame)
        rows = normalize(self._embed(faces).double(), dim=-1) if len(faces) else None
        before, self._before = self._before, rows
        likeness = None if before is None or rows is None else (before @ rows.T).max().item()
        self.record(face_likeness=likeness, faces=len(faces))

    def results(self) -> dict:
        cosines = self.per_frame["face_likeness"]
        likeness = mean(cosines)
        return {
            "by": self.called,
            "reidentification": None if likeness is None else 100 * likeness,
            "pairs": sum(cosine is not None for cosine in cosines),
            "frames_with_faces": int(torch.tensor(self.per_frame["faces"]).count_nonzero()),
        }
