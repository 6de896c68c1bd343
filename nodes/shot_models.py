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

MODES, MOST_FRAMES = ("interpolate", "animate"), 4096
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
    seconds: str = ""

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

    def wanted_frames(self) -> list[int]:
        """Frames of the shots as the user wants them; the last number is for all further shots."""
        seconds = shot_models.read_seconds(self.seconds)
        return [max(1, round(length * self.fps)) for length in seconds] or [self.frames]

    def made_frames(self, wanted: int) -> int:
        """The number of frames that the model makes where the user wants so many."""
        return wanted

    def shot_frames(self, number: int) -> int:
        """Frames of a shot."""
        wanted = self.wanted_frames()
        return self.made_frames(wanted[min(number, len(wanted) - 1)])

    def lengths(self, count: int) -> list[int]:
        return [self.shot_frames(number) for number in range(count)] if self.seconds.strip() else []

    def check_frames(self) -> None:
        """Raise ValueError for `seconds` that hold no lengths, or too long ones."""
        longest = max(self.wanted_frames())
        if longest > MOST_FRAMES:
            raise ValueError(
                f"seconds asks for a shot of {longest} frames at {self.fps:g} a second; at most {MOST_FRAMES} are "
                "possible."
            )

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
        frames = None if self.seconds.strip() else self.shot_frames(0)  # lengths are in the names of the shots
        return self.pick(*self.EVERY, *self.reads()) | {"frames": frames}

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
        self.check_frames()
        least = min(self.wanted_frames())
        conditioning.check_shot(model, self.clip_vision, self.vae, self.mode, self.width, self.height, least)
        for name in PROMPTS:
            model.check_text(getattr(self, name)[0][0])

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> dict:
        conditioned = graph.node(
            "StoryReelDynamiCrafterConditioning",
            **self.rows(number),
            **images,
            frames=self.shot_frames(number),
            **self.pick("clip_vision", "vae", "mode", "width", "height", "fs"),
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

    def made_frames(self, wanted: int) -> int:
        return self.rules.frames(wanted)

    def messages(self) -> list[str]:
        messages, wanted = super().messages(), self.wanted_frames()
        made = [self.made_frames(frames) for frames in wanted]
        if made != wanted:
            name = "seconds asks for shots" if self.seconds.strip() else "frames asks for shots"
            messages.append(
                f"{name} of {_listed(wanted)} frames; {self.model_name} makes {self.rules.step}k + 1: {_listed(made)}."
            )
        return messages

    def check(self) -> None:
        self.check_frames()
        rules = self.rules
        rules.check_mode(self.mode)
        rules.check_size(self.width, self.height)
        rules.check_vae(self.model, self.vae)

    def size(self, number: int) -> dict:
        """The inputs of a node that makes the empty latent of a shot."""
        return self.pick("width", "height") | dict(length=self.shot_frames(number), batch_size=1)

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


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
