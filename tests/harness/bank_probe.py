"""The brute force for runs that read a bank."""

import torch
from storyreel.core.attention import draws
from storyreel.host.attention.unet_blocks import self_attention_layers

from . import brute
from .probe import Probe


class ReadingProbe(Probe):
    """Compares every attention call of a run that reads a bank, and shares nothing else, with the brute force.

    Stored tokens are read from the recording's tables and projected by the layer's own weights.
    """

    def __init__(self, model, bank, cast, preset="custom", **options):
        super().__init__(model, preset, cast=cast, **options)
        self.bank = bank
        self.paths = {layer.number: layer.path for layer in self_attention_layers(model)}

    def reference(self, q, k, v, layer, extra_options):
        sigma, schedule = float(extra_options["sigmas"][0]), extra_options["sample_sigmas"].tolist()
        number = max([i for i, s in enumerate(schedule) if s >= sigma * (1 - 1e-5)], default=0)
        self.steps.append(number)
        start = max(self.start, schedule[-2]) if schedule[-1] == 0 else self.start
        if sigma > start or sigma < self.end:
            return None
        chance = self.values["layer_prob_early" if sigma > self.switch else "layer_prob_late"]
        kinds = extra_options["cond_or_uncond"]
        images = len(q) // len(kinds)
        window = extra_options.get("context_window")
        frames = list(range(images)) if window is None else list(window.index_list)
        halvings = {(-(-extra_options["original_shape"][-2] // n)): n for n in (8, 4, 2, 1)}
        pixels = 8 * halvings[extra_options["activations_shape"][-2]]
        found, out = False, []
        for chunk, kind in enumerate(kinds):
            for row, frame in enumerate(frames):
                at = chunk * images + row
                stored = []
                if self.apply_to in ("both", "uncond" if kind == 1 else "cond"):
                    stored = list(self.stored(schedule[number], layer, pixels, kind, frame, chance))
                found |= bool(stored)
                keys, values = (
                    torch.cat([own[at].double(), *(tokens @ self.weight(layer, name).T for tokens in stored)])
                    for own, name in ((k, "to_k"), (v, "to_v"))
                )
                counts = torch.full((len(keys),), float(self.strength))
                counts[: k.shape[1]] = 1
                heads = extra_options["n_heads"]
                out.append(brute.attention(q[at], keys[None], values[None], heads, counts[None]))
        return torch.stack(out) if found else None

    def weight(self, layer, name):
        return self.model.model.diffusion_model.get_submodule(self.paths[layer]).get_submodule(name).weight.double()

    def stored(self, sigma, layer, pixels, kind, frame, chance):
        for recording in self.bank.recordings:
            origin = recording.origin
            nearest = min({step for step, _ in recording.layers}, key=lambda step: abs(step - sigma))
            layers = recording.layers.get((nearest, pixels), ())
            if layer not in layers or draws.coin(origin.seed, nearest, layer) >= chance:
                continue
            rate = self.values["sampling_rate" if pixels >= 32 else "sampling_rate_fine"]
            recorded = origin.sampling_rate if pixels >= 32 else origin.sampling_rate_fine
            for place, image in enumerate(recording.images):
                tokens = recording.tokens.get((place, nearest, pixels, kind))
                if tokens is None or not image.characters & self.cast[frame]:
                    continue
                tokens = tokens[layers.index(layer)].double()
                if rate < recorded:
                    key = (origin.seed, nearest, pixels, image.number, recording.levels[pixels].tokens)
                    kept = set(draws.sample_each(*key, rate).tolist())
                    index = recording.indices[place, nearest, pixels].tolist()
                    tokens = tokens[[number for number, token in enumerate(index) if token in kept]]
                yield tokens
