"""How each family of video models continues a clip: the conditioning of a chunk, and its empty latent."""

import comfy.model_base
import torch
from torch import Tensor

from ...core.rng import generator
from ...core.video.images import fit
from ..common.clip_vision import GRAY, anchor_embeds
from ..common.conditioning import pick_row
from ..common.wan import is_image_to_video
from ..dynamicrafter import conditioning as dynamicrafter
from ..dynamicrafter.decode import decode_clip, takes_references
from ..dynamicrafter.model import FS, TEXT_TOKENS, DynamiCrafter
from ..streaming.conditioning import set_cam_apm
from ..streaming.modelscope import StreamingT2V
from ..streaming.svd import StreamingSVD
from .extender import ChunkInputs, Extender
from .video_transformers import HunyuanExtender, LTX2Extender, LTXExtender, WanExtender, WanVACEExtender


class StreamingT2VExtender(Extender):
    """CAM reads the frames before, APM the anchor (sections 4.1 and 4.2)."""

    model_name = StreamingT2V.model_name
    trained_length, trained_overlap = 16, 8
    needs_image = "encodes APM's anchor with its image encoder. Connect one, or set apm_strength to 0"
    strengths = "cam_strength", "apm_strength"

    def __init__(self, inputs: ChunkInputs):
        super().__init__(inputs)
        self.embeds = None

    def needs_vision(self):
        return self.inputs.apm_strength > 0

    uses_anchor = needs_vision

    def condition(self, number, before, anchor, seed):
        inputs = self.inputs
        if inputs.apm_strength and self.embeds is None:
            gray = torch.full_like(anchor[:1], GRAY)  # the unconditional image
            embeds = anchor_embeds(self.vision(), torch.cat([anchor, gray]))
            self.embeds = embeds[:, :-1], embeds[:, -1:]
        strengths = dict(cam_strength=inputs.cam_strength, apm_strength=inputs.apm_strength)
        pairs = zip(self.prompts(number), self.embeds or (None, None), strict=True)
        positive, negative = (set_cam_apm(prompt, before, embeds, **strengths) for prompt, embeds in pairs)
        return positive, negative


class SVDExtender(Extender):
    """The host's own image-to-video model, from the last frame. It reads no text; `positive` from the host's
    SVD_img2vid_Conditioning sets frame rate, motion and augmentation."""

    model_name = "Stable Video Diffusion"
    trained_length, trained_overlap, max_overlap = 14, 1, 1
    text_tokens = 0
    defaults = {"motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}  # the host's own values

    def image(self, before: Tensor, anchor: Tensor) -> Tensor:
        """The image that conditions the chunk, [1, H, W, 3]."""
        return before[-1:]

    def read(self, row):
        # The concat latents are left out: the host's node draws their noise without a seed, and each chunk has its own.
        return [[None, {name: extras[name] for name in self.defaults if name in extras}] for _, extras in row]

    def embed(self, image: Tensor) -> Tensor:
        return self.vision().encode_image(image).image_embeds[:, None]

    def noised(self, image: Tensor, level: float, seed: int) -> Tensor:
        """The host's noise augmentation, but seeded."""
        return image + level * torch.randn(image.shape, generator=generator("augmentation", seed))

    def condition(self, number, before, anchor, seed):
        image = self.image(before, anchor)
        row = pick_row(self.inputs.positive, number)[0][1] if self.inputs.positive else {}
        settings = self.defaults | row
        embed = self.embed(image)
        latent = self.inputs.vae.encode(self.noised(image, settings["augmentation_level"], seed))
        positive = [[embed, settings | {"concat_latent_image": latent}]]
        negative = [[torch.zeros_like(embed), settings | {"concat_latent_image": torch.zeros_like(latent)}]]
        return positive, negative


class StreamingSVDExtender(SVDExtender):
    """CAM reads the frames before; the model's conditioning image is the anchor, in every chunk."""

    model_name = StreamingSVD.model_name
    trained_length, trained_overlap, max_overlap = 25, 7, None
    defaults = {"motion_bucket_id": 127, "fps": 7, "augmentation_level": 0.02}  # the host subtracts 1 from fps
    decoded_together = 8  # frames, as published; the decoder is temporal
    strengths = ("cam_strength",)

    def __init__(self, inputs: ChunkInputs):
        super().__init__(inputs)
        self.embeds = None

    def uses_anchor(self):
        return True

    def image(self, before, anchor):
        side = before.shape[1:3]
        if anchor.shape[1:3] != side:
            anchor = fit(anchor, side[1], side[0])
        return anchor[:1]

    def embed(self, image):
        if self.embeds is None:
            self.embeds = anchor_embeds(self.vision(), image)
        return self.embeds

    def noised(self, image, level, seed):
        return image + level / 2 * torch.rand(image.shape, generator=generator("augmentation", seed))

    def condition(self, number, before, anchor, seed):
        pair = super().condition(number, before, anchor, seed)
        positive, negative = (set_cam_apm(cond, before, cam_strength=self.inputs.cam_strength) for cond in pair)
        return positive, negative

    def decode(self, samples, number, before, anchor):
        return torch.cat([self.inputs.vae.decode(part) for part in samples.split(self.decoded_together)])


class DynamiCrafterExtender(Extender):
    """From the last frame; an interpolation checkpoint continues to the anchor image with the chunk's number."""

    model_name = DynamiCrafter.model_name
    max_overlap = 1
    text_tokens = TEXT_TOKENS

    def __init__(self, inputs: ChunkInputs):
        model = inputs.model.model
        self.trained_length, self.interpolates = model.kind.frames, model.kind.interpolates
        self.multiple = 8 * model.factor
        super().__init__(inputs)

    def uses_anchor(self):
        return self.interpolates

    def end(self, number: int, before: Tensor, anchor: Tensor) -> Tensor | None:
        """The end image of a chunk; chunks beyond the last anchor image use that one."""
        if not self.interpolates:
            return None
        image = anchor[min(number, len(anchor) - 1)][None]
        return fit(image, before.shape[2], before.shape[1])

    def condition(self, number, before, anchor, seed):
        height, width = before.shape[1:3]
        positive, negative = self.prompts(number)
        positive, _, negative, _ = dynamicrafter.condition(
            positive,
            negative,
            self.vision(),
            self.inputs.vae,
            before,
            self.end(number, before, anchor),
            "interpolate" if self.interpolates else "animate",
            width,
            height,
            self.chunk_length,
            positive[0][1].get(FS),
        )
        return positive, negative

    def decode(self, samples, number, before, anchor):
        end = self.end(number, before, anchor)
        if end is not None and takes_references(self.inputs.vae):
            return decode_clip(self.inputs.vae, samples, before, end)
        return super().decode(samples, number, before, anchor)


EXTENDERS = {
    StreamingT2V: StreamingT2VExtender,
    StreamingSVD: StreamingSVDExtender,
    DynamiCrafter: DynamiCrafterExtender,
    comfy.model_base.SVD_img2vid: SVDExtender,
    comfy.model_base.WAN21: WanExtender,
    comfy.model_base.WAN21_Vace: WanVACEExtender,
    comfy.model_base.LTXV: LTXExtender,
    comfy.model_base.LTXAV: LTX2Extender,
    comfy.model_base.HunyuanVideo15: HunyuanExtender,
}


def extender_of(inputs: ChunkInputs) -> Extender:
    """The extender for the MODEL of the inputs. Raises ValueError for an unsupported model and for missing inputs."""
    found = family_of(inputs.model.model)
    if found is None:
        raise ValueError(
            f"MODEL is {_name(inputs.model.model)}, which cannot continue a clip. Use StreamingT2V, StreamingSVD, "
            "DynamiCrafter, Stable Video Diffusion, Wan image-to-video, Wan VACE, LTX-Video, LTX-2 or HunyuanVideo 1.5."
        )
    low = inputs.low_noise_model
    if low is not None and found.boundary is not None and family_of(low.model) is not found:
        raise ValueError(
            f"low_noise_model is {_name(low.model)}; the low-noise expert of {found.model_name} is expected."
        )
    extender = found(inputs)
    extender.check_parts()
    return extender


def family_of(model: comfy.model_base.BaseModel) -> type[Extender] | None:
    """None for a model that cannot continue a clip."""
    found = EXTENDERS.get(DynamiCrafter if isinstance(model, DynamiCrafter) else type(model))
    return None if found is WanExtender and not is_image_to_video(model) else found


def _name(model: comfy.model_base.BaseModel) -> str:
    return getattr(model, "model_name", "") or type(model).__name__
