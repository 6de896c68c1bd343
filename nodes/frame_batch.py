"""The nodes that draw one batch of a long story's frames: from its prompts to its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..core.story.noise import DIFFERENT
from ..core.text import numbered
from ..host.attention.families import family_of
from ..host.common.conditioning import stack_rows
from ..host.common.graph import GraphBuilder
from ..host.story.drawn_frames import Drawn, FrameFolder, Index, file_name
from ..host.story.frame_plan import FramePlan, Try
from ..host.story.retakes import FrameScores
from ..host.story.shot_progress import with_steps
from .frame_inputs import StoryFrames

PRESET = "low-vram"
ATTENTION_SEED = 0  # of the choice of tokens: the frames' own seeds decide about their noise alone


@dataclass(frozen=True)
class FrameRun:
    """What all batches of a run of Draw Story have in common.

    locked: {frame: the image that it keeps}. scores: of the frames that may be drawn again; None: none may. node: the
    id of the node that draws. expansion: the name of its expansion.
    """

    inputs: StoryFrames
    plan: FramePlan
    folder: FrameFolder
    locked: dict[int, Drawn]
    scores: FrameScores | None
    node: str
    expansion: str

    @property
    def shared(self) -> dict:
        return {"name": self.inputs.name, "expansion": self.expansion}

    def is_scored(self, number: int) -> bool:
        """Whether the frame may be drawn again."""
        return self.scores is not None and self.scores.covers(number)

    def drawn(self, number: int, one: Try, index: Index) -> Drawn:
        """A frame as one of its tries. Equal ones have one file: the one that is there, or the one that will be."""
        keys = ({same.key for same in tries} for tries in self.plan.tries)
        first = next(place for place, known in enumerate(keys) if one.key in known)
        file = index.images.get(one.key) or file_name(first, one.key)
        return Drawn(file, self.inputs.prompt_names[number], one.own, self.plan.reads[number], one.seed)

    def kept(self, number: int, index: Index) -> Drawn:
        """A frame as it is shown, once its tries are drawn."""
        if number in self.locked:
            return self.locked[number]
        one = self.plan.tries[number][0]
        if self.scores is not None and self.is_scored(number):
            one, _ = self.scores.next(number, index)
        return self.drawn(number, one, index)


@dataclass(frozen=True)
class Batch:
    """Frames that are drawn together, by their numbers from 0, and their prompts.

    tries: which one of each frame. group: the place in the plan of the anchor group that they are; None: they are none.
    """

    numbers: tuple[int, ...]
    tries: tuple[Try, ...]
    positive: list
    negative: list
    group: int | None = None


@dataclass(frozen=True)
class Tries:
    """Frames that are drawn together until each one's best try is known. prompts: positive and negative of each."""

    run: FrameRun
    prompts: dict[int, tuple[list, list]]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.prompts)

    def batch(self, tries: dict[int, Try]) -> Batch:
        """Of these frames, by their numbers."""
        prompts = (self.prompts[number] for number in tries)
        return Batch(tuple(tries), tuple(tries.values()), *stack_rows(*zip(*prompts, strict=True)))


class BatchGraph:
    """Adds the nodes of batches to a graph. index: what was on disk before."""

    def __init__(self, run: FrameRun, index: Index, graph: GraphBuilder):
        self.run, self.index, self.graph = run, index, graph

    @cached_property
    def schedule(self) -> dict:
        """Links to the sampler and the noise levels of all batches."""
        inputs = self.run.inputs
        sampler = self.graph.node("KSamplerSelect", sampler_name=inputs.sampler_name)
        sigmas = self.graph.node("BasicScheduler", denoise=1.0, **inputs.pick("model", "scheduler", "steps"))
        return {"sampler": sampler.out(0), "sigmas": sigmas.out(0)}

    def add(self, batch: Batch, after: str | list, bank=None, done=None) -> list:
        """Add the nodes that draw a batch once `after` is there; the link that says it is on disk.

        bank: that the batch reads. done: a bank that no further batch reads. Both are links or values.
        """
        run, graph = self.run, self.graph
        inputs, plan = run.inputs, run.plan
        story = inputs.story.pick(batch.numbers)
        model = with_steps(inputs.model, run.node, self.describe(batch))
        keep: dict[str, Any] = {"group": ""}
        if self.shares(batch):
            model, keep = self.add_attention(batch, model, story, bank)
        if done is not None:
            keep["done"] = done
        prompts = self.add_references(batch, after)
        guider = graph.node("CFGGuider", model=model, cfg=inputs.cfg, **prompts)
        width, height = inputs.size
        latent = graph.node("StoryReelStoryLatent", story=story, width=width, height=height, noise=DIFFERENT)
        seeds = " ".join(str(one.seed) for one in batch.tries)
        noise = graph.node("StoryReelFrameNoise", seeds=seeds, after=after, expansion=run.expansion)
        sampled = graph.node(
            "SamplerCustomAdvanced",
            noise=noise.out(0),
            guider=guider.out(0),
            latent_image=latent.out(0),
            **self.schedule,
        )
        keys = [one.key for one in batch.tries]
        files = [
            run.drawn(number, one, self.index).file for number, one in zip(batch.numbers, batch.tries, strict=True)
        ]
        equal = {
            number + 1: asdict(run.drawn(number, plan.tries[number][0], self.index))
            for number in range(inputs.count)
            if plan.keys[number] in keys and number not in run.locked and not run.is_scored(number)
        }
        kept = graph.node(
            "StoryReelKeepFrames",
            samples=sampled.out(0),
            vae=inputs.vae,
            images=json.dumps(list(zip(keys, files, strict=True))),
            frames=json.dumps(equal),
            **keep,
            **run.shared,
        )
        return kept.out(0)

    def describe(self, batch: Batch) -> str:
        """For the line of progress: frames, and which retakes they are."""
        run = self.run
        text = f"{numbered('frame', [number + 1 for number in batch.numbers])} of {run.inputs.count}"
        places = {run.plan.tries[number].index(one) for number, one in zip(batch.numbers, batch.tries, strict=True)} - {
            0
        }
        return f"{text}, {numbered('retake', sorted(places))}" if places else text

    def shares(self, batch: Batch) -> bool:
        """Whether its frames read a bank or, as anchor frames, each other."""
        inputs = self.run.inputs
        if inputs.records:
            return any(inputs.cast[number] for number in batch.numbers)
        return batch.group is not None and inputs.strength > 0 and len(batch.numbers) > 1

    def add_references(self, batch: Batch, after: str | list) -> dict[str, list]:
        """The prompts of a batch; those of a frame that reads reference images are behind nodes that add these."""
        run, graph = self.run, self.graph
        prompts = {"positive": batch.positive, "negative": batch.negative}
        if not run.inputs.reads_references or batch.group is not None:
            return prompts
        (number,) = batch.numbers
        for image in self.reference_images(number, after):
            latent = graph.node("VAEEncode", pixels=image, vae=run.inputs.vae).out(0)
            for name, prompt in prompts.items():
                prompts[name] = graph.node("ReferenceLatent", conditioning=prompt, latent=latent).out(0)
        return prompts

    def reference_images(self, number: int, after: str | list) -> list:
        """What a frame reads: images that were given, then links to anchor images, each in the order of characters."""
        run, graph = self.run, self.graph
        inputs, shown = run.inputs, run.inputs.story.frames[number].characters
        given = [image for name in shown for image in inputs.given.get(name, ())]
        anchors = dict.fromkeys(
            anchor
            for name in shown
            if name in inputs.cast[number] - inputs.given.keys()
            for anchor in run.plan.anchors_of(number, inputs.cast, name)
        )
        if not anchors:
            return given
        files = "\n".join(run.drawn(anchor, run.plan.tries[anchor][0], self.index).file for anchor in anchors)
        taken = graph.node("StoryReelTakeFrames", files=files, after=after, **run.shared).out(0)
        places = range(len(anchors))
        return given + [graph.node("ImageFromBatch", image=taken, batch_index=i, length=1).out(0) for i in places]

    def add_attention(self, batch: Batch, model, story, bank) -> tuple[list, dict]:
        """The link to the MODEL that reads banks, or records one, and inputs of the node that keeps the batch."""
        run, graph = self.run, self.graph
        inputs = run.inputs
        rates = ("sampling_rate",) if family_of(inputs.model) else ("sampling_rate", "sampling_rate_fine")
        preset = {f"preset.{name}": inputs.sampling_rate for name in rates}
        patched = graph.node(
            "StoryReelConsistentAttention",
            model=model,
            story=story,
            preset=PRESET,
            strength=inputs.strength,
            seed=ATTENTION_SEED,
            **preset,
            **{"preset.anchors": inputs.anchors},
            **({} if bank is None else {"bank": bank}),
        )
        if batch.group is None or not inputs.records:
            return patched.out(0), {"group": ""}
        recorded = graph.node(
            "StoryReelRecordCharacters",
            model=patched.out(0),
            step_stride=1,
            **inputs.pick("precision", "device", "max_gb"),
        )
        return recorded.out(0), {"recorded": recorded.out(1), "group": run.plan.group_keys[batch.group]}
