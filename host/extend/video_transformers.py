"""How the host's own video transformers continue a clip: from the last frames, by what the host's node for each model
sets.

Their latents have a time axis: the first latent frame is one frame, each other one is `step` frames.
"""

from typing import Any, cast

import comfy_extras.nodes_hunyuan as nodes_hunyuan
import comfy_extras.nodes_lt as nodes_lt
import comfy_extras.nodes_wan as nodes_wan
import torch
from comfy_api.latest import io
from torch import Tensor

from ..common.wan import IMAGE_TO_VIDEO_BOUNDARY, VACE_BOUNDARY, reads_clip_vision
from .extender import ChunkInputs, Extender


def call(node: type[io.ComfyNode], *args, **inputs) -> tuple:
    """The outputs of a node of the host."""
    return cast(Any, node).execute(*args, **inputs).result


class VideoTransformerExtender(Extender):
    """step: frames for each latent frame after the first."""

    step = 4
    multiple = 16

    def __init__(self, inputs: ChunkInputs):
        super().__init__(inputs)
        for name, count in (("chunk_length", self.chunk_length), ("overlap", self.overlap)):
            if count % self.step != 1:
                raise ValueError(
                    f"{name} is {count}; {self.model_name} needs a multiple of {self.step} plus 1: "
                    f"{count - (count - 1) % self.step} or {count + -(count - 1) % self.step} is expected."
                )

    def needs_vision(self):
        return False

    def size(self, before: Tensor) -> dict:
        """The host's inputs for a chunk of the size of frames [T, H, W, 3]."""
        return {"width": before.shape[2], "height": before.shape[1], "length": self.chunk_length, "batch_size": 1}

    def embeds(self, before: Tensor) -> dict:
        """What a model with an image encoder reads of the first given frame, as an input of the host's nodes."""
        return {"clip_vision_output": self.vision().encode_image(before[:1])} if self.needs_vision() else {}


class WanExtender(VideoTransformerExtender):
    """Wan image-to-video, from one or more of the last frames. Wan 2.2 14B has two experts."""

    model_name = "Wan image-to-video"
    trained_length, trained_overlap = 81, 1
    boundary = IMAGE_TO_VIDEO_BOUNDARY

    def needs_vision(self):
        return reads_clip_vision(self.inputs.model.model)

    def prepare(self, number, before, anchor, seed):
        return call(
            nodes_wan.WanImageToVideo,
            *self.prompts(number),
            self.inputs.vae,
            start_image=before,
            **self.size(before),
            **self.embeds(before),
        )


class WanVACEExtender(VideoTransformerExtender):
    """Wan VACE: the last frames are given frames of its control video, reference_image is its reference."""

    model_name = "Wan VACE"
    trained_length, trained_overlap = 81, 17  # a second of 16 frames, so that motion goes on
    boundary = VACE_BOUNDARY

    def uses_anchor(self):
        return self.inputs.reference_image is not None

    def why_no_anchor(self):
        return f"{self.model_name} reads reference_image, which is not connected"

    def prepare(self, number, before, anchor, seed):
        masks = torch.ones(self.chunk_length, *before.shape[1:3])
        masks[: self.overlap] = 0
        positive, negative, latent, _ = call(
            nodes_wan.WanVaceToVideo,
            *self.prompts(number),
            self.inputs.vae,
            strength=1.0,
            control_video=before,
            control_masks=masks,
            reference_image=anchor if self.uses_anchor() else None,
            **self.size(before),
        )
        return positive, negative, latent

    def crop(self, samples):
        return samples[:, :, 1:] if self.uses_anchor() else samples


class LTXExtender(VideoTransformerExtender):
    """LTX-Video: the last frames are a guide at frame 0, whose latents stand behind those of the chunk."""

    model_name = "LTX-Video"
    trained_length, trained_overlap = 121, 25  # a second of 25 frames
    step, multiple = 8, 32
    reads_frame_rate = True

    def prepare(self, number, before, anchor, seed):
        rate = {"frame_rate": self.inputs.frame_rate}  # of the prompts, if LTXVConditioning has set theirs
        positive, negative = ([[text, rate | extras] for text, extras in row] for row in self.prompts(number))
        (latent,) = call(nodes_lt.EmptyLTXVLatentVideo, **self.size(before))
        return call(
            nodes_lt.LTXVAddGuide, positive, negative, self.inputs.vae, latent, before, frame_idx=0, strength=1.0
        )

    def crop(self, samples):
        return samples[:, :, : (self.chunk_length - 1) // self.step + 1]


class LTX2Extender(LTXExtender):
    """LTX-2, which samples video alone where it gets no latent of sound."""

    model_name = "LTX-2"

    def describe_ignored(self, anchor):
        return [*super().describe_ignored(anchor), "LTX-2 adds no sound here: chunks are sampled without it."]


class HunyuanExtender(VideoTransformerExtender):
    """HunyuanVideo 1.5 image-to-video, from one or more of the last frames."""

    model_name = "HunyuanVideo 1.5"
    trained_length, trained_overlap = 121, 1

    def needs_vision(self):
        return self.inputs.model.model.diffusion_model.vision_in is not None

    def prepare(self, number, before, anchor, seed):
        return call(
            nodes_hunyuan.HunyuanVideo15ImageToVideo,
            *self.prompts(number),
            self.inputs.vae,
            start_image=before,
            **self.size(before),
            **self.embeds(before),
        )
