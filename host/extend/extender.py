"""One chunk of a long video: sampled by the host, decoded, and with its own noise.

How far a model looks back, and what it sees of it, is a matter of its kind: see `extend_models`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..common.conditioning import pick_row

NODE = "Extend Video"


@dataclass(frozen=True)
class Told:
    """The inputs of Extend Video that make a chunk. length, overlap: in frames; 0 is the model's own."""

    model: ModelPatcher
    vae: object
    sampler: comfy.samplers.Sampler
    sigmas: Tensor
    seed: int
    positive: list | None = None
    negative: list | None = None
    clip_vision: object = None
    cfg: float = 7.5
    length: int = 0
    overlap: int = 0
    cam_strength: float = 1.0
    apm_strength: float = 1.0


class Extender:
    """Makes chunks by one kind of model. Subclasses say what the model is told and what its latent is.

    frames, memory: of a chunk as trained or published, and how many of them stand for those before.
    most: of those before, that the model can be shown; None: any number.
    text_tokens: how many of a prompt the model reads; 0: it reads none. None: all.

    Raises ValueError for lengths that the model cannot make.
    """

    model_name = ""
    frames, memory = 16, 1
    most: int | None = None
    multiple = 8  # of the sides of a picture
    text_tokens: int | None = None
    needs_image = "looks at a picture by its image encoder"
    strengths: tuple[str, ...] = ()  # of the memories that the model has

    def __init__(self, told: Told):
        self.told = told
        self.length, self.overlap = told.length or self.frames, told.overlap or self.memory
        if self.most is not None and self.overlap > self.most:
            raise ValueError(
                f"{NODE}: overlap is {self.overlap}, and {self.model_name} continues from {self.most} frame. Set overlap "
                f"to {self.most}, or to 0 for the model's default."
            )
        if self.overlap >= self.length:
            raise ValueError(
                f"{NODE}: chunks of {self.length} frames that begin with {self.overlap} of those before have nothing "
                "new; a smaller overlap is expected."
            )

    def check_parts(self) -> None:
        """Raise ValueError for an input that the model needs and that is empty."""
        if self.told.vae is None:
            raise ValueError(f"{NODE}: vae is empty. Load the VAE of {self.model_name} if the checkpoint has none.")
        if self.text_tokens != 0:
            self.prompts(0)
        if self.looks():
            self.vision()

    def uses_anchor(self) -> bool:
        """Whether chunks are made by the anchor's picture."""
        return False

    def describe_ignored(self, anchor: bool) -> list[str]:
        """What was set and has no effect on this model. anchor: whether one was chosen, and colors are not matched."""
        told = self.told
        ignored = [name for name in ("cam_strength", "apm_strength") if getattr(told, name) != 1]
        described = [
            f"{NODE}: {name} has no effect: {self.model_name} has no such memory."
            for name in ignored
            if name not in self.strengths
        ]
        if anchor and not self.uses_anchor():
            why = "apm_strength is 0" if "apm_strength" in self.strengths else f"{self.model_name} looks at no anchor"
            described.append(f"{NODE}: anchor and reference_image have no effect: {why}, and color_match is 0.")
        return described

    def check_size(self, width: int, height: int) -> None:
        """Raise ValueError for frames that the model cannot make."""
        if width % self.multiple or height % self.multiple:
            raise ValueError(
                f"{NODE}: frames are {width} x {height} pixels; {self.model_name} makes sides that are multiples of "
                f"{self.multiple}. Bring the clip to such a size first, with Upscale Image."
            )

    def make(self, number: int, before: Tensor, anchor: Tensor, callback: Callable | None = None) -> Tensor:
        """Frames of chunk `number`, counted from 0: [length, H, W, 3], of which the first `overlap` stand for `before`.

        before: [overlap, H, W, 3]. anchor: [N, H', W', 3]. callback: of the sampler, see `comfy.samplers`.
        """
        told, seed = self.told, (self.told.seed + 1 + number) % 2**64
        positive, negative = self.condition(number, before, anchor, seed)
        latent = self.empty(*before.shape[1:3])
        guider = comfy.samplers.CFGGuider(told.model)
        guider.set_conds(positive, negative)
        guider.set_cfg(told.cfg)
        samples = guider.sample(
            comfy.sample.prepare_noise(latent, seed),
            latent,
            told.sampler,
            told.sigmas,
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        frames = self.decode(samples.to(comfy.model_management.intermediate_device()), number, before, anchor)
        return frames[..., :3].float().cpu().contiguous()  # as a file gives them: other strides, other roundings

    def condition(self, number: int, before: Tensor, anchor: Tensor, seed: int) -> tuple[list, list]:
        """(positive, negative) of a chunk."""
        raise NotImplementedError

    def empty(self, height: int, width: int) -> Tensor:
        return torch.zeros(self.length, self.told.vae.latent_channels, height // 8, width // 8)

    def decode(self, samples: Tensor, number: int, before: Tensor, anchor: Tensor) -> Tensor:
        frames = self.told.vae.decode(samples)
        return frames.flatten(0, -4)

    def looks(self) -> bool:
        """Whether the model needs an image encoder."""
        return True

    def read(self, row: list) -> list:
        """Of a chunk's row of a prompt, what the model reads: it is part of the chunk's name."""
        return [[text[:, : self.text_tokens], extras] for text, extras in row]

    def prompts(self, number: int) -> tuple[list, list]:
        """A chunk's own rows of positive and negative. Raises ValueError where there are none."""
        rows = []
        for name in ("positive", "negative"):
            conditioning = getattr(self.told, name)
            if conditioning is None:
                raise ValueError(f"{NODE}: {name} is empty; {self.model_name} reads a prompt.")
            rows.append(pick_row(conditioning, number))
        return rows[0], rows[1]

    def vision(self):
        """The image encoder. Raises ValueError where there is none."""
        if self.told.clip_vision is None:
            raise ValueError(f"{NODE}: clip_vision is empty; {self.model_name} {self.needs_image}.")
        return self.told.clip_vision
