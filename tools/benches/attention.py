"""Consistent Self-Attention at the shapes of SDXL's two levels, against plain attention and the published forms."""

import argparse
import json
from functools import partial

from .measures import peak_bytes, seconds
from .transformer_attention import FAMILIES, TransformerLayer

# SDXL at 1024 x 1024: tokens of a level -> (channels, heads).
LEVELS = {1024: (1280, 20), 4096: (640, 10)}
FORMS = ("plain", "ours", "dense_mask", "gather_first")


class Attention:
    """One self-attention layer, projections included, on a batch of cond or uncond, in four forms.

    plain: every image by itself. ours: gathered after projection. dense_mask: the whole batch as one sequence under a
    boolean mask, as the published mask version has it. gather_first: shared tokens are gathered before projection and
    so projected once for every target frame, as the published low-vram version has it.
    """

    def __init__(self, batch: int, tokens: int, rate: float, memory: int, device: str):
        import torch
        from storyreel.core.attention.consistent import Phase, Settings, draw_shared_tokens

        self.batch, self.tokens, self.memory = batch, tokens, memory
        self.channels, self.heads = LEVELS[tokens]
        settings = Settings(sampling_rate=rate, sampling_rate_fine=rate)
        drawn = draw_shared_tokens(settings, None, range(batch), phase=Phase.EARLY, step=0, pixels=32, tokens=tokens)
        self.share = drawn.to(device)
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float32 if device == "cpu" else torch.float16

        def random(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.hidden = random(batch, tokens, self.channels)
        self.to_q, self.to_k, self.to_v, self.to_out = (
            random(self.channels, self.channels) / self.channels**0.5 for _ in range(4)
        )

    @property
    def samples(self):
        return self.share.samples[0]

    def operations_ratio(self) -> float:
        """Floating-point operations that the formula needs, over those of plain attention."""
        n, c = self.tokens, self.channels
        lent = sum(map(len, self.samples))
        keys = sum(lent - len(own) + n for own in self.samples)
        projections = 4 * 2 * self.batch * n * c * c
        return (projections + 4 * n * c * keys) / (projections + 4 * n * c * n * self.batch)

    def project(self):
        return self.hidden @ self.to_q, self.hidden @ self.to_k, self.hidden @ self.to_v

    def plain(self):
        from storyreel.core.networks.attend import attend_plain

        return attend_plain(*self.project(), self.heads) @ self.to_out

    def ours(self):
        from storyreel.core.attention.extended import extended_attention

        q, k, v = (tensor.unflatten(-1, (self.heads, -1)) for tensor in self.project())
        out = extended_attention(q, k, v, self.share.groups, self.share.samples, limit=self.memory)
        return out.flatten(-2) @ self.to_out

    def mask(self):
        """The boolean mask [batch * tokens, batch * tokens] of dense_mask."""
        import torch

        lent = torch.zeros(self.batch, self.tokens, dtype=torch.bool, device=self.hidden.device)
        for row, index in enumerate(self.samples):
            lent[row, index] = True
        mask = lent.flatten().repeat(self.batch * self.tokens, 1)
        for row in range(self.batch):
            own = slice(row * self.tokens, (row + 1) * self.tokens)
            mask[own, own] = True
        return mask

    def dense_mask(self, mask=None):
        from storyreel.core.networks.attend import attend_plain

        mask = self.mask() if mask is None else mask
        together = attend_plain(*(t.flatten(0, 1)[None] for t in self.project()), self.heads, mask)
        return together.view_as(self.hidden) @ self.to_out

    def gather_first(self):
        import torch
        from storyreel.core.networks.attend import attend_plain

        out = torch.empty_like(self.hidden)
        for row in range(self.batch):
            others = [self.hidden[j, index] for j, index in enumerate(self.samples) if j != row]
            context = torch.cat([*others, self.hidden[row]])[None]
            q = self.hidden[row][None] @ self.to_q
            out[row] = (attend_plain(q, context @ self.to_k, context @ self.to_v, self.heads) @ self.to_out)[0]
        return out


def measure(case: Attention | TransformerLayer, forms: list[str], rounds: int, device: str) -> dict:
    import torch

    runs = {form: getattr(case, form) for form in forms}
    peaks = {form: peak_bytes(run, device) for form, run in runs.items()}
    if "dense_mask" in forms:  # the published program makes its mask once a step for all layers: not timed
        mask = case.mask()
        runs["dense_mask"] = lambda: case.dense_mask(mask)
    if "ours" in forms:
        for form in {"dense_mask", "gather_first"} & set(forms):
            difference = (runs[form]() - case.ours()).abs().max().item()
            assert difference <= (1e-4 if device == "cpu" else 2e-2), f"{form} differs from ours by {difference}"
    times = {form: [] for form in forms}
    for _ in range(rounds):
        for form, run in runs.items():
            times[form].append(seconds(run, device))
    del runs
    if device != "cpu":
        torch.cuda.empty_cache()
    return {
        "batch": case.batch,
        "tokens": case.tokens,
        "channels": case.channels,
        "heads": case.heads,
        "text": getattr(case, "text", 0),
        **{f"{form}_seconds": min(times[form]) if form in forms else None for form in FORMS},
        **{f"{form}_peak_bytes": peaks.get(form) for form in FORMS},
        "operations_ratio": case.operations_ratio(),
    }


def table(row: dict) -> str:
    lines = [
        f"B {row['batch']}, N {row['tokens']}, C {row['channels']}, heads {row['heads']}: "
        f"operations needed are {row['operations_ratio']:.2f} x plain",
        f"  {'form':<14}{'seconds':>9}{'x plain':>9}{'x needed':>10}{'x dense':>9}{'peak MB':>9}{'extra MB':>10}",
    ]
    plain, dense = row["plain_seconds"], row["dense_mask_seconds"]
    for form in FORMS:
        took, peak = row[f"{form}_seconds"], row[f"{form}_peak_bytes"]
        if took is None:
            continue
        ratio = took / plain
        needed = "" if form == "plain" else f"{ratio / row['operations_ratio']:.2f}"
        against = "" if dense is None else f"{took / dense:.2f}"
        extra = (peak - row["plain_peak_bytes"]) / 2**20
        lines.append(f"  {form:<14}{took:>9.3f}{ratio:>9.2f}{needed:>10}{against:>9}{peak / 2**20:>9.0f}{extra:>10.0f}")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    build, sizes, comparable = Attention, options.tokens, FORMS
    if options.family:
        import environment
        import pack

        pack.load_host(environment.find_host())
        build = partial(TransformerLayer, options.family, positions=options.positions)
        sizes = [options.side or (24 if device == "cpu" else FAMILIES[options.family][-1])]
        comparable = TransformerLayer.forms if options.positions == "same" else ("plain", "ours")
    forms = [form for form in comparable if form == "plain" or form in options.forms]
    for size in sizes:
        for batch in options.batch:
            with torch.no_grad():
                case = build(batch, size, options.rate, options.memory_mb << 20, device)
                row = measure(case, forms, options.rounds, device)
            print(json.dumps(row) if options.json else table(row), flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8], help="images in the batch")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=list(LEVELS), choices=LEVELS, help="tokens of an image"
    )
    parser.add_argument("--family", choices=FAMILIES, help="a layer of this diffusion transformer instead")
    parser.add_argument("--side", type=int, help="of its image in tokens; default: 64 as at 1024 pixels, on a CPU 24")
    parser.add_argument("--positions", default="same", choices=["same", "beside", "dimmed"], help="of shared tokens")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="what to compare with plain")
    parser.add_argument("--rate", type=float, default=0.5, help="sampling rate")
    parser.add_argument("--memory-mb", type=int, default=64, help="the node's memory_mb")
