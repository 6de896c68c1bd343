"""The families of video models that animate a shot: what each can do, and which frames and sizes it takes."""

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_base
from comfy.model_patcher import ModelPatcher

from ...core.inputs import shown
from ..common import wan


@dataclass(frozen=True)
class ShotModel:
    """The rules of a family.

    ends: whether a shot can end at an image. step: frames for each latent frame after the first. multiple: of the
    sides of a frame in pixels. vae: where its autoencoder is found.
    """

    name: str
    ends: bool = False
    step: int = 4
    multiple: int = 16
    vae: str = "wan_2.1_vae.safetensors"

    def frames(self, wanted: int) -> int:
        """The nearest number of frames that the model makes: a multiple of `step` plus 1, at least `step` + 1."""
        return max(1, (wanted - 1 + self.step // 2) // self.step) * self.step + 1

    def check_size(self, width: int, height: int) -> None:
        """Raise ValueError for a size that the model does not make."""
        if width % self.multiple or height % self.multiple:
            raise ValueError(
                f"The video is {width} x {height} pixels. Width and height must be multiples of {self.multiple} for "
                f"{self.name}."
            )

    def check_vae(self, model: ModelPatcher, vae: Any) -> None:
        """Raise ValueError for a VAE of other latents than the MODEL's."""
        channels = model.model.latent_format.latent_channels
        if vae is None:
            raise ValueError(f"vae is empty; {self.name} needs {self.vae}. Use Load VAE.")
        if vae.latent_channels != channels:
            raise ValueError(
                f"vae makes latents of {vae.latent_channels} channels, and {self.name} reads {channels}. Use Load VAE "
                f"and {self.vae}."
            )

    def check_mode(self, mode: str) -> None:
        """Raise ValueError for a mode that the model does not support."""
        if mode == "interpolate" and not self.ends:
            able = ", ".join(other.name for other in MODELS.values() if other.ends)
            raise ValueError(
                f"{self.name} cannot end at an image, so it does not support interpolate. Choose animate, or use "
                f"{able} or DynamiCrafter 512_interp."
            )


WAN = ShotModel("Wan image-to-video", ends=True)
VACE = ShotModel("Wan VACE", ends=True)
WAN_5B = ShotModel("Wan 2.2 5B", multiple=32, vae="wan2.2_vae.safetensors")
LTX = ShotModel("LTX-Video", ends=True, step=8, multiple=32, vae="the VAE of its checkpoint")
LTX_2 = ShotModel("LTX-2", ends=True, step=8, multiple=32, vae="the VAE of its checkpoint")
HUNYUAN = ShotModel("HunyuanVideo 1.5", vae="hunyuanvideo15_vae_fp16.safetensors")
KANDINSKY = ShotModel("Kandinsky 5", vae="hunyuan_video_vae_bf16.safetensors")
MODELS = {  # by the name of their class in comfy.model_base: an older ComfyUI does not have all of them
    "WAN21": WAN,
    "WAN21_Vace": VACE,
    "WAN22": WAN_5B,
    "LTXV": LTX,
    "LTXAV": LTX_2,
    "HunyuanVideo15": HUNYUAN,
    "Kandinsky5": KANDINSKY,
}


def shot_model_of(model: ModelPatcher) -> ShotModel:
    """The family of a MODEL of the host. Raises ValueError with the name of what it is for any other."""
    inner = model.model
    name = type(inner).__name__
    found = MODELS.get(name) if type(inner) is getattr(comfy.model_base, name, None) else None
    if found is None or (found is WAN and not wan.is_image_to_video(inner)):
        able = ", ".join(["DynamiCrafter", *(other.name for other in MODELS.values())])
        raise ValueError(
            f"MODEL is {'Wan text-to-video' if found else getattr(inner, 'model_name', '') or name}, which cannot "
            f"animate an image. Use one of {able}."
        )
    return found


def read_seconds(text: str) -> list[float]:
    """The lengths of shots: numbers separated by spaces, commas or lines. Raises ValueError for anything else."""
    lengths = []
    for word in text.replace(",", " ").split():
        try:
            length = float(word)
        except ValueError:
            length = math.nan
        if not 0 < length < math.inf:
            raise ValueError(f"seconds holds {shown(word)}; numbers above 0 are expected, for instance 5 3.5 4.")
        lengths.append(length)
    return lengths
