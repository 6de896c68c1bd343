"""Where the characters of a story stand in the images of a sampling run, as its cross-attention shows.

A patch observes the attention of each image to the words of its characters, and changes nothing. In a step, regions
follow from the steps before, so they depend neither on the order of the layers nor on how the host splits conds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import get_attr
from torch import Tensor

from ...core.attention.localization import map_level, separate, word_attention
from ...core.attention.words import positions_of
from ...core.rng import generator
from ...core.story.story import Frame, Story
from ...core.text import joined
from ..common import messages
from .sampling_state import KEY, Misfit, PatchConfig, SamplingState
from .unet_blocks import Layer, networks_of
from .unet_call import UNetCall

FIND = "storyreel_find_characters"  # in transformer_options: the `FindConfig`
NODE = "Find Characters"
OF_A_BLOCK = 2  # so many transformers are observed, evenly spaced: those of a block agree

Positions = Mapping[str, Tensor]  # of the tokens of each character's words in a prompt, [m]


@dataclass(frozen=True, eq=False)
class FindConfig:
    """One application of the node.

    clip: whose tokenizer reads the prompts. layers: of the network. dropout: probability that a token of a region is
    not lent. start_percent: attention counts from there on.
    """

    clip: Any
    layers: Sequence[Layer]
    dropout: float
    start_percent: float
    node: str | None


@dataclass(eq=False)
class FoundRegions:
    """What a run knows so far.

    frames: story frame of each image. positions: {frame: positions of its characters' words}. layers: those that are
    observed. size: height and width of the maps in tokens. start: noise level from which on attention counts.
    sums, counts: {image: sum of maps [characters, N], and of how many}. maps: their means [characters, h, w] before
    the current step.
    """

    config: FindConfig
    seed: int
    frames: tuple[int, ...]
    positions: Mapping[int, Positions]
    networks: Mapping[torch.device, Any]
    layers: Mapping[tuple[str, int, int], Layer]
    size: tuple[int, int]
    start: float
    step: float = math.nan
    sums: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    _regions: dict[tuple, dict[str, Tensor | None]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, find: FindConfig, config: PatchConfig, state: SamplingState, guider, size: Sequence[int]
    ) -> "FoundRegions":
        """size: height and width of the latents. Raises ValueError if Consistent Self-Attention has no STORY."""
        if config.story is None:
            raise ValueError(
                f"{NODE}: Consistent Self-Attention has no STORY; connect the one whose prompts are sampled. It says "
                "which words describe which character."
            )
        decoder = [layer for layer in find.layers if layer.block[0] == "output"]
        sides = {layer: layer.sides(*size) for layer in decoder or find.layers}
        chosen = map_level(list(sides.values()))
        layers = observed([layer for layer, own in sides.items() if own == chosen])
        start = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma(find.start_percent)
        frames = state.all_frames
        positions = find_words(find.clip, config.story, frames)
        found = cls(
            find, config.settings.seed, frames, positions, networks_of(guider), layers, chosen, start * (1 + 1e-5)
        )
        for number in sorted(set(frames)):
            if missing := set(config.story.frames[number].characters) - positions[number].keys():
                found.warn_once(
                    f"the prompt of frame {number + 1} does not hold the words of {joined(sorted(missing), 'and')}, so "
                    "no region is found there."
                )
        return found

    def warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            messages.warn(f"{NODE}: {message}", self.config.node)

    def begin_step(self, step: float) -> None:
        """From now on regions are those that the steps before have shown."""
        self.step = step
        self._regions.clear()
        self.maps = {
            image: (total / self.counts[image]).cpu().unflatten(1, self.size) for image, total in self.sums.items()
        }

    def observe(self, n: Tensor, context: Tensor, options: dict, state: SamplingState) -> None:
        """n [rows, N, C], context [rows, T, C]: what a cross-attention layer projects to queries and keys.

        Raises Misfit for a call of which it is unknown what it shows.
        """
        layer = self.layers.get((*options["block"], options["block_index"]))
        if layer is None or state.step > self.start:
            return
        call = UNetCall.read(layer, n, n, options, state)
        if conflict := state.describe_area(*call.latent_size):
            raise Misfit(conflict)
        network = self.networks.get(n.device) or next(iter(self.networks.values()))
        attention: Any = get_attr(network, layer.path.removesuffix("attn1") + "attn2")
        for chunk, cond in enumerate(call.conds):
            for row, image in enumerate(call.indices):
                words = self.positions[self.frames[image]]
                if cond != 0 or not words:
                    continue
                if (last := max(int(own.max()) for own in words.values())) >= context.shape[1]:
                    raise Misfit(
                        f"the conditioning has {context.shape[1]} tokens, and the prompt of frame "
                        f"{self.frames[image] + 1} has words at token {last + 1}"
                    )
                place = chunk * call.images + row
                q, k = attention.to_q(n[place, None])[0], attention.to_k(context[place, None])[0]
                self.add(image, word_attention(q, k, options["n_heads"], list(words.values())))

    def add(self, image: int, attention: Tensor) -> None:
        """attention: [characters, N] of a layer."""
        if image in self.sums:
            self.sums[image] += attention.to(self.sums[image].device)
        else:
            self.sums[image] = attention
        self.counts[image] = self.counts.get(image, 0) + 1

    def characters(self, image: int) -> frozenset[str]:
        return frozenset(self.positions[self.frames[image]])

    def tokens(self, character: str, image: int, size: tuple[int, int]) -> Tensor | None:
        """The tokens of a character at a level of (height, width) tokens, bool [N]; None while it is not found."""
        if image not in self.maps or character not in self.characters(image):
            return None
        if (image, size) not in self._regions:
            names = self.positions[self.frames[image]]
            self._regions[image, size] = dict(zip(names, separate(self.maps[image], *size), strict=True))
        return self._regions[image, size][character]

    def keep(self, tokens: Tensor, character: str, image: int) -> Tensor:
        """Those tokens bool [N] of a region that the dropout leaves in this step."""
        if not self.config.dropout:
            return tokens
        key = "region dropout", self.seed, self.step, len(tokens), self.frames[image], character
        return tokens & (torch.rand(len(tokens), generator=generator(*key)) >= self.config.dropout)

    def finish(self) -> None:
        """Warn about a finished run that found nobody."""
        if not self.maps and not self.warned and any(map(self.characters, range(len(self.frames)))):
            self.warn_once(
                "no character was found: this run has no two steps after start_percent "
                f"{self.config.start_percent:g}, and regions apply from the second one on."
            )


class ObserveWords:
    """An attn2_patch: it sees what each layer of cross-attention is called with, and changes nothing."""

    @classmethod
    def install(cls, model: ModelPatcher) -> None:
        """Patch a clone of the model, in place of an earlier patch of this kind."""
        patches = model.model_options["transformer_options"].setdefault("patches", {})
        patches["attn2_patch"] = [patch for patch in patches.get("attn2_patch", []) if not isinstance(patch, cls)]
        model.set_model_attn2_patch(cls())

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra_options: dict):
        state: SamplingState | None = extra_options.get(KEY)
        found = None if state is None or state.regions is None else state.regions.found
        if state is not None and found is not None and extra_options.get("block") is not None:
            state.enter(extra_options)
            try:
                found.observe(n, context, extra_options, state)
            except Misfit as misfit:
                found.warn_once(f"{misfit}, so characters are not found there.")
        return n, context, value


def observed(layers: Sequence[Layer]) -> dict[tuple[str, int, int], Layer]:
    """Of the layers of each block, OF_A_BLOCK or fewer, evenly spaced."""
    blocks: dict[tuple[str, int], list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    places = {
        block: {len(own) * (2 * number + 1) // (2 * OF_A_BLOCK) for number in range(OF_A_BLOCK)}
        for block, own in blocks.items()
    }
    return {own[place].key: own[place] for block, own in blocks.items() for place in places[block]}


def find_words(clip, story: Story, frames: Sequence[int]) -> dict[int, Positions]:
    """{frame: positions} of the words of its characters in its prompt, as Encode Story encodes it."""
    words = {character.name: content_of(clip, character.description) for character in story.characters}
    return {number: _find_in_frame(clip, story.frames[number], words) for number in set(frames)}


def _find_in_frame(clip, frame: Frame, words: Mapping[str, dict[str, list]]) -> Positions:
    """A UNet reads the tokens of several encoders side by side, joined by position; so positions of any count."""
    found: dict[str, set[int]] = {}
    for encoder, prompt in content_of(clip, frame.prompt).items() if frame.characters else ():
        own = {name: [token for _, token in words[name][encoder]] for name in frame.characters}
        for name, positions in positions_of(frame.characters, own, prompt).items():
            found.setdefault(name, set()).update(positions)
    return {name: torch.tensor(sorted(found[name])) for name in sorted(found)}


def content_of(clip, text: str) -> dict[str, list[tuple[int, Any]]]:
    """{encoder: (position, token)} of the tokens of a text, without those that start, end and fill up its chunks."""
    content = {}
    for encoder, chunks in clip.tokenize(text, return_word_ids=True).items():
        tokens = [entry for chunk in chunks for entry in chunk]
        content[encoder] = [(place, _comparable(token)) for place, (token, _, word) in enumerate(tokens) if word]
    return content


def _comparable(token) -> Any:
    """A token number; of an embedding its values."""
    return tuple(token.flatten().tolist()) if isinstance(token, Tensor) else token
