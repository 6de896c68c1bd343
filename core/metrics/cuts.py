"""SCuts: how often a video breaks off (StreamingT2V, arXiv 2403.14773, section 5.1).

The number of cuts that PySceneDetect's AdaptiveDetector finds with its default parameters. Here it is handed one frame
after the other, as small as its own SceneManager would make them.
"""

import torch
from torch import Tensor

from .metric import Metric

RATE = 25.0  # frames a second: the detector's default limits are counted in frames, so any will do


def import_scenedetect():
    """(cv2, scenedetect, its function for the size of frames). Raises ImportError if no PySceneDetect works."""
    try:
        import cv2
        import scenedetect
        from scenedetect.scene_manager import compute_downscale_factor
    except ImportError as error:
        raise ImportError(
            f"PySceneDetect cannot be imported ({error}): pip install scenedetect-headless, with ComfyUI's Python."
        ) from None
    return cv2, scenedetect, compute_downscale_factor


class Cuts(Metric):
    """Counts cuts. Raises as `import_scenedetect`."""

    name = "cuts"

    def __init__(self):
        cv2, scenedetect, compute_downscale_factor = import_scenedetect()
        super().__init__()
        self.version = scenedetect.__version__
        self.found: list[int] = []
        self._detector = scenedetect.AdaptiveDetector()
        self._time = scenedetect.FrameTimecode
        self._factor, self._resize = compute_downscale_factor, cv2.resize
        self._count = 0

    def update(self, frame: Tensor) -> None:
        picture = (frame.flip(-1) * 255).round().to(torch.uint8).contiguous().numpy()  # blue first
        height, width = picture.shape[:2]
        factor = self._factor(max(width, height))
        if factor > 1:
            picture = self._resize(picture, (max(1, round(width / factor)), max(1, round(height / factor))))
        self.found += map(int, self._detector.process_frame(self._time(self._count, RATE), picture))
        self._count += 1

    def results(self) -> dict:
        return {
            "by": f"PySceneDetect {self.version}, AdaptiveDetector with default parameters",
            "scuts": len(self.found),
            "at": self.found,
        }
