"""Decoding with ToonCrafter's autoencoder under the host's memory management."""

import comfy.model_management
import torch
from torch import Tensor

from ...core.networks.dynamicrafter.tooncrafter import DualReferenceDecoder, encoder_features
from ...core.video.images import fit


def takes_references(vae) -> bool:
    """Whether a VAE is ToonCrafter's, which decodes with two reference images."""
    return isinstance(getattr(getattr(vae, "first_stage_model", None), "decoder", None), DualReferenceDecoder)


@torch.inference_mode()
def decode_clip(vae, samples: Tensor, start: Tensor, end: Tensor, refine_middle: bool = False) -> Tensor:
    """Frames [T, H, W, 3] of a clip's latents [T, 4, h, w] and its end images [1, H, W, 3].

    refine_middle: take the middle two frames from a second decoding that lacks the frames next to the ends.

    Raises ValueError for another VAE, and for more than one image each.
    """
    if not takes_references(vae):
        raise ValueError("the VAE is not from a ToonCrafter checkpoint. Use VAE Decode for other VAEs.")
    for name, images in (("start_image", start), ("end_image", end)):
        if len(images) != 1:
            raise ValueError(f"{name} contains {len(images)} images; 1 is expected.")
    network, frames = vae.first_stage_model, len(samples)
    if refine_middle and frames < 6:
        raise ValueError(f"refine_middle needs a clip of at least 6 frames; this one has {frames}.")
    height, width = (side * vae.upscale_ratio for side in samples.shape[-2:])
    ends = torch.stack([fit(image, width, height)[0].movedim(-1, 0) for image in (start, end)], 1)[None]

    needed = frames * vae.memory_used_decode(samples.shape, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)
    device, dtype = vae.device, vae.vae_dtype
    references = encoder_features(network.encoder, vae.process_input(ends.to(device, dtype)))
    z = samples.to(device, dtype)
    decoded = network.decoder(z, references)
    if refine_middle:
        again = network.decoder(torch.cat([z[:1], z[2:-2], z[-1:]]), references)
        middle = frames // 2
        decoded[middle - 1 : middle + 1] = again[middle - 2 : middle]
    images = vae.process_output(decoded.float().to(comfy.model_management.intermediate_device()))
    return images.movedim(1, -1)
