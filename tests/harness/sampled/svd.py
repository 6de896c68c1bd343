"""The tiny StreamingSVD in the host's sampler."""

import torch

FRAMES, SIZE, MEMORY = 9, (4, 6), 3
NAME = "streaming_svd_tiny.safetensors"


def conditioning(seed: int, cam_seed: int | None = None, size=SIZE, **more) -> list:
    """The conditioning of the host's SVD_img2vid_Conditioning, and CAM's frames. seed 0: zeros."""
    from storyreel.host.streaming import modelscope as names

    generator = torch.Generator().manual_seed(seed)
    embed, latent = torch.randn(1, 1, 64, generator=generator), torch.randn(1, 4, *size, generator=generator)
    if not seed:
        embed, latent = torch.zeros_like(embed), torch.zeros_like(latent)
    more |= {"concat_latent_image": latent, "motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.02}
    if cam_seed is not None:
        frames = torch.rand(MEMORY, 8 * size[0], 8 * size[1], 3, generator=torch.Generator().manual_seed(cam_seed))
        more[names.CAM_FRAMES] = frames
    return [[embed, more]]


@torch.no_grad()
def sample(model, *, cam_seed=None, frames=FRAMES, size=SIZE, **more):
    import nodes

    conds = conditioning(1, cam_seed, size, **more), conditioning(0, cam_seed, size, **more)
    empty = {"samples": torch.zeros(frames, 4, *size)}
    return nodes.common_ksampler(model, 1, 3, 2.5, "euler", "karras", *conds, empty)[0]["samples"]
