"""The inputs of Draw Story: their checks, and what each frame is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.attention.anchor_groups import AnchorGroup, anchor_groups
from ..core.attention.bank import Bank
from ..core.story.frame_table import FrameEntry, occurrences, read_table, retake_seed, seed_of
from ..core.story.story import Story
from ..core.text import joined
from ..host.attention.families import family_of
from ..host.common.conditioning import count_rows, encode_story, pick_row, stack_rows
from ..host.common.run_folder import content_name, name_of, run_key, upstream_keys
from ..host.story.drawn_frames import Drawn, FrameFolder, Index
from ..host.story.frame_banks import character_keys
from ..host.story.frame_plan import FramePlan, make_plan
from ..host.story.latents import check_size, trained_size
from ..host.story.noise import mixes_images
from ..host.story.references import References, at_most, check_reads_references, reads_references
from ..host.story.retakes import FrameScores

if TYPE_CHECKING:
    from comfy_api.latest import io

PROMPTS = ("positive", "negative")


@dataclass(frozen=True, kw_only=True)
class StoryFrames:
    """The inputs of Draw Story. frames: the table of seeds and locks. bank: None if there is none, and before it is
    computed. width, height: 0 = as the model was trained."""

    model: io.Model.Type
    vae: io.Vae.Type
    story: Story
    width: int
    height: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int
    anchors: int
    frames_at_once: int
    strength: float
    sampling_rate: float
    name: str
    frames: str = ""
    precision: str = "fp16"
    device: str = "cpu"
    max_gb: float = 8.0
    clip: io.Clip.Type | None = None
    positive: io.Conditioning.CondList | None = None
    negative: io.Conditioning.CondList | None = None
    bank: Bank | None = None
    clip_vision: io.ClipVision.Type | None = None
    retakes: int = 0
    retake_threshold: float = 1.0
    references: References | None = None
    anchor_references: bool = False

    def pick(self, *names: str) -> dict:
        """Inputs by their names."""
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Raise ValueError for inputs that cannot be drawn."""
        if self.vae is None:
            raise ValueError("vae is empty: the checkpoint has none. Use Load VAE.")
        self.check_prompts()
        if self.retakes and self.clip_vision is None:
            raise ValueError(
                f"retakes is {self.retakes} and clip_vision is not connected; connect an image encoder, which scores "
                "the frames, or set retakes to 0."
            )
        self.check_references()
        check_size(width=self.width or None, height=self.height or None)
        folder = FrameFolder(self.name)
        self.locked(folder, folder.read())

    def check_prompts(self) -> None:
        """Raise ValueError unless there is one source of prompts, and one prompt for each frame."""
        given = [name for name in ("clip", *PROMPTS) if getattr(self, name) is not None]
        if given not in (["clip"], list(PROMPTS)):
            found = f"{joined(given)} {'is' if len(given) == 1 else 'are'}" if given else "nothing is"
            raise ValueError(f"{found} connected; either clip, or positive and negative are expected.")
        if self.clip is not None:
            return
        count = len(self.story.frames)
        for name in PROMPTS:
            rows = count_rows(getattr(self, name))
            if rows != count and not (rows == 1 and name == "negative"):
                raise ValueError(
                    f"{name} holds {rows} prompt{'s'[: rows != 1]} and the story {count} frames; one prompt a frame is "
                    "expected. Connect clip instead, or Encode Story with this story."
                )

    def check_references(self) -> None:
        """Raise ValueError for references that the MODEL cannot read, and for a MODEL whose frames read nothing."""
        if self.reads_references:
            check_reads_references(self.model)
        elif self.strength and any(self.story.cast) and not self.records:
            family = family_of(self.model)
            choices = ["set strength to 0, which draws every frame by itself"]
            if reads_references(self.model):
                choices[:0] = ["connect references", "turn on anchor_references"]
            raise ValueError(
                f"MODEL is {family.name if family else 'unknown'}, whose frames cannot read a bank of other frames: "
                f"{joined(choices, 'or')}."
            )

    @property
    def reads_references(self) -> bool:
        """Whether frames get reference images."""
        return self.references is not None or self.anchor_references

    @property
    def records(self) -> bool:
        """Whether anchor frames are recorded for the others to read: of UNets."""
        return family_of(self.model) is None

    def locked(self, folder: FrameFolder, index: Index) -> dict[int, Drawn]:
        """{frame: the image that it keeps}. Raises ValueError for a frame without an image, and for another size."""
        kept = {}
        for number in sorted(number for number, entry in self.table.items() if entry.locked):
            name = self.prompt_names[number]
            moved = (drawn for drawn in index.frames.values() if drawn.prompt == name)
            drawn = next(moved, index.frames.get(number + 1))
            if drawn is None:
                raise ValueError(
                    f"frames locks frame {number + 1}, which has no image in {folder.path} yet; draw it without the "
                    "lock first."
                )
            size = folder.size_of(drawn.file)
            if size != self.size:
                raise ValueError(
                    f"frames locks frame {number + 1}, whose image has {size[0]} x {size[1]} pixels; "
                    f"{self.size[0]} x {self.size[1]} is expected."
                )
            kept[number] = drawn
        return kept

    @property
    def count(self) -> int:
        return len(self.story.frames)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        side = trained_size(self.model)
        return self.width or side, self.height or side

    @cached_property
    def table(self) -> dict[int, FrameEntry]:
        return read_table(self.frames, self.count)

    @cached_property
    def cast(self) -> tuple[frozenset[str], ...]:
        """Who is in which frame, as far as it counts: at strength 0 nobody shares anything, and where frames read
        reference images, those count who have some."""
        if self.records:
            return self.story.cast if self.strength else (frozenset(),) * self.count
        if self.anchor_references:
            return self.story.cast
        return tuple(names & self.given.keys() for names in self.story.cast)

    @cached_property
    def given(self) -> dict[str, list[Tensor]]:
        """The reference images [1, h, w, 3] of the characters that have some."""
        images = {} if self.references is None else self.references.images
        return {name: at_most(batch, *self.size) for name, batch in images.items()}

    @cached_property
    def seeds(self) -> list[int]:
        """The seed of each frame's noise."""
        own = map(seed_of, [self.seed] * self.count, self.story.prompts, occurrences(self.story.prompts))
        entries = [self.table.get(number, FrameEntry()) for number in range(self.count)]
        return [seed if entry.seed is None else entry.seed for seed, entry in zip(own, entries, strict=True)]

    @cached_property
    def prompt_names(self) -> list[str]:
        """A name for each frame that follows it when frames before it come and go."""
        prompts = self.story.prompts
        return [name_of(entry)[:12] for entry in zip(prompts, occurrences(prompts), strict=True)]

    def retaken(self, groups: Sequence[AnchorGroup]) -> set[int]:
        """The frames that may be drawn again: they show a character with anchor frames, are none themselves, and the
        table says nothing of them."""
        if not self.retakes or self.clip_vision is None:
            return set()
        anchors = {number for group in groups for number in group.frames}
        names = frozenset().union(*(group.characters for group in groups))
        return {number for number in range(self.count) if self.cast[number] & names} - anchors - self.table.keys()

    @property
    def at_once(self) -> int:
        """How many frames can be drawn at once and come out as they would alone."""
        return 1 if mixes_images(self.sampler_name) or self.reads_references else self.frames_at_once

    def plan(self, prompt, node: str) -> FramePlan:
        """prompt: the host's DynamicPrompt. node: the id in it of the node that draws."""
        sources = ("clip",) if self.clip is not None else ()
        width, height = self.size
        size: dict[str, object] = {"width": width, "height": height}
        read = self.pick("model", "vae", "steps", "cfg", "sampler_name", "scheduler", *sources) | size
        settings = run_key(prompt, node, read)
        sharing = run_key(prompt, node, self.pick("strength", "sampling_rate", "precision"))
        upstream = upstream_keys(prompt, node, PROMPTS)
        known = character_keys(self.bank) if self.records and self.bank is not None else {}
        known |= {name: content_name(images, "")[:12] for name, images in self.given.items()}
        groups = anchor_groups(self.cast, known.keys(), self.anchors)
        retaken = self.retaken(groups)
        tries = []
        for number, names in enumerate(self.cast):
            if self.clip is not None:
                content = [self.story.prompts[number], self.story.negative]
            else:
                content = [content_name(pick_row(getattr(self, name), number), upstream[name]) for name in PROMPTS]
            seeds = [self.seeds[number]]
            if number in retaken:
                seeds += [retake_seed(seeds[0], retake) for retake in range(1, self.retakes + 1)]
            order = [name for name in self.story.frames[number].characters if name in names]
            shared = sharing if self.records else [sharing, order]  # reference images are in the order of the tags
            own = [name_of([settings, content, seed, shared if names else None])[:12] for seed in seeds]
            tries.append(list(zip(seeds, own, strict=True)))
        return make_plan(tries, self.cast, groups, self.anchors, known)

    def scores(self, plan: FramePlan, folder: FrameFolder, prompt, node: str) -> FrameScores | None:
        """How frames are scored; None if none may be drawn again. plan, prompt, node: as in `plan`."""
        if all(len(tries) == 1 for tries in plan.tries):
            return None
        encoder = run_key(prompt, node, self.pick("clip_vision"))
        return FrameScores(folder, plan, self.cast, self.clip_vision, encoder, self.retake_threshold, self.model)

    def encode(self, number: int) -> tuple[list, list]:
        """Positive and negative of one frame, alone."""
        if self.clip is not None:
            return encode_story(self.clip, [self.story.prompts[number]], self.story.negative)
        positive, negative = (pick_row(getattr(self, name), number) for name in PROMPTS)
        return positive, negative

    def encode_together(self, numbers: Sequence[int]) -> tuple[list, list]:
        """Positive and negative of a batch, whose prompts may have different lengths."""
        if self.clip is not None:
            return encode_story(self.clip, [self.story.prompts[number] for number in numbers], self.story.negative)
        positives, negatives = zip(*map(self.encode, numbers), strict=True)
        return stack_rows(positives, negatives)
