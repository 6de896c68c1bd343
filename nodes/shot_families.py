"""What is each video model's own in a shot of Animate Story: the nodes around the sampler.

They are the host's, as its templates wire them: a shot equals such a graph bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..host.common import wan
from ..host.common.graph import GraphBuilder
from ..host.dynamicrafter.model import DynamiCrafter
from ..host.story import shot_models
from .shot_graph import Shown
from .shot_models import AnimatedShots, Conditioned, DynamiCrafterShots, HostShots

if TYPE_CHECKING:
    from comfy_api.latest import io


@dataclass(frozen=True, kw_only=True)
class ExpertShots(HostShots):
    """A Wan model. Wan 2.2 14B has two, of which one samples the steps with much noise and one the rest.

    boundary: the noise level below which the second one was trained.
    """

    boundary: ClassVar = wan.IMAGE_TO_VIDEO_BOUNDARY

    def reads(self) -> tuple[str, ...]:
        return ("low_noise_model", "switch_step") if self.low_noise_model else ("low_noise_model",)

    def check(self) -> None:
        super().check()
        if self.low_noise_model is None:
            return
        try:
            same = shot_models.shot_model_of(self.low_noise_model) is self.rules
        except ValueError as error:
            raise ValueError(f"low_noise_model: {error}") from error
        if not same:
            raise ValueError(
                f"MODEL is {self.model_name}, and low_noise_model is of another family. Use both models of Wan 2.2."
            )
        self.switch()

    def switch(self) -> int:
        """The step at which low_noise_model takes over."""
        return wan.expert_switch(self.sigmas, self.switch_step, self.boundary)

    def denoise(self, graph: GraphBuilder, number: int, shown: Shown, conditioned: Conditioned) -> list:
        if self.low_noise_model is None:
            return super().denoise(graph, number, shown, conditioned)
        steps, switch = len(self.sigmas) - 1, self.switch()
        sigmas = graph.node("SplitSigmas", sigmas=self.sigmas, step=switch)
        noise, latent = graph.node("RandomNoise", noise_seed=self.seed_of(number)), conditioned.latent
        for part, (model, first) in enumerate(((self.model, 0), (self.low_noise_model, switch))):
            sampled = graph.node(
                "SamplerCustomAdvanced",
                noise=noise.out(0),
                guider=self.guider(graph, shown(model, first=first, steps=steps), conditioned).out(0),
                sampler=self.sampler,
                sigmas=sigmas.out(part),
                latent_image=latent,
            )
            noise, latent = graph.node("DisableNoise"), sampled.out(0)
        return latent


@dataclass(frozen=True, kw_only=True)
class WanShots(ExpertShots):
    """Wan 2.1 and 2.2 image-to-video, to a last image or without."""

    def reads(self) -> tuple[str, ...]:
        return super().reads() + (("clip_vision",) if wan.reads_clip_vision(self.model.model) else ())

    def messages(self) -> list[str]:
        messages = super().messages()
        if self.transitions and not wan.knows_last_frames(self.model.model):
            messages.append(
                "This Wan 2.1 model was not trained to end at an image. Use wan2.1_flf2v_720p_14B or Wan 2.2."
            )
        return messages

    def check(self) -> None:
        super().check()
        if self.clip_vision is None and wan.reads_clip_vision(self.model.model):
            raise ValueError(
                "clip_vision is empty, and Wan 2.1 image-to-video reads it. Use Load CLIP Vision and "
                "clip_vision_h.safetensors."
            )

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        seen = {}
        if wan.reads_clip_vision(self.model.model):
            for name, image in images.items():
                key = f"clip_vision_{name}" if self.transitions else "clip_vision_output"
                encoded = graph.node("CLIPVisionEncode", clip_vision=self.clip_vision, image=image, crop="none")
                seen[key] = encoded.out(0)
        node = "WanFirstLastFrameToVideo" if self.transitions else "WanImageToVideo"
        made = graph.node(node, vae=self.vae, **self.rows(number), **images, **seen, **self.size(number))
        return Conditioned(made.out(0), made.out(1), made.out(2))


@dataclass(frozen=True, kw_only=True)
class VaceShots(ExpertShots):
    """Wan VACE: the images are given frames of a gray video, and a reference image may stand before it."""

    boundary: ClassVar = wan.VACE_BOUNDARY

    def reads(self) -> tuple[str, ...]:
        return *super().reads(), "reference_image"

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        size = self.size(number)
        given = graph.node("StoryReelGivenFrames", frames=size["length"], **images, **self.pick("width", "height"))
        reference = {} if self.reference_image is None else self.pick("reference_image")
        made = graph.node(
            "WanVaceToVideo",
            vae=self.vae,
            strength=1.0,
            control_video=given.out(0),
            control_masks=given.out(1),
            **self.rows(number),
            **reference,
            **size,
        )

        def finish(latent: list) -> dict:
            return {"samples": graph.node("TrimVideoLatent", samples=latent, trim_amount=made.out(3)).out(0)}

        return Conditioned(made.out(0), made.out(1), made.out(2), finish)


@dataclass(frozen=True, kw_only=True)
class Wan5BShots(HostShots):
    """Wan 2.2 5B: the image is the first frame of the latent."""

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        made = graph.node("Wan22ImageToVideoLatent", vae=self.vae, **images, **self.size(number))
        prompts = self.rows(number)
        return Conditioned(prompts["positive"], prompts["negative"], made.out(0))


@dataclass(frozen=True, kw_only=True)
class LTXShots(HostShots):
    """LTX-Video. A shot between two images has them as guides behind the latent, which are cut off after sampling."""

    def reads(self) -> tuple[str, ...]:
        return ("guide_strength",)

    def counted(self) -> dict:
        return super().counted() | self.pick("fps")

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        prompts = graph.node("LTXVConditioning", frame_rate=self.fps, **self.rows(number))
        latent = graph.node("EmptyLTXVLatentVideo", **self.size(number)).out(0)
        conds, strength = prompts, dict(vae=self.vae, strength=self.guide_strength)
        if not self.transitions:
            first = graph.node(
                "LTXVImgToVideoInplace", image=images["start_image"], latent=latent, bypass=False, **strength
            )
            return Conditioned(conds.out(0), conds.out(1), first.out(0))
        for image, index in ((images["start_image"], 0), (images["end_image"], -1)):
            links = dict(positive=conds.out(0), negative=conds.out(1), latent=latent, image=image)
            conds = graph.node("LTXVAddGuide", frame_idx=index, **links, **strength)
            latent = conds.out(2)

        def finish(latent: list) -> dict:
            cropped = graph.node("LTXVCropGuides", positive=conds.out(0), negative=conds.out(1), latent=latent)
            return {"samples": cropped.out(2)}

        return Conditioned(conds.out(0), conds.out(1), latent, finish)


@dataclass(frozen=True, kw_only=True)
class LTX2Shots(LTXShots):
    """LTX-2 makes sound, too, where it has a VAE for it."""

    def reads(self) -> tuple[str, ...]:
        return *super().reads(), "audio_vae"

    def messages(self) -> list[str]:
        silent = [] if self.audio_vae else ["audio_vae is empty, so LTX-2 makes no sound."]
        return super().messages() + silent

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        video = super().condition(graph, number, images)
        if self.audio_vae is None:
            return video
        length = dict(frames_number=self.shot_frames(number), frame_rate=self.fps, batch_size=1)
        silence = graph.node("LTXVEmptyLatentAudio", audio_vae=self.audio_vae, **length)
        both = graph.node("LTXVConcatAVLatent", video_latent=video.latent, audio_latent=silence.out(0))

        def finish(latent: list) -> dict:
            parts = graph.node("LTXVSeparateAVLatent", av_latent=latent)
            sound = graph.node("LTXVAudioVAEDecode", samples=parts.out(1), audio_vae=self.audio_vae)
            return video.finish(parts.out(0)) | {"audio": sound.out(0)}

        return Conditioned(video.positive, video.negative, both.out(0), finish)


@dataclass(frozen=True, kw_only=True)
class HunyuanShots(HostShots):
    """HunyuanVideo 1.5 image-to-video, with its image encoder or without."""

    def reads(self) -> tuple[str, ...]:
        return ("clip_vision",)

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        seen = {}
        if self.clip_vision is not None:
            image = images["start_image"]
            encoded = graph.node("CLIPVisionEncode", clip_vision=self.clip_vision, image=image, crop="center")
            seen["clip_vision_output"] = encoded.out(0)
        made = graph.node(
            "HunyuanVideo15ImageToVideo", vae=self.vae, **self.rows(number), **images, **seen, **self.size(number)
        )
        return Conditioned(made.out(0), made.out(1), made.out(2))


@dataclass(frozen=True, kw_only=True)
class KandinskyShots(HostShots):
    """Kandinsky 5: the clean first frame goes back into the sampled latent, whose start then gets the mean and spread
    of what follows: of 4 latent frames, as in the template, or of all but one."""

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        made = graph.node("Kandinsky5ImageToVideo", vae=self.vae, **self.rows(number), **images, **self.size(number))

        def finish(latent: list) -> dict:
            clean = graph.node("ReplaceVideoLatentFrames", destination=latent, source=made.out(3), index=0)
            counts = dict(start_frame_count=min(4, self.shot_frames(number) // 4), reference_frame_count=5)
            return {"samples": graph.node("NormalizeVideoLatentStart", latent=clean.out(0), **counts).out(0)}

        return Conditioned(made.out(0), made.out(1), made.out(2), finish)


FAMILIES = {
    shot_models.WAN: WanShots,
    shot_models.VACE: VaceShots,
    shot_models.WAN_5B: Wan5BShots,
    shot_models.LTX: LTXShots,
    shot_models.LTX_2: LTX2Shots,
    shot_models.HUNYUAN: HunyuanShots,
    shot_models.KANDINSKY: KandinskyShots,
}


def shots_of(**inputs) -> AnimatedShots:
    """The inputs of Animate Story for the family of its MODEL. Raises ValueError for an unsupported MODEL."""
    model: io.Model.Type = inputs["model"]
    if isinstance(model.model, DynamiCrafter):
        return DynamiCrafterShots(**inputs)
    return FAMILIES[shot_models.shot_model_of(model)](**inputs)
