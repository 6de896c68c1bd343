"""How similar the frames of a clip are: the four results of StoryDiffusion's table of videos (arXiv 2405.01434), in
their form, by features of Storyworld's image tower in the place of LPIPS's network and of CLIP.

Results by other features cannot be compared with these: the columns say whose they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def frame_similarity(clip_vision, frames: Tensor) -> dict[str, float]:
    """Of an IMAGE [T, H, W, 3], each frame but the first with the first one and with the one before, means over them.

    clip_first, clip_frames: cosines of embeddings (CLIPSIM's form). patches_first, patches_frames: squared distances of
    patches' features of length 1, means over places (the form of LPIPS, arXiv 1801.03924, equation 1, of one layer and
    without learned weights).
    """
    seen = clip_vision.encode_image(frames)
    embeds = F.normalize(seen["image_embeds"].float(), dim=-1)
    patches = F.normalize(seen["penultimate_hidden_states"][:, 1:].float(), dim=-1)
    results = {}
    for name, of in (("first", slice(0, 1)), ("frames", slice(0, -1))):
        results[f"clip_{name}"] = (embeds[1:] * embeds[of]).sum(-1).mean().item()
        results[f"patches_{name}"] = (patches[1:] - patches[of]).square().sum(-1).mean().item()
    return results
