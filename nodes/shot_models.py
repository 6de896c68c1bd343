"""The nodes that sample one shot of Animate Story, for each family of video models.

They are the host's own, as its templates wire them: a shot equals such a graph bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..host.common import wan
from ..host.common.graph import GraphBuilder
from ..host.dynamicrafter import conditioning
from ..host.dynamicrafter.model import DynamiCrafter
from ..host.story import shot_models
from .shot_graph import PROMPTS, Shown, StoryShots

if TYPE_CHECKING:
    from comfy_api.latest import io

MODES = ("interpolate", "animate")
# Inputs that some families do not read, and their values where nobody has set them.
UNREAD = dict(clip_vision=None, fs=0, cfg_image=7.5, cfg_rescale=0.7, low_noise_model=None, switch_step=0)


@dataclass(frozen=True, kw_only=True)
class AnimatedShots(StoryShots):
    """The inputs of Animate Story, of which each family reads some."""

    sampler: io.Sampler.Type
    sigmas: Tensor
    mode: str
    fs: int
    cfg_text: float
    cfg_image: float
    cfg_rescale: float
    low_noise_model: io.Model.Type | None = None
    switch_step: int = 0

    EVERY: ClassVar = ("model", "vae", "width", "height", "sampler", "sigmas", "mode", "cfg_text")

    @property
    def kind(self) -> str:
        return self.mode

    @property
    def transitions(self) -> bool:
        return self.mode == "interpolate"

    @property
    def model_name(self) -> str:
        """What the family is called in sentences."""
        raise NotImplementedError

    def reads(self) -> tuple[str, ...]:
        """The inputs of `UNREAD` that this family reads."""
        return ()

    def shot_frames(self) -> int:
        """Frames of each shot, as the model makes them."""
        return self.frames

    def messages(self) -> list[str]:
        unread = [
            name
            for name, default in UNREAD.items()
            if name not in self.reads() and (value := getattr(self, name)) is not default and value != default
        ]
        if not unread:
            return []
        names = f"{', '.join(unread[:-1])} and {unread[-1]} have" if unread[1:] else f"{unread[0]} has"
        return [f"{names} no effect on {self.model_name}."]

    def counted(self) -> dict:
        return self.pick(*self.EVERY, *self.reads()) | {"frames": self.shot_frames()}

    def sampled(self, graph: GraphBuilder, number: int, guider, latent: list) -> list:
        """The link to a latent that one guider samples from noise to its end."""
        node = graph.node(
            "SamplerCustomAdvanced",
            noise=graph.node("RandomNoise", noise_seed=self.seed_of(number)).out(0),
            guider=guider.out(0),
            latent_image=latent,
            **self.pick("sampler", "sigmas"),
        )
        return node.out(0)


@dataclass(frozen=True, kw_only=True)
class DynamiCrafterShots(AnimatedShots):
    """The published system, with guidance of its own by the image."""

    @property
    def model_name(self) -> str:
        return DynamiCrafter.model_name

    def reads(self) -> tuple[str, ...]:
        return "clip_vision", "fs", "cfg_image", "cfg_rescale"

    def check(self) -> None:
        model = self.model.model
        conditioning.check_shot(model, self.clip_vision, self.vae, self.mode, self.width, self.height, self.frames)
        for name in PROMPTS:
            model.check_text(getattr(self, name)[0][0])

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> list:
        conditioned = graph.node(
            "StoryReelDynamiCrafterConditioning",
            **self.rows(number),
            **images,
            **self.pick("clip_vision", "vae", "mode", "width", "height", "frames", "fs"),
        )
        guider = graph.node(
            "StoryReelDynamiCrafterGuider",
            model=shown(self.model),
            positive=conditioned.out(0),
            image_only=conditioned.out(1),
            negative=conditioned.out(2),
            **self.pick("cfg_text", "cfg_image", "cfg_rescale"),
        )
        return self.sampled(graph, number, guider, conditioned.out(3))


@dataclass(frozen=True, kw_only=True)
class HostShots(AnimatedShots):
    """A model of the host's own. Subclasses condition a shot as the host's node for the model does."""

    @property
    def rules(self) -> shot_models.ShotModel:
        return shot_models.shot_model_of(self.model)

    @property
    def model_name(self) -> str:
        return self.rules.name

    def shot_frames(self) -> int:
        return self.rules.frames(self.frames)

    def messages(self) -> list[str]:
        messages, made = super().messages(), self.shot_frames()
        if made != self.frames:
            messages.append(
                f"frames is {self.frames}; {self.model_name} makes {self.rules.step}k + 1 frames, so each shot has "
                f"{made}."
            )
        return messages

    def check(self) -> None:
        rules = self.rules
        rules.check_mode(self.mode)
        rules.check_size(self.width, self.height)
        rules.check_vae(self.model, self.vae)

    def size(self) -> dict:
        """The inputs of a node that makes an empty latent."""
        return self.pick("width", "height") | dict(length=self.shot_frames(), batch_size=1)

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> tuple[list, list, list]:
        """Add the nodes before the sampler, and return the links to positive, negative and LATENT."""
        raise NotImplementedError

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> list:
        positive, negative, latent = self.condition(graph, number, images)
        guider = self.guider(graph, shown(self.model), positive, negative)
        return self.sampled(graph, number, guider, latent)

    def guider(self, graph: GraphBuilder, model: io.Model.Type, positive: list, negative: list):
        return graph.node("CFGGuider", model=model, positive=positive, negative=negative, cfg=self.cfg_text)


@dataclass(frozen=True, kw_only=True)
class WanShots(HostShots):
    """Wan 2.1 and 2.2 image-to-video; 2.2 has two models, of which one samples the steps with much noise."""

    def reads(self) -> tuple[str, ...]:
        vision = ("clip_vision",) if wan.reads_clip_vision(self.model.model) else ()
        return vision + (("low_noise_model", "switch_step") if self.low_noise_model else ("low_noise_model",))

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
        if self.low_noise_model:
            self.check_experts(self.low_noise_model)

    def check_experts(self, other: io.Model.Type) -> None:
        """Raise ValueError for two models that do not share the steps of a shot."""
        try:
            same = shot_models.shot_model_of(other) is self.rules
        except ValueError as error:
            raise ValueError(f"low_noise_model: {error}") from error
        if not same:
            raise ValueError(
                f"MODEL is {self.model_name}, and low_noise_model is of another family. Use both models of Wan 2.2."
            )
        shot_models.expert_switch(self.sigmas, self.switch_step)

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> tuple[list, list, list]:
        seen = {}
        if wan.reads_clip_vision(self.model.model):
            for name, image in images.items():
                key = f"clip_vision_{name}" if self.transitions else "clip_vision_output"
                encoded = graph.node("CLIPVisionEncode", clip_vision=self.clip_vision, image=image, crop="none")
                seen[key] = encoded.out(0)
        node = "WanFirstLastFrameToVideo" if self.transitions else "WanImageToVideo"
        conditioned = graph.node(node, vae=self.vae, **self.rows(number), **images, **seen, **self.size())
        return conditioned.out(0), conditioned.out(1), conditioned.out(2)

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> list:
        if self.low_noise_model is None:
            return super().sample(graph, number, shown, images)
        positive, negative, latent = self.condition(graph, number, images)
        steps, switch = len(self.sigmas) - 1, shot_models.expert_switch(self.sigmas, self.switch_step)
        sigmas = graph.node("SplitSigmas", sigmas=self.sigmas, step=switch)
        noise = graph.node("RandomNoise", noise_seed=self.seed_of(number))
        for part, (model, first) in enumerate(((self.model, 0), (self.low_noise_model, switch))):
            sampled = graph.node(
                "SamplerCustomAdvanced",
                noise=noise.out(0),
                guider=self.guider(graph, shown(model, first=first, steps=steps), positive, negative).out(0),
                sampler=self.sampler,
                sigmas=sigmas.out(part),
                latent_image=latent,
            )
            noise, latent = graph.node("DisableNoise"), sampled.out(0)
        return latent


FAMILIES = {shot_models.WAN: WanShots}


def shots_of(**inputs) -> AnimatedShots:
    """The inputs of Animate Story for the family of its MODEL. Raises ValueError for an unsupported MODEL."""
    model = inputs["model"]
    if isinstance(model.model, DynamiCrafter):
        return DynamiCrafterShots(**inputs)
    return FAMILIES[shot_models.shot_model_of(model)](**inputs)
