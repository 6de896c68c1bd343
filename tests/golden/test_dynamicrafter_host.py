"""Whole published trajectories, sampled by the real host with the pack's own guider, sampler and sigmas."""

import pytest
import torch
from harness.golden import Golden, error, files

SYSTEM = "dynamicrafter"
TOLERANCE = 1e-3  # of whole trajectories: the data's README


@pytest.fixture
def opened(host, tmp_path, monkeypatch):
    """opened(golden) -> the MODEL of the data's own UNet, loaded from a file."""
    import folder_paths
    from harness import dynamicrafter
    from storyreel.host import dynamicrafter_loader

    def opened(golden: Golden):
        config = golden.config
        unet = Golden(golden.path.with_name(config["unet_file"]))
        kind = dict(name="golden", v_prediction=config["parameterization"] == "v", zero_snr=config["zero_snr"])
        kind |= dict(base_scale=config["base_scale"] or 1.0)
        context = golden["text_cond"].shape[-1]
        path = dynamicrafter.write(
            tmp_path / "golden.safetensors", unet.weights(), dynamicrafter.resampler(context), kind
        )
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(path.parent)], {".safetensors"}))
        folder_paths.filename_list_cache.pop("checkpoints", None)
        return dynamicrafter_loader.load(path.name, precision=torch.float32).model

    yield opened
    folder_paths.filename_list_cache.pop("checkpoints", None)


def frames(clip: torch.Tensor) -> torch.Tensor:
    """[1, C, T, H, W] -> [T, C, H, W]"""
    return clip[0].transpose(0, 1)


def conditioning(golden: Golden, text: str, image: str, scale: float) -> list:
    from storyreel.host import dynamicrafter_model as names

    return [
        [
            golden[text],
            {
                names.IMAGE_TOKENS: golden[image],
                names.CONCAT_LATENTS: frames(golden["c_concat"]) / scale,
                names.FS: int(golden["fs"]),
            },
        ]
    ]


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_*.safetensors"))
@torch.no_grad()
def test_a_published_trajectory(path, opened):
    from storyreel.host import dynamicrafter_sampling as sampling

    golden = Golden(path)
    config = golden.config
    model = opened(golden)
    factor = model.model.latent_format.scale_factor
    positive, image_only, negative = (
        conditioning(golden, text, image, factor)
        for text, image in (
            ("text_cond", "img_cond"),
            ("text_uncond" if "text_uncond" in golden.tensors else "text_cond", "img_cond"),
            ("text_uncond", "img_uncond") if "text_uncond" in golden.tensors else ("text_cond", "img_cond"),
        )
    )
    scale = config["unconditional_guidance_scale"]
    guider = sampling.TextImageGuider(model)
    guider.set_conds(positive, image_only, negative)
    guider.set_scales(scale, scale if config["cfg_img"] is None else config["cfg_img"], config["guidance_rescale"])
    steps = []
    sampler = sampling.DDIM(
        config["eta"], keep_clean=config["mask_clean_cond"], noise=lambda step, like: frames(golden["noise"][step])
    )
    known = frames(golden["x0"]) / factor if "mask" in golden.tensors else torch.zeros_like(frames(golden["x_T"]))
    mask = 1 - frames(golden["mask"]) if "mask" in golden.tensors else None
    samples = guider.sample(
        frames(golden["x_T"]),
        known,
        sampler,
        sampling.sigmas_of(model, config["spacing"], config["S"]),
        denoise_mask=mask,
        callback=lambda step, denoised, x, total: steps.append(x.clone()),
        seed=0,
        disable_pbar=True,
    )
    errors = [error(x, frames(golden["x_steps"][step])) for step, x in enumerate(steps)]
    assert len(errors) == config["actual_steps"] and max(errors) <= TOLERANCE, errors
    assert error(samples * factor, frames(golden["samples"])) <= TOLERANCE
