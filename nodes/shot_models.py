"""The inputs of Animate Story, and the nodes that sample a shot; `shot_families` has what is each family's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..host.common.graph import GraphBuilder
from ..host.dynamicrafter import conditioning
from ..host.dynamicrafter.model import DynamiCrafter
from ..host.story import shot_models
from .shot_graph import PROMPTS, Shown, StoryShots

if TYPE_CHECKING:
    from comfy_api.latest import io

MODES = ("interpolate", "animate")
# Inputs that some families do not read, and their values where nobody has set them.
UNREAD = dict(
    clip_vision=None, fs=0, cfg_image=7.5, cfg_rescale=0.7, low_noise_model=None, switch_step=0, reference_image=None,
    guide_strength=1.0, audio_vae=None,
)  # fmt: skip


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
    reference_image: Tensor | None = None
    guide_strength: float = 1.0
    audio_vae: io.Vae.Type | None = None

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

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> dict:
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
        return {"samples": self.sampled(graph, number, guider, conditioned.out(3))}


@dataclass(frozen=True)
class Conditioned:
    """Links to the inputs of a shot's sampler. finish: adds the nodes behind it, from its LATENT to what is kept."""

    positive: list
    negative: list
    latent: list
    finish: Callable[[list], dict] = lambda latent: {"samples": latent}


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

    def condition(self, graph: GraphBuilder, number: int, images: dict) -> Conditioned:
        """Add the nodes before the sampler."""
        raise NotImplementedError

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> dict:
        conditioned = self.condition(graph, number, images)
        return conditioned.finish(self.denoise(graph, number, shown, conditioned))

    def denoise(self, graph: GraphBuilder, number: int, shown: Shown, conditioned: Conditioned) -> list:
        """Add the sampler, and return the link to its LATENT."""
        return self.sampled(graph, number, self.guider(graph, shown(self.model), conditioned), conditioned.latent)

    def guider(self, graph: GraphBuilder, model: io.Model.Type, conditioned: Conditioned):
        prompts = dict(positive=conditioned.positive, negative=conditioned.negative)
        return graph.node("CFGGuider", model=model, cfg=self.cfg_text, **prompts)
