"""The brute force for attention maps: attention over values that say whose a token is gives the share of each image.

All values of image i are unit vector i, so the output of a query is the sum of its weights by image.
"""

from collections import defaultdict

import torch

from . import transformers
from .bank_probe import ReadingProbe
from .probe import TOLERANCE, Probe

WIDTH = 8  # of a unit vector: images of the batch and of the bank


def units(rows, images, tokens, heads, width=WIDTH):
    """Values [rows, tokens, heads * width] of rows that are `images` images over and over."""
    labels = torch.eye(images, width, dtype=torch.double).repeat(rows // images, 1)
    return labels[:, None, None].expand(rows, tokens, heads, width).flatten(2)


class Sums:
    """Shares by (step, layer, cond): those of every call."""

    def __init__(self):
        self.calls = defaultdict(list)

    def add(self, key, rows, shares):
        """shares: [rows, width]; columns are numbered as the rows of the call."""
        self.calls[key].append((rows, shares))

    def check(self, found, cond):
        """A map agrees for every layer and step, and in the mean of all."""
        images, columns = len(found.frames), len(found.frames) + len(found.stored)
        keys = [(step, layer, cond) for step in found.steps for layer in found.layers]
        assert {key for key in self.calls if key[2] == cond} <= set(keys)
        total, borrowed = 0, 0
        for step, layer, _ in keys:
            sums, counts = torch.zeros(images, columns, dtype=torch.double), torch.zeros(images, 1)
            for rows, shares in self.calls.get((step, layer, cond), ()):
                places = [*rows, *range(images, columns)]
                for row, values in zip(rows, shares, strict=True):
                    counts[row] += 1
                    for place, value in zip(places, values.tolist(), strict=False):
                        sums[row, place] += value
            expected = torch.where(counts > 0, sums / counts.clamp(min=1), torch.eye(images, columns).double())
            ours = found.shares(cond, [layer], [step])
            assert (ours - expected).abs().max() <= TOLERANCE
            assert (ours.sum(1) - 1).abs().max() <= TOLERANCE
            total, borrowed = total + expected, borrowed + (1 - expected.diagonal()).sum()
        assert (found.shares(cond) - total / len(keys)).abs().max() <= TOLERANCE
        return borrowed.item()


class MapProbe(Probe):
    """Watches the calls of a MODEL, and what the brute force borrows in them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.sums = Sums()

    def over(self, patch):
        def probe(q, k, v, extra_options):
            layer, heads = patch.layers[extra_options["block_index"]].number, extra_options["n_heads"]
            kinds = extra_options["cond_or_uncond"]
            images = len(q) // len(kinds)
            out = self.reference(q, k, units(len(q), images, k.shape[1], heads), layer, extra_options)
            window = extra_options.get("context_window")
            rows = list(range(images)) if window is None else list(window.index_list)
            if out is not None:
                schedule = extra_options["sample_sigmas"].tolist()
                step = float(f"{schedule[self.steps[-1]]:.6g}")
                means = out.unflatten(-1, (heads, WIDTH)).mean((1, 2)).split(images)
                for kind, shares in zip(kinds, means, strict=True):
                    self.sums.add((step, layer, kind), rows, shares)
            return patch(q, k, v, extra_options)

        return probe

    def check(self, found, cond):
        return self.sums.check(found, cond)


class ReadingMapProbe(MapProbe, ReadingProbe):
    """The same for runs that read a bank. Stored tokens get the unit vector of their image behind their channels, which
    the projection to values picks out."""

    def stored(self, sigma, layer, pixels, kind, frame, chance):
        images = [recording.images[place].characters for recording, place in self.bank.images]
        read = [place for place, characters in enumerate(images) if characters & self.cast[frame]]
        for place, tokens in zip(read, super().stored(sigma, layer, pixels, kind, frame, chance), strict=False):
            label = torch.eye(WIDTH, dtype=torch.double)[len(self.cast) + place]
            yield torch.cat([tokens, label.expand(len(tokens), -1)], 1)

    def weight(self, layer, name):
        weight = super().weight(layer, name)
        heads = self.model.model.diffusion_model.get_submodule(self.paths[layer]).heads
        picked = torch.cat([torch.zeros(WIDTH * heads, weight.shape[1]), torch.eye(WIDTH).repeat(heads, 1)], 1).double()
        return picked if name == "to_v" else torch.cat([weight, torch.zeros(len(weight), WIDTH)], 1)


class TransformerMapProbe(transformers.BruteForce):
    """The brute force of a transformer, which keeps what it borrowed."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.sums = Sums()

    def attend(self, q, k, v, first, mask, options, block):
        kinds, heads, width = options["cond_or_uncond"], q.shape[2], q.shape[3]
        images = len(q) // len(kinds)
        values = units(len(q), images, k.shape[1], heads, width).unflatten(-1, (heads, width))
        out = super().attend(q, k, values, first, mask, options, block)[:, first : first + self.tokens]
        step = float(f"{min(s for s in options['sample_sigmas'].tolist() if s >= float(self.sigmas[0]) * 0.99999):.6g}")
        for kind, shares in zip(kinds, out.mean((1, 2)).split(images), strict=True):
            self.sums.add((step, block, kind), range(images), shares)
        return super().attend(q, k, v, first, mask, options, block)
