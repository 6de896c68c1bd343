"""Tiny models of ModelScope's family in the stock KSampler, StreamingT2V among them."""

import torch

FRAMES, SIZE = 16, (4, 6)
MEMORY = 8


def conditioning(seed: int, tokens: int = 77, **more) -> list:
    """A CONDITIONING for the tiny models. more: StreamingT2V's conditioning, see `cam_apm`."""
    return [[torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed)), more]]


def cam_apm(seed: int = 5, memory: int = MEMORY, size=SIZE, **strengths) -> dict:
    """Frames before the chunk, and an anchor."""
    from storyreel.host.streaming import modelscope as names

    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(memory, 8 * size[0], 8 * size[1], 3, generator=generator)
    return {names.CAM_FRAMES: frames, names.ANCHOR_EMBEDS: torch.randn(1, 1, 64, generator=generator), **strengths}


def empty(frames: int = FRAMES, size=SIZE) -> dict:
    return {"samples": torch.zeros(frames, 4, *size)}


@torch.no_grad()
def sample(
    model, frames=FRAMES, *, steps=2, cfg=5.0, sampler="euler", scheduler="normal", seed=1, size=SIZE, more=None, part=1
):
    """The latents from the stock KSampler. part: its `denoise`."""
    import nodes

    conds = conditioning(1, **(more or {})), conditioning(2, **(more or {}))
    result = nodes.common_ksampler(
        model, seed, steps, cfg, sampler, scheduler, *conds, empty(frames, size), denoise=part
    )
    return result[0]["samples"]
