"""Cells that stay as the given picture shows them, in a UNet with one more output channel than the published ones have.

A small network cannot pass a picture's detail through its middle, and need not: the picture stands beside the noise.
The further channel says, cell by cell, how far the clean latent is the picture's own.
"""

from torch import Tensor


def first_guess(beside: Tensor) -> Tensor:
    """What a clip that does not move would be. beside: [B, channels, T, h, w], zeros in frames that nothing is given
    for, which take what the first one has."""
    given = (beside != 0).any(1, keepdim=True).flatten(3).any(3)[..., None, None]
    return beside.where(given, beside[:, :, :1])


def keep_given(clean: Tensor, guess: Tensor, keep: Tensor) -> Tensor:
    """Clean latents [B, channels, T, h, w] as the network sees them, nearer to the guess where it says so. keep: the
    further channel, [B, 1, T, h, w]."""
    return clean.lerp(guess, keep.sigmoid())
