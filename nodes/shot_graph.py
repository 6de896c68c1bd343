"""The graph that animates a story: one branch for each shot, from its keyframes to its file. `shot_models` has the
nodes that sample a shot with each family of video models.

Each branch starts once the shot before it is on disk. A shot that is on disk already gets no branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.motion.trajectory import Trajectory
from ..host.common.conditioning import pick_row
from ..host.common.graph import GraphBuilder, new_expansion
from ..host.common.messages import warn
from ..host.common.run_folder import run_key
from ..host.motion.apply import apply_to_sd15
from ..host.motion.predict import Predictor, check_image_count
from ..host.story import shots
from ..host.story.shot_progress import show_kept, with_progress
from .motion import sd15_decoder

if TYPE_CHECKING:
    from comfy_api.latest import io

PROMPTS = ("positive", "negative")
# Inputs that the key of a run leaves out: the name of a shot holds its own images, prompts and seed, and the frame
# rate changes no frame.
UNCOUNTED = ("keyframes", *PROMPTS, "seed", "fps")
Shown = Callable[..., "io.Model.Type"]


@dataclass(frozen=True, kw_only=True)
class StoryShots:
    """The inputs that all ways to animate a story share.

    keyframes: [K, H, W, 3], or None before they are made. positive, negative: one row a shot, the last one stays.
    width, height: of the video in pixels. frames: of each shot. seed: of the first shot, each further one adds 1.
    """

    model: io.Model.Type
    vae: io.Vae.Type
    positive: io.Conditioning.CondList
    negative: io.Conditioning.CondList
    clip_vision: io.ClipVision.Type | None = None
    keyframes: Tensor | None = None
    width: int
    height: int
    frames: int
    seed: int
    fps: float

    @property
    def kind(self) -> str:
        """What a shot is called in sentences."""
        return "a transition"

    @property
    def transitions(self) -> bool:
        """Whether a shot goes from a keyframe to the next one."""
        return True

    def check(self) -> None:
        """Raise ValueError for inputs that make no shot, whatever the keyframes are."""
        raise NotImplementedError

    def lengths(self, count: int) -> list[int]:
        """Frames of each of `count` shots, where they differ."""
        return []

    def messages(self) -> list[str]:
        """What the user must know of inputs that are changed or have no effect, for the node."""
        return []

    def counted(self) -> dict:
        """The inputs that all shots are made from, for the key of the run."""
        return self.pick(*(field.name for field in fields(self) if field.name not in UNCOUNTED))

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> dict:
        """Add the nodes that sample shot `number`, and return the links to what is kept: "samples", a LATENT, and where
        the model makes sound, "audio".

        shown: gives a MODEL that shows its steps. images: links to its start_image and, of a transition, its end_image.
        """
        raise NotImplementedError

    def pick(self, *names: str) -> dict:
        """Inputs by their names."""
        return {name: getattr(self, name) for name in names}

    def rows(self, number: int) -> dict[str, list]:
        """Both prompts of a shot."""
        return {name: pick_row(getattr(self, name), number) for name in PROMPTS}

    def seed_of(self, number: int) -> int:
        return (self.seed + number) % 2**64

    def expand(self, prompt, node: str) -> tuple[dict, list]:
        """The graph that makes the shots still missing, and the link to its VIDEO.

        prompt: the host's DynamicPrompt. node: the id in it of the node that expands. K keyframes make K - 1
        transitions, or else K shots. Raises ValueError for too few keyframes.
        """
        keyframes, least = self.keyframes, 1 + self.transitions
        count = 0 if keyframes is None else len(keyframes)
        if keyframes is None or count < least:
            raise ValueError(f"keyframes holds {count} image{'s' * (count != 1)}; {self.kind} needs at least {least}.")
        for message in self.messages():
            warn(message)
        run = run_key(prompt, node, self.counted())
        seeds = [self.seed_of(number) for number in range(count - self.transitions)]
        sources = keyframes, self.pick(*PROMPTS), seeds, self.transitions, self.lengths(len(seeds))
        names = shots.shot_names(prompt, node, *sources)
        missing = [number for number, name in enumerate(names) if not shots.shot_path(run, name).exists()]
        show_kept(node, len(names) - len(missing), len(names))

        graph, last, expansion = GraphBuilder(), "", new_expansion()
        for number in missing:
            ends = graph.node("StoryReelTakeKeyframes", images=keyframes, index=number, after=last, expansion=expansion)
            images = {"start_image": ends.out(0)} | ({"end_image": ends.out(1)} if self.transitions else {})
            shown = partial(with_progress, node=node, number=number, shots=len(names))
            kept = graph.node(
                "StoryReelKeepShot",
                **self.sample(graph, number, shown, images),
                run=run,
                shot=names[number],
                expansion=expansion,
                **self.pick("vae", "fps"),
                **images,
            )
            last = kept.out(0)
        joined = graph.node(
            "StoryReelJoinShots",
            run=run,
            shots=" ".join(names),
            after=last,
            shared_ends=self.transitions,
            fps=self.fps,
            expansion=expansion,
        )
        return graph.finalize(), joined.out(0)


@dataclass(frozen=True, kw_only=True)
class MotionShots(StoryShots):
    """The inputs of Animate Story by Motion. decoder: the choice of Apply Motion, as the host gives a DynamicCombo."""

    predictor: Predictor
    decoder: dict
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    def check(self) -> None:
        if self.vae is None:
            raise ValueError("vae is empty: the checkpoint has none. Use Load VAE.")
        check_image_count(self.predictor, 2)
        encoder = self.predictor.encoder
        still = Trajectory(torch.zeros(self.frames, *encoder.shape), encoder.token_space)
        apply_to_sd15(self.model, still, **sd15_decoder(self.decoder))

    def sample(self, graph: GraphBuilder, number: int, shown: Shown, images: dict) -> dict:
        motion = graph.node(
            "StoryReelPredictMotion",
            **images,
            easing="linear",
            hold_start=0,
            hold_end=0,
            strength=1.0,
            **self.pick("predictor", "clip_vision", "frames"),
        )
        decoder = {name if name == "decoder" else f"decoder.{name}": value for name, value in self.decoder.items()}
        patched = graph.node("StoryReelApplyMotion", model=shown(self.model), motion=motion.out(0), **decoder)
        empty = graph.node("EmptyLatentImage", batch_size=self.frames, **self.pick("width", "height"))
        sampled = graph.node(
            "KSampler",
            model=patched.out(0),
            latent_image=empty.out(0),
            seed=self.seed_of(number),
            denoise=1.0,
            **self.rows(number),
            **self.pick("steps", "cfg", "sampler_name", "scheduler"),
        )
        return {"samples": sampled.out(0)}
