"""The graph that draws a long story: one branch for each batch of frames, from its prompts to its files.

First come the anchor frames of the characters, which are recorded, then all other frames, which read the recordings.
Each branch starts once the batch before it is on disk. What is on disk already gets no branch.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby

from ..core.text import joined
from ..host.common import messages
from ..host.common.conditioning import shapes_of
from ..host.common.graph import GraphBuilder, first_of_kind, new_expansion
from ..host.story.drawn_frames import FrameFolder, Index
from ..host.story.frame_plan import Try, describe_dependents
from .frame_batch import Batch, BatchGraph, FrameRun, Tries
from .frame_inputs import StoryFrames
from .frame_report import report, unscored


class FrameGraph:
    """The expansion of one run. node: the id of the node that expands, in the host's DynamicPrompt `prompt`."""

    def __init__(self, inputs: StoryFrames, prompt, node: str):
        self.inputs, self.node = inputs, node
        folder = FrameFolder(inputs.name)
        self.index: Index = folder.read()
        first = first_of_kind(prompt, node)
        self.plan = inputs.plan(prompt, first)
        scores = inputs.scores(self.plan, folder, prompt, first)
        locked = inputs.locked(folder, self.index)
        self.run = FrameRun(inputs, self.plan, folder, locked, scores, node, new_expansion())
        self.graph = GraphBuilder()
        self.branches = BatchGraph(self.run, self.index, self.graph)
        self.banks: list | None = None  # the link to the banks of the batch before, if the next one reads them, too

    def expand(self) -> tuple[dict, list, list, str | list]:
        """The graph that draws what is missing, and the links to its IMAGE, its STORYREEL_BANK and its report."""
        run = self.run
        self.show_state()
        frames = {number + 1: run.kept(number, self.index) for number in self.numbers if not self.is_missing(number)}
        if not frames.items() <= self.index.frames.items():
            run.folder.add({}, frames)
        batches, after = self.batches, ""
        for place, batch in enumerate(batches):
            is_last = place + 1 == len(batches) or self.reads(batches[place + 1]) != self.reads(batch)
            after = self.add_batch(batch, after, is_last)
        scored: dict = {} if run.scores is None else {"run": run}
        collected = self.graph.node(
            "StoryReelCollectFrames",
            files="\n".join(run.kept(number, self.index).file for number in self.numbers),
            keys=" ".join(self.plan.group_keys if self.inputs.records else ()),
            after=after,
            **self.bank_input(True),
            **scored,
            **run.shared,
        )
        text = collected.out(2) if scored else report(run, self.index)
        return self.graph.finalize(), collected.out(0), collected.out(1), text

    @property
    def numbers(self) -> range:
        return range(self.inputs.count)

    def is_missing(self, number: int) -> bool:
        """Whether the frame has to be drawn for itself."""
        return number not in self.run.locked and not self.is_finished(number)

    def is_finished(self, number: int) -> bool:
        """Whether the image of the frame is on disk, and of an anchor frame the whole group."""
        group, scores = self.plan.group_of(number), self.run.scores
        if group is not None:
            keys = {self.plan.keys[anchor] for anchor in self.plan.groups[group].frames}
            recorded = not self.inputs.records or self.plan.group_keys[group] in self.index.banks
            return recorded and keys <= self.index.images.keys()
        if scores is not None and scores.covers(number):
            return scores.is_finished(number, self.index)
        return self.plan.keys[number] in self.index.images

    def show_state(self) -> None:
        """Show on the node how much is on disk, what will be drawn again for another frame's sake, and which settings
        have no effect."""
        inputs, run = self.inputs, self.run
        missing = [number for number in self.numbers if self.is_missing(number)]
        for sentence in describe_dependents(self.plan, self.index, missing):
            messages.warn(sentence)
        if inputs.at_once < inputs.frames_at_once:
            why = f"with {inputs.sampler_name} an image depends on the others of its batch"
            if inputs.reads_references:
                why = "each frame has reference images of its own"
            messages.warn(
                f"{why}, so all frames but the anchors are drawn one at a time, and frames_at_once has no effect."
            )
        if inputs.bank is not None and not inputs.records:
            messages.warn("MODEL reads no bank, so bank has no effect.")
        if absent := sorted(inputs.given.keys() - frozenset().union(*inputs.story.cast)):
            names = joined([name or "a character without a name" for name in absent])
            messages.warn(f"no frame shows {names}, so the references have no effect.")
        for sentence in unscored(run):
            messages.warn(sentence)
        if not inputs.strength and inputs.records and any(inputs.story.cast):
            messages.warn("strength is 0, so no frame reads another one, and the bank is empty.")
        if len(missing) < inputs.count:
            messages.show_progress(f"{inputs.count - len(missing)} of {inputs.count} frames are on disk", self.node)

    @cached_property
    def batches(self) -> list[Batch | Tries]:
        """What is drawn, in this order: whole anchor groups, then other frames, of which only such are in one batch
        that come out as they would alone."""
        plan, inputs, run = self.plan, self.inputs, self.run
        batches: list[Batch | Tries] = [
            Batch(group.frames, self.first_tries(group.frames), *inputs.encode_together(group.frames), place)
            for place, group in enumerate(plan.groups)
            if not self.is_finished(group.frames[0])
        ]
        missing = [number for number in self.numbers if plan.group_of(number) is None and self.is_missing(number)]
        first = {(plan.keys[number], run.is_scored(number)): number for number in reversed(self.numbers)}
        wanted = {first[plan.keys[number], run.is_scored(number)] for number in missing}
        prompts = {number: inputs.encode(number) for number in sorted(wanted)}

        def kind(number: int) -> tuple:
            return bool(inputs.cast[number]), run.is_scored(number), *map(shapes_of, prompts[number])

        for _, alike in groupby(prompts, kind):
            numbers = tuple(alike)
            for start in range(0, len(numbers), inputs.at_once):
                part = numbers[start : start + inputs.at_once]
                tries = Tries(run, {number: prompts[number] for number in part})
                scored = run.is_scored(part[0])
                batches.append(tries if scored else tries.batch(dict(zip(part, self.first_tries(part), strict=True))))
        return batches

    def first_tries(self, numbers: tuple[int, ...]) -> tuple[Try, ...]:
        return tuple(self.plan.tries[number][0] for number in numbers)

    def reads(self, batch: Batch | Tries) -> tuple[tuple[str, ...], bool]:
        """The keys of the groups whose recordings a batch reads, and whether it reads the bank that came in."""
        if not self.inputs.records:
            return (), False
        keys = {key for number in batch.numbers for key in self.plan.reads[number].values()}
        group = batch.group if isinstance(batch, Batch) else None
        own = set() if group is None else {self.plan.group_keys[group]}
        groups = keys & set(self.plan.group_keys) - own
        return tuple(sorted(groups)), bool(keys - groups - own)

    def bank_input(self, wanted: bool) -> dict:
        return {"bank": self.inputs.bank} if wanted and self.inputs.bank is not None else {}

    def add_batch(self, batch: Batch | Tries, after: str | list, is_last: bool) -> list:
        """Add the nodes that draw a batch once `after` is there; the link that says it is on disk.

        is_last: whether the next batch reads other banks, or none.
        """
        keys, reads_bank = self.reads(batch)
        bank = None
        if keys or reads_bank:
            bank = self.banks or self.take_banks(keys, reads_bank, after)
            self.banks = None if is_last else bank
        done = bank if is_last else None
        if isinstance(batch, Batch):
            return self.branches.add(batch, after, bank, done)
        read = {} if bank is None else {"bank": bank}
        best = self.graph.node(
            "StoryReelRetakeFrames", tries=batch, is_last=is_last, after=after, expansion=self.run.expansion, **read
        )
        return best.out(0)

    def take_banks(self, keys: tuple[str, ...], reads_bank: bool, after: str | list) -> list:
        banks = self.graph.node(
            "StoryReelTakeBanks", keys=" ".join(keys), after=after, **self.bank_input(reads_bank), **self.run.shared
        )
        return banks.out(0)
