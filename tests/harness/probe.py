"""Watching a patched MODEL sample: every self-attention call is compared with the brute force as it happens."""

import nodes
import torch
from storyreel.core.attention import draws
from storyreel.core.attention.presets import PRESETS
from storyreel.host.attention.unet import SharedAttention

from . import brute

ONE = frozenset({"the hero"})
TOLERANCE = 1e-5


def sample(model, positive, negative, latent, *, steps=2, cfg=5.0, sampler="euler", seed=1, start=0):
    """What the KSampler node returns."""
    with torch.no_grad():
        return nodes.common_ksampler(model, seed, steps, cfg, sampler, "normal", positive, negative, latent)[0][
            "samples"
        ]


def conditioning(images, width, seed, tokens=77, **options):
    generator = torch.Generator().manual_seed(seed)
    if width == 2048:
        options.setdefault("pooled_output", torch.randn(images, 1280, generator=generator))
    return [[torch.randn(images, tokens, width, generator=generator), options]]


def latent(images, height=8, width=8):
    return {"samples": torch.zeros(images, 4, height, width)}


class Probe:
    """Stands over each of our patches in a model and checks what it returns.

    values: the node's inputs, preset and all. cast: names in each frame. mask: as the node takes it. `calls` counts
    what happened; `errors` holds the largest deviation of each shared call, relative to the reference's largest value.
    """

    def __init__(
        self, model, preset="low-vram", cast=None, strength=1.0, seed=0, apply_to="both", mask=None, **changed
    ):
        self.values = {**PRESETS[preset], **changed}
        self.cast, self.strength, self.seed, self.apply_to, self.mask = cast, strength, seed, apply_to, mask
        self.calls = {"plain": 0, "shared": 0}
        self.errors, self.steps, self.foreign = [], [], None
        self.model = model.clone()
        sampling = model.get_model_object("model_sampling")
        percents = ("start_percent", "end_percent", "layer_prob_switch")
        self.start, self.end, self.switch = (sampling.percent_to_sigma(self.values[name]) for name in percents)
        self.numbers = {}
        replacements = self.model.model_options["transformer_options"]["patches_replace"]["attn1"]
        for key, patch in replacements.items():
            if isinstance(patch, SharedAttention):
                replacements[key] = self.over(patch)

    def over(self, patch):
        def probe(q, k, v, extra_options):
            out = patch(q.clone(), k.clone(), v.clone(), extra_options)
            reference = self.reference(q, k, v, patch.layers[extra_options["block_index"]].number, extra_options)
            if reference is None:
                self.calls["plain"] += 1
                reference = self.plain(q, k, v, extra_options["n_heads"])
            else:
                self.calls["shared"] += 1
            self.errors.append(((out.double() - reference).abs().max() / reference.abs().max()).item())
            return out

        return probe

    def plain(self, q, k, v, heads):
        return torch.stack(
            [brute.attention(q[i], k[i : i + 1], v[i : i + 1], heads, torch.ones(1, k.shape[1])) for i in range(len(q))]
        )

    def reference(self, q, k, v, layer, extra_options):
        values = self.values
        sigma, schedule = float(extra_options["sigmas"][0]), extra_options["sample_sigmas"].tolist()
        # The step is the last one of the schedule that is not below sigma (host and schedule differ by rounding).
        number = max([i for i, s in enumerate(schedule) if s >= sigma * (1 - 1e-5)], default=0)
        self.steps.append(number)
        step = float(f"{schedule[number]:.6g}")
        # A run that ends without noise never has its last step before the start.
        start = max(self.start, schedule[-2]) if schedule[-1] == 0 else self.start
        dense = values["dense_early_read"] and sigma > start
        if not dense:
            if sigma > start or sigma < self.end:
                return None
            chance = values["layer_prob_early" if sigma > self.switch else "layer_prob_late"]
            if draws.coin(self.seed, step, layer) >= chance:
                return None
        kinds = extra_options["cond_or_uncond"]
        images = len(q) // len(kinds)
        frames = list(range(images))
        if "context_window" in extra_options:
            window = extra_options["context_window"]
            anchor = getattr(window, "causal_anchor_index", None)
            frames = ([] if anchor is None or anchor < 0 else [anchor]) + list(window.index_list)
        if len(frames) == 1:
            return None
        casts = {frame: ONE if self.cast is None else self.cast[frame] for frame in frames}
        height, width = extra_options["original_shape"][-2:]
        here = extra_options["activations_shape"]
        pixels = min((8, 16, 32, 64), key=lambda p: abs(height * 8 / p - here[-2]) + abs(width * 8 / p - here[-1]))
        rate = values["sampling_rate" if pixels >= 32 or values["include_self"] else "sampling_rate_fine"]
        key, tokens = (self.seed, step, pixels), k.shape[1]
        inside = {frame: self.inside(frame, *here[-2:]) for frame in frames}
        out = []
        for chunk, kind in enumerate(kinds):
            rows = slice(chunk * images, (chunk + 1) * images)
            part = (q[rows], k[rows], v[rows], extra_options["n_heads"])
            if self.apply_to not in ("both", "uncond" if kind == 1 else "cond"):
                out.append(self.plain(*part))
            elif dense:
                out.append(self.dense_read(part, frames, casts))
            elif values["include_self"]:
                out.append(
                    brute.algorithm_1(
                        *part, frames, casts, values["tile_size"], values["tile_stride"],
                        lambda first, pool: [
                            index[inside[frame][index]]
                            for frame, index in zip(
                                pool, draws.sample_window(*key, first, pool, tokens, rate), strict=True
                            )
                        ], self.strength,
                    )
                )  # fmt: skip
            else:
                out.append(
                    brute.published(
                        *part, frames, casts, values["anchors"],
                        lambda frame: (index := draws.sample_each(*key, frame, tokens, rate))[inside[frame][index]],
                        self.strength,
                    )
                )  # fmt: skip
            if self.mask is not None:
                borrows = torch.stack([inside[frame] for frame in frames])[..., None]
                out[-1] = torch.where(borrows, out[-1], self.plain(*part))
        return torch.cat(out)

    def inside(self, frame, height, width):
        """Which tokens of a frame are at least half in the mask, counted pixel by pixel. bool [height * width]"""
        if self.mask is None:
            return torch.ones(height * width, dtype=torch.bool)
        mask = self.mask[frame if len(self.mask) > 1 else 0]
        tall, wide = mask.shape[0] // height, mask.shape[1] // width
        cells = [
            mask[y * tall : (y + 1) * tall, x * wide : (x + 1) * wide] for y in range(height) for x in range(width)
        ]
        return torch.tensor([cell.sum().item() * 2 >= cell.numel() for cell in cells])

    def dense_read(self, part, frames, casts):
        """Mask version, early: frames that only read see all tokens of their anchors, anchors only their own."""
        anchors = {j for frame in frames for j in brute.sources_of(frame, casts, self.values["anchors"])}
        everything = brute.published(*part, frames, casts, self.values["anchors"], lambda frame: slice(None))
        plain = self.plain(*part)
        return torch.stack([plain[i] if f in anchors else everything[i] for i, f in enumerate(frames)])

    def check(self, shared=True):
        """Every call agreed with the brute force, and sharing took place (or did not)."""
        assert max(self.errors) <= TOLERANCE, f"largest error {max(self.errors):.2g}"
        assert (self.calls["shared"] > 0) == shared, self.calls


def node(
    host,
    model,
    preset="low-vram",
    *,
    story=None,
    mask=None,
    strength=1.0,
    seed=0,
    apply_to="both",
    positions="same",
    memory_mb=64,
    bank=None,
    record_attention=False,
    **changed,
):
    """The model that StoryReelConsistentAttention returns."""
    from storyreel.nodes.attention import StoryReelConsistentAttention

    return StoryReelConsistentAttention.execute(
        model=model,
        preset={"preset": preset, **changed},
        strength=strength,
        seed=seed,
        story=story,
        mask=mask,
        record_attention=record_attention,
        apply_to=apply_to,
        positions=positions,
        memory_mb=memory_mb,
        bank=bank,
    ).result[0]


def story_of(*casts):
    """A STORY with these names in its frames."""
    from storyreel.core.story.story import Character, Frame, Story

    names = sorted(set("".join(casts)))
    frames = [Frame(i + 1, cast, cast, tuple(cast), "") for i, cast in enumerate(casts)]
    return Story(tuple(Character(name, name) for name in names), tuple(frames), "(No style)", "")
