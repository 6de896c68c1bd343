"""Small banks of random tokens, as runs of several steps and levels record them."""

import torch
from storyreel.core.attention import schedule
from storyreel.core.attention.bank import Bank, BankImage, Level, Origin, Recorder, Recording

SIGMAS = (14.614641189575195, 7.4924068450927734, 3.1700570583343506, 0.1 + 0.2, 0.029167540371418, 0.0)
CHARACTERS = ("Lina", "王小明", "Zoë 👩‍🚀\n\ud83d", "")
RATE = 0.3


def origin(**changed) -> Origin:
    values = dict(model="0123456789abcdef" * 4, network="BaseModel", sampler="dpmpp_2m", sigmas=SIGMAS, height=8)
    values |= dict(width=24, seed=2**64 - 1, sampling_rate=RATE, sampling_rate_fine=1 / 3)
    return Origin(**values | changed)


def images(generator: torch.Generator) -> tuple[BankImage, ...]:
    preview = torch.randint(0, 256, (5, 7, 3), generator=generator, dtype=torch.uint8)
    return (
        BankImage(frozenset({CHARACTERS[0], CHARACTERS[1]}), 0, "two\nlines, “quoted” \\ ✓", preview),
        BankImage(frozenset({CHARACTERS[2]}), 2**40, "", None),
        BankImage(frozenset({CHARACTERS[3]}), 7, "nobody's name"),
        BankImage(frozenset(), 3),
    )


def recording(dtype: torch.dtype, seed: int = 0, **changed) -> Recording:
    """Recorded by the recorder, but for what it never does: gaps, an empty slot and a level that stores no layer."""
    generator = torch.Generator().manual_seed(seed)
    made = Recording(origin(**changed), images(generator))
    recorder = Recorder(made, dtype, lambda step, pixels: [0, 3] if pixels == 16 else [1])
    for sigma in made.origin.sigmas[:-1]:
        step = schedule.step_of(sigma, made.origin.sigmas)
        for pixels, tokens, channels in ((16, 48, 6), (64, 12, 5)):
            for image in range(len(made.images)):
                kept = (torch.rand(tokens, generator=generator) < RATE).nonzero().flatten()
                for layer in recorder.planned(step, pixels):
                    for cond in (0, 1):
                        if (image, cond) == (1, 1) or image == 3 and sigma < 1:
                            continue  # no uncond; steps without the image
                        hidden = torch.randn(tokens, channels, generator=generator) * 9
                        recorder.add(image, step, pixels, layer, cond, hidden, lambda kept=kept: kept)
    recorder.finish()
    last, noise = made.steps[-1], 1e-7 + 2**-52
    made.indices[0, last, 64] = torch.empty(0, dtype=torch.int32)
    for cond in (0, 1):
        made.tokens[0, last, 64, cond] = torch.empty(1, 0, 5, dtype=dtype)
    made.levels[128] = Level(128, 3, 5)
    made.layers[noise, 128] = ()
    made.indices[2, noise, 128] = torch.tensor([0, 2], dtype=torch.int32)
    made.tokens[2, noise, 128, 1] = torch.empty(0, 2, 5, dtype=dtype)
    return made


def bank(*dtypes: torch.dtype, seed: int = 0, **changed) -> Bank:
    return Bank([recording(dtype, seed + number, **changed) for number, dtype in enumerate(dtypes)])


def bits(tensor: torch.Tensor):
    """Equal where two tensors are equal bit for bit."""
    return tensor.dtype, tuple(tensor.shape), tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def contents(bank: Bank) -> list:
    """Equal where two banks are."""
    return [
        (
            made.origin,
            [(i.characters, i.number, i.prompt, None if i.preview is None else bits(i.preview)) for i in made.images],
            made.levels,
            made.layers,
            {slot: bits(tensor) for slot, tensor in made.indices.items()},
            {slot: bits(tensor) for slot, tensor in made.tokens.items()},
        )
        for made in bank.recordings
    ]
