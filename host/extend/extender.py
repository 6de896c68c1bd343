"""Generates one chunk of a long video; `families` has a subclass for each model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..common.conditioning import pick_row
from ..common.wan import expert_switch


@dataclass(frozen=True)
class ChunkInputs:
    """The inputs of Extend Video from which chunks are generated. chunk_length, overlap: in frames; 0: the model's.
    switch_step: where low_noise_model continues; 0: at the model's `boundary`. frame_rate: of the clip."""

    model: ModelPatcher
    vae: Any  # comfy.sd.VAE; None is refused, see `Extender.check_parts`
    sampler: comfy.samplers.Sampler
    sigmas: Tensor
    seed: int
    positive: list | None = None
    negative: list | None = None
    clip_vision: Any = None
    cfg: float = 7.5
    chunk_length: int = 0
    overlap: int = 0
    cam_strength: float = 1.0
    apm_strength: float = 1.0
    reference_image: Tensor | None = None
    low_noise_model: ModelPatcher | None = None
    switch_step: int = 0
    frame_rate: float = 8.0


class Extender:
    """Generates chunks with one family of models. Subclasses build the conditioning and the empty latent.

    trained_length, trained_overlap: frames of a chunk as published, and how many of them repeat those before.
    max_overlap: None: no limit. multiple: of the sides of a frame.
    text_tokens: how many of a prompt the model reads; 0: none, None: all.
    strengths: the strength inputs that have an effect.
    boundary: of a model that may have two experts, the sigma below which the second one was trained.
    reads_frame_rate: whether chunks depend on the clip's frame rate.

    Raises ValueError for a chunk_length or overlap that the model does not support.
    """

    model_name = ""
    trained_length, trained_overlap = 16, 1
    max_overlap: int | None = None
    multiple = 8
    text_tokens: int | None = None
    needs_image = "reads an image through its image encoder"
    strengths: tuple[str, ...] = ()
    boundary: float | None = None
    reads_frame_rate = False

    def __init__(self, inputs: ChunkInputs):
        self.inputs = inputs
        self.chunk_length = inputs.chunk_length or self.trained_length
        self.overlap = inputs.overlap or self.trained_overlap
        if self.max_overlap is not None and self.overlap > self.max_overlap:
            raise ValueError(
                f"overlap is {self.overlap}, but {self.model_name} continues from {self.max_overlap} frame. "
                f"Set overlap to {self.max_overlap}, or to 0 for the model's default."
            )
        if self.overlap >= self.chunk_length:
            raise ValueError(
                f"chunk_length is {self.chunk_length} and overlap {self.overlap}, so chunks have no new "
                "frames. Set a smaller overlap."
            )

    def check_parts(self) -> None:
        """Raise ValueError for an input that the model needs and that is empty."""
        if self.inputs.vae is None:
            raise ValueError(f"vae is empty. Load the VAE of {self.model_name} if the checkpoint has none.")
        if self.text_tokens != 0:
            self.prompts(0)
        if self.needs_vision():
            self.vision()
        self.experts()

    def experts(self) -> list[tuple[ModelPatcher, Tensor]]:
        """The models that sample a chunk one after the other, each with its sigmas. Raises ValueError for a
        switch_step that leaves one of two without a step."""
        inputs = self.inputs
        if inputs.low_noise_model is None or self.boundary is None:
            return [(inputs.model, inputs.sigmas)]
        switch = expert_switch(inputs.sigmas, inputs.switch_step, self.boundary)
        return [(inputs.model, inputs.sigmas[: switch + 1]), (inputs.low_noise_model, inputs.sigmas[switch:])]

    def uses_anchor(self) -> bool:
        """Whether chunks depend on the anchor."""
        return False

    def describe_ignored(self, anchor: bool) -> list[str]:
        """Messages on inputs that have no effect on this model. anchor: whether one is set and color_match is 0."""
        ignored = [name for name in ("cam_strength", "apm_strength") if getattr(self.inputs, name) != 1]
        described = [f"{name} has no effect on {self.model_name}." for name in ignored if name not in self.strengths]
        if self.inputs.low_noise_model is not None and self.boundary is None:
            described.append(f"low_noise_model has no effect: {self.model_name} is one model.")
        elif self.inputs.switch_step and self.inputs.low_noise_model is None:
            described.append("switch_step has no effect without low_noise_model.")
        if anchor and not self.uses_anchor():
            described.append(
                f"anchor and reference_image have no effect: {self.why_no_anchor()}, and color_match is 0."
            )
        return described

    def why_no_anchor(self) -> str:
        return "apm_strength is 0" if "apm_strength" in self.strengths else f"{self.model_name} reads no anchor"

    def check_size(self, width: int, height: int) -> None:
        """Raise ValueError for frames of a size that the model does not support."""
        if width % self.multiple or height % self.multiple:
            raise ValueError(
                f"frames are {width} x {height} pixels; {self.model_name} needs sides that are multiples of "
                f"{self.multiple}. Resize the clip first, with Upscale Image."
            )

    def generate(self, number: int, before: Tensor, anchor: Tensor, callback: Callable | None = None) -> Tensor:
        """Frames of chunk `number`, counted from 0: [chunk_length, H, W, 3]; the first `overlap` repeat
        `before`.

        before: [overlap, H, W, 3]. anchor: [N, H', W', 3]. callback: the sampler's, see `comfy.samplers`.
        """
        seed = (self.inputs.seed + 1 + number) % 2**64
        samples = self.sample(*self.prepare(number, before, anchor, seed), seed, callback)
        frames = self.decode(self.crop(samples), number, before, anchor)
        return frames[..., :3].float().cpu().contiguous()  # contiguous as from a file: other strides round differently

    def sample(self, positive: list, negative: list, latent: dict, seed: int, callback: Callable | None) -> Tensor:
        """The chunk's samples. Of two experts, the second continues with the noise that the first one leaves."""
        samples = latent["samples"]
        noise, begin = cast(Tensor, comfy.sample.prepare_noise(samples, seed)), 0
        for model, sigmas in self.experts():
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(positive, negative)
            guider.set_cfg(self.inputs.cfg)
            samples = guider.sample(
                noise,
                samples,
                self.inputs.sampler,
                sigmas,
                denoise_mask=latent.get("noise_mask"),
                callback=callback and self._counted(callback, begin),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            ).to(comfy.model_management.intermediate_device())
            noise, begin = torch.zeros_like(noise), begin + len(sigmas) - 1
        return samples

    def _counted(self, callback: Callable, begin: int) -> Callable:
        """A callback of one expert's steps that counts those of all; begin: steps before its own."""
        steps = len(self.inputs.sigmas) - 1
        return lambda step, denoised, x, _steps: callback(begin + step, self.crop(denoised), x, steps)

    def prepare(self, number: int, before: Tensor, anchor: Tensor, seed: int) -> tuple[list, list, dict]:
        """(positive, negative, LATENT) of a chunk."""
        positive, negative = self.condition(number, before, anchor, seed)
        return positive, negative, {"samples": self.empty(*before.shape[1:3])}

    def condition(self, number: int, before: Tensor, anchor: Tensor, seed: int) -> tuple[list, list]:
        """(positive, negative) of a chunk."""
        raise NotImplementedError

    def empty(self, height: int, width: int) -> Tensor:
        return torch.zeros(self.chunk_length, self.inputs.vae.latent_channels, height // 8, width // 8)

    def crop(self, samples: Tensor) -> Tensor:
        """The samples of the chunk's frames, without those of an image that the model has beside them."""
        return samples

    def decode(self, samples: Tensor, number: int, before: Tensor, anchor: Tensor) -> Tensor:
        frames = self.inputs.vae.decode(samples)
        return frames.flatten(0, -4)

    def needs_vision(self) -> bool:
        """Whether the model needs an image encoder."""
        return True

    def read(self, row: list) -> list:
        """What the model reads of a chunk's prompt; it is part of the chunk's name."""
        return [[text[:, : self.text_tokens], extras] for text, extras in row]

    def prompts(self, number: int) -> tuple[list, list]:
        """(positive, negative) of one chunk. Raises ValueError for an empty input."""
        rows = []
        for name in ("positive", "negative"):
            conditioning = getattr(self.inputs, name)
            if conditioning is None:
                raise ValueError(f"{name} is empty; {self.model_name} needs a prompt.")
            rows.append(pick_row(conditioning, number))
        return rows[0], rows[1]

    def vision(self):
        """The image encoder. Raises ValueError if the input is empty."""
        if self.inputs.clip_vision is None:
            raise ValueError(f"clip_vision is empty; {self.model_name} {self.needs_image}.")
        return self.inputs.clip_vision
