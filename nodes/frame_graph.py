"""The graph that draws a long story: one branch for each batch of frames, from its prompts to its files.

First come the anchor frames of the characters, which are recorded, then all other frames, which read the recordings.
Each branch starts once the batch before it is on disk. What is on disk already gets no branch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from ..core.story.noise import DIFFERENT
from ..core.text import numbered
from ..host.attention.families import family_of
from ..host.common import messages
from ..host.common.conditioning import shapes_of, stack_rows
from ..host.common.graph import GraphBuilder, first_of_kind, new_expansion
from ..host.story.drawn_frames import Drawn, FrameFolder, Index, file_name
from ..host.story.frame_plan import FramePlan, describe_dependents
from ..host.story.shot_progress import with_steps
from .frame_inputs import StoryFrames

PRESET = "low-vram"
ATTENTION_SEED = 0  # of the choice of tokens: the frames' own seeds decide about their noise alone


@dataclass(frozen=True)
class Batch:
    """Frames that are drawn together, by their numbers from 0, and their prompts.

    group: the place in the plan of the anchor group that they are; None: they are none.
    """

    numbers: tuple[int, ...]
    positive: list
    negative: list
    group: int | None = None


class FrameGraph:
    """The expansion of one run. node: the id of the node that expands, in the host's DynamicPrompt `prompt`."""

    def __init__(self, inputs: StoryFrames, prompt, node: str):
        self.inputs, self.node = inputs, node
        self.folder = FrameFolder(inputs.name)
        self.index: Index = self.folder.read()
        self.locked = inputs.locked(self.folder, self.index)
        self.plan: FramePlan = inputs.plan(prompt, first_of_kind(prompt, node))
        self.graph, self.expansion = GraphBuilder(), new_expansion()
        self.banks: list | None = None  # the link to the banks of the batch before, if the next one reads them, too

    def expand(self) -> tuple[dict, list, list]:
        """The graph that draws what is missing, and the links to its IMAGE and its STORYREEL_BANK."""
        self.show_state()
        finished = {number: self.drawn(number) for number in range(self.inputs.count) if self.is_finished(number)}
        frames = {number + 1: drawn for number, drawn in (finished | self.locked).items()}
        if not frames.items() <= self.index.frames.items():
            self.folder.add({}, frames)
        batches, after = self.batches, ""
        for place, batch in enumerate(batches):
            is_last = place + 1 == len(batches) or self.reads(batches[place + 1]) != self.reads(batch)
            after = self.add_batch(batch, after, is_last)
        files = [self.locked[number].file if number in self.locked else self.file(number) for number in self.numbers]
        collected = self.graph.node(
            "StoryReelCollectFrames",
            files="\n".join(files),
            keys=" ".join(self.plan.group_keys),
            after=after,
            **self.bank_input(True),
            **self.shared,
        )
        return self.graph.finalize(), collected.out(0), collected.out(1)

    @property
    def numbers(self) -> range:
        return range(self.inputs.count)

    @property
    def shared(self) -> dict:
        return {"name": self.inputs.name, "expansion": self.expansion}

    def is_finished(self, number: int) -> bool:
        """Whether the image of the frame is on disk, and of an anchor frame the whole group."""
        group = self.plan.group_of(number)
        if group is None:
            return self.plan.keys[number] in self.index.images
        keys = {self.plan.keys[anchor] for anchor in self.plan.groups[group].frames}
        return self.plan.group_keys[group] in self.index.banks and keys <= self.index.images.keys()

    def file(self, number: int) -> str:
        """The image of a frame: the one that is there, or the one that will be. Equal frames have one."""
        key = self.plan.keys[number]
        return self.index.images.get(key) or file_name(self.plan.keys.index(key), key)

    def drawn(self, number: int) -> Drawn:
        plan, inputs = self.plan, self.inputs
        own = plan.own[number], plan.reads[number], inputs.seeds[number]
        return Drawn(self.file(number), inputs.prompt_names[number], *own)

    def show_state(self) -> None:
        """Show on the node how much is on disk, what will be drawn again for another frame's sake, and which settings
        have no effect."""
        inputs = self.inputs
        missing = [number for number in self.numbers if number not in self.locked and not self.is_finished(number)]
        for sentence in describe_dependents(self.plan, self.index, missing):
            messages.warn(sentence)
        if inputs.at_once < inputs.frames_at_once:
            messages.warn(
                f"with {inputs.sampler_name} an image depends on the others of its batch, so all frames but the "
                "anchors are drawn one at a time, and frames_at_once has no effect."
            )
        if not inputs.strength and any(inputs.story.cast):
            messages.warn("strength is 0, so no frame reads another one, and the bank is empty.")
        if len(missing) < inputs.count:
            messages.show_progress(f"{inputs.count - len(missing)} of {inputs.count} frames are on disk", self.node)

    @cached_property
    def batches(self) -> list[Batch]:
        """What is drawn, in this order: whole anchor groups, then other frames, of which only such are in one batch
        that come out as they would alone."""
        plan, inputs = self.plan, self.inputs
        batches = [
            Batch(group.frames, *inputs.encode_together(group.frames), place)
            for place, group in enumerate(plan.groups)
            if not self.is_finished(group.frames[0])
        ]
        first = {key: number for number, key in reversed(list(enumerate(plan.keys)))}
        wanted = {
            first[plan.keys[number]]
            for number in self.numbers
            if plan.group_of(number) is None and number not in self.locked and not self.is_finished(number)
        }
        prompts = {number: inputs.encode(number) for number in sorted(wanted)}

        def kind(number: int) -> tuple:
            return bool(inputs.cast[number]), *map(shapes_of, prompts[number])

        for _, alike in groupby(prompts, kind):
            numbers = tuple(alike)
            for start in range(0, len(numbers), inputs.at_once):
                part = numbers[start : start + inputs.at_once]
                batches.append(Batch(part, *stack_rows(*zip(*(prompts[number] for number in part), strict=True))))
        return batches

    def reads(self, batch: Batch) -> tuple[tuple[str, ...], bool]:
        """The keys of the groups whose recordings a batch reads, and whether it reads the bank that came in."""
        keys = {key for number in batch.numbers for key in self.plan.reads[number].values()}
        own = set() if batch.group is None else {self.plan.group_keys[batch.group]}
        groups = keys & set(self.plan.group_keys) - own
        return tuple(sorted(groups)), bool(keys - groups - own)

    def bank_input(self, wanted: bool) -> dict:
        return {"bank": self.inputs.bank} if wanted and self.inputs.bank is not None else {}

    @cached_property
    def schedule(self) -> dict:
        """Links to the sampler and the noise levels of all batches."""
        inputs = self.inputs
        sampler = self.graph.node("KSamplerSelect", sampler_name=inputs.sampler_name)
        sigmas = self.graph.node("BasicScheduler", denoise=1.0, **inputs.pick("model", "scheduler", "steps"))
        return {"sampler": sampler.out(0), "sigmas": sigmas.out(0)}

    def add_batch(self, batch: Batch, after: str | list, is_last: bool) -> list:
        """Add the nodes that draw a batch once `after` is there; the link that says it is on disk.

        is_last: whether the next batch reads other banks, or none.
        """
        inputs, graph, plan = self.inputs, self.graph, self.plan
        story = inputs.story.pick(batch.numbers)
        frames = numbered("frame", [number + 1 for number in batch.numbers])
        model = with_steps(inputs.model, self.node, f"{frames} of {inputs.count}")
        keep: dict = {"group": ""}
        if any(inputs.cast[number] for number in batch.numbers):
            model, keep = self.add_attention(batch, model, story, after, is_last)
        guider = graph.node("CFGGuider", model=model, positive=batch.positive, negative=batch.negative, cfg=inputs.cfg)
        width, height = inputs.size
        latent = graph.node("StoryReelStoryLatent", story=story, width=width, height=height, noise=DIFFERENT)
        seeds = " ".join(str(inputs.seeds[number]) for number in batch.numbers)
        noise = graph.node("StoryReelFrameNoise", seeds=seeds, after=after, expansion=self.expansion)
        sampled = graph.node(
            "SamplerCustomAdvanced",
            noise=noise.out(0),
            guider=guider.out(0),
            latent_image=latent.out(0),
            **self.schedule,
        )
        keys = [plan.keys[number] for number in batch.numbers]
        equal = [number for number in self.numbers if plan.keys[number] in keys and number not in self.locked]
        kept = graph.node(
            "StoryReelKeepFrames",
            samples=sampled.out(0),
            vae=inputs.vae,
            images=json.dumps([[plan.keys[number], self.file(number)] for number in batch.numbers]),
            frames=json.dumps({number + 1: asdict(self.drawn(number)) for number in equal}),
            **keep,
            **self.shared,
        )
        return kept.out(0)

    def add_attention(self, batch: Batch, model, story, after, is_last: bool) -> tuple[list, dict]:
        """The link to the MODEL that reads banks, or records one, and inputs of the node that keeps the batch."""
        inputs, graph = self.inputs, self.graph
        keys, reads_bank = self.reads(batch)
        read: dict[str, Any] = {}
        keep: dict[str, Any] = {"group": ""}
        if keys or reads_bank:
            if self.banks is None:
                banks = graph.node(
                    "StoryReelTakeBanks", keys=" ".join(keys), after=after, **self.bank_input(reads_bank), **self.shared
                )
                self.banks = banks.out(0)
            read["bank"] = self.banks
            if is_last:
                keep["done"], self.banks = self.banks, None
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
            **read,
        )
        if batch.group is None:
            return patched.out(0), keep
        recorded = graph.node(
            "StoryReelRecordCharacters",
            model=patched.out(0),
            step_stride=1,
            **inputs.pick("precision", "device", "max_gb"),
        )
        return recorded.out(0), keep | {"recorded": recorded.out(1), "group": self.plan.group_keys[batch.group]}
