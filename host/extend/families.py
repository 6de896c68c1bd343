"""How each kind of video model goes on from the last frames of a clip: what it is told of a chunk, and its latent."""

import comfy.model_base
import torch
from torch import Tensor

from ...core.rng import generator
from ...core.video.images import fit
from ..common.clip_vision import GREY, anchor_embeds
from ..common.conditioning import pick_row
from ..dynamicrafter import conditioning as dynamicrafter
from ..dynamicrafter.decode import decode_clip, takes_references
from ..dynamicrafter.model import FS, TEXT_TOKENS, DynamiCrafter
from ..streaming.conditioning import remember
from ..streaming.modelscope import StreamingT2V
from ..streaming.svd import StreamingSVD
from .extender import NODE, Extender, Told


class StreamingT2VExtender(Extender):
    """CAM is shown the frames before, APM the anchor (sections 4.1 and 4.2)."""

    model_name = StreamingT2V.model_name
    frames, memory = 16, 8
    needs_image = "shows APM a picture through its image encoder; without one set apm_strength to 0"
    strengths = "cam_strength", "apm_strength"

    def __init__(self, told: Told):
        super().__init__(told)
        self.embeds = None

    def looks(self):
        return self.told.apm_strength > 0

    uses_anchor = looks

    def condition(self, number, before, anchor, seed):
        told = self.told
        if told.apm_strength and self.embeds is None:
            grey = torch.full_like(anchor[:1], GREY)  # what the other half of the guidance sees
            both = anchor_embeds(self.vision(), torch.cat([anchor, grey]))
            self.embeds = both[:, :-1], both[:, -1:]
        strengths = dict(cam_strength=told.cam_strength, apm_strength=told.apm_strength)
        halves = zip(self.prompts(number), self.embeds or (None, None), strict=True)
        positive, negative = (remember(half, before, embeds, **strengths) for half, embeds in halves)
        return positive, negative


class SVDExtender(Extender):
    """The host's own image-to-video model, from the last frame. No text is read; a conditioning of the host's
    SVD_img2vid_Conditioning may say frame rate, motion and augmentation."""

    model_name = "Stable Video Diffusion"
    frames, memory, most = 14, 1, 1
    text_tokens = 0
    said = {"motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}  # the host's own values

    def picture(self, before: Tensor, anchor: Tensor) -> Tensor:
        """What the chunk is told that it begins with, [1, H, W, 3]."""
        return before[-1:]

    def read(self, row):
        # The host's node draws the noise of its latents anew each time; ours are made of the chunk's own picture.
        return [[None, {name: extras[name] for name in self.said if name in extras}] for _, extras in row]

    def embed(self, picture: Tensor) -> Tensor:
        return self.vision().encode_image(picture).image_embeds[:, None]

    def noised(self, picture: Tensor, level: float, seed: int) -> Tensor:
        """As the host does it, but from a seed."""
        return picture + level * torch.randn(picture.shape, generator=generator("augmentation", seed))

    def condition(self, number, before, anchor, seed):
        picture = self.picture(before, anchor)
        row = pick_row(self.told.positive, number)[0][1] if self.told.positive else {}
        said = self.said | row
        embed = self.embed(picture)
        latent = self.told.vae.encode(self.noised(picture, said["augmentation_level"], seed))
        positive = [[embed, said | {"concat_latent_image": latent}]]
        negative = [[torch.zeros_like(embed), said | {"concat_latent_image": torch.zeros_like(latent)}]]
        return positive, negative


class StreamingSVDExtender(SVDExtender):
    """CAM is shown the frames before; the model's own picture is the anchor, in every chunk."""

    model_name = StreamingSVD.model_name
    frames, memory, most = 25, 7, None
    said = {"motion_bucket_id": 127, "fps": 7, "augmentation_level": 0.02}  # the host takes 1 from fps
    decoded_together = 8  # frames, as published: its decoder looks along time
    strengths = ("cam_strength",)

    def __init__(self, told: Told):
        super().__init__(told)
        self.embeds = None

    def uses_anchor(self):
        return True

    def picture(self, before, anchor):
        side = before.shape[1:3]
        if anchor.shape[1:3] != side:
            anchor = fit(anchor, side[1], side[0])
        return anchor[:1]

    def embed(self, picture):
        if self.embeds is None:
            self.embeds = anchor_embeds(self.vision(), picture)
        return self.embeds

    def noised(self, picture, level, seed):
        return picture + level / 2 * torch.rand(picture.shape, generator=generator("augmentation", seed))

    def condition(self, number, before, anchor, seed):
        halves = super().condition(number, before, anchor, seed)
        positive, negative = (remember(half, before, cam_strength=self.told.cam_strength) for half in halves)
        return positive, negative

    def decode(self, samples, number, before, anchor):
        return torch.cat([self.told.vae.decode(part) for part in samples.split(self.decoded_together)])


class DynamiCrafterExtender(Extender):
    """From the last frame; a checkpoint that interpolates goes from there to the anchor's picture of that number."""

    model_name = DynamiCrafter.model_name
    most = 1
    text_tokens = TEXT_TOKENS

    def __init__(self, told: Told):
        model = told.model.model
        self.frames, self.interpolates = model.kind.frames, model.kind.interpolates
        self.multiple = 8 * model.factor
        super().__init__(told)

    def uses_anchor(self):
        return self.interpolates

    def end(self, number: int, before: Tensor, anchor: Tensor) -> Tensor | None:
        """Where a chunk goes to; the last of the anchor's pictures holds on."""
        if not self.interpolates:
            return None
        picture = anchor[min(number, len(anchor) - 1)][None]
        return fit(picture, before.shape[2], before.shape[1])

    def condition(self, number, before, anchor, seed):
        height, width = before.shape[1:3]
        positive, negative = self.prompts(number)
        told = dynamicrafter.condition(
            positive,
            negative,
            self.vision(),
            self.told.vae,
            before,
            self.end(number, before, anchor),
            "interpolate" if self.interpolates else "animate",
            width,
            height,
            self.length,
            positive[0][1].get(FS),
        )
        return told[0], told[2]

    def decode(self, samples, number, before, anchor):
        if self.interpolates and takes_references(self.told.vae):
            return decode_clip(self.told.vae, samples, before, self.end(number, before, anchor))
        return super().decode(samples, number, before, anchor)


class WanExtender(Extender):
    """The host's Wan image-to-video model, from the last frames, of which it may be shown more than one."""

    model_name = "Wan image-to-video"
    frames, memory, multiple = 81, 1, 16
    step = 4  # frames of a latent frame, but for the first, which stands for one

    def __init__(self, told: Told):
        super().__init__(told)
        for name, count in (("chunk_length", self.length), ("overlap", self.overlap)):
            if count % self.step != 1:
                raise ValueError(
                    f"{NODE}: {name} is {count}; {self.model_name} counts in fours after the first frame: "
                    f"{count - (count - 1) % self.step} or {count + -(count - 1) % self.step} is expected."
                )

    def looks(self):
        return self.told.model.model.diffusion_model.img_emb is not None

    def empty(self, height, width):
        frames = self._latent_frames(self.length)
        return torch.zeros(1, self.told.vae.latent_channels, frames, height // 8, width // 8)

    def _latent_frames(self, frames: int) -> int:
        return (frames - 1) // self.step + 1

    def condition(self, number, before, anchor, seed):
        given = torch.full((self.length, *before.shape[1:]), GREY)
        given[: self.overlap] = before
        latent = self.told.vae.encode(given)
        mask = torch.ones(1, 1, *latent.shape[2:])
        mask[:, :, : self._latent_frames(self.overlap)] = 0
        shown = {"concat_latent_image": latent, "concat_mask": mask}
        if self.looks():
            shown["clip_vision_output"] = self.vision().encode_image(before[:1])
        positive, negative = ([[text, {**extras, **shown}] for text, extras in half] for half in self.prompts(number))
        return positive, negative


EXTENDERS = {
    StreamingT2V: StreamingT2VExtender,
    StreamingSVD: StreamingSVDExtender,
    DynamiCrafter: DynamiCrafterExtender,
    comfy.model_base.SVD_img2vid: SVDExtender,
    comfy.model_base.WAN21: WanExtender,
}


def extender_of(told: Told) -> Extender:
    """What extends a clip by this MODEL. Raises ValueError with its name for any other kind of model, and for what it
    lacks."""
    inner = told.model.model
    found = EXTENDERS.get(type(inner))
    if found is None or (found is WanExtender and not takes_pictures(inner)):
        name = getattr(inner, "model_name", "") or type(inner).__name__
        raise ValueError(
            f"{NODE}: MODEL is {name}, made for no given frames; StreamingT2V, StreamingSVD, DynamiCrafter, Stable "
            "Video Diffusion or Wan image-to-video is expected."
        )
    extender = found(told)
    extender.check_parts()
    return extender


def takes_pictures(wan: comfy.model_base.WAN21) -> bool:
    """Whether it is Wan's image-to-video: beside its own latents it reads those of pictures, and a mask of 4 channels.
    Wan 2.2's differs from text-to-video by nothing else."""
    channels = wan.latent_format.latent_channels
    return wan.diffusion_model.patch_embedding.weight.shape[1] == 2 * channels + 4
