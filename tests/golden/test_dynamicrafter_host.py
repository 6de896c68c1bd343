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


def tower(golden: Golden, prefix: str) -> dict:
    return {name: t for name, t in golden.weights().items() if name.startswith(prefix)}


@pytest.fixture
def clip_vision(host):
    """clip_vision(golden) -> the data's image encoder as the host's CLIP_VISION, from the published keys."""
    import comfy.clip_vision

    def clip_vision(golden: Golden):
        said = golden.config["clip"]
        config = dict(model_type="clip_vision_model", hidden_act="gelu", layer_norm_eps=1e-5, num_channels=3)
        config |= dict(image_size=golden.config["image_size"], patch_size=said["patch"], projection_dim=40)
        config |= dict(hidden_size=said["width"], intermediate_size=4 * said["width"])
        config |= dict(num_hidden_layers=said["layers"], num_attention_heads=said["width"] // said["head_width"])
        made = comfy.clip_vision.ClipVisionModel(config)
        made.model.float()  # the host keeps encoders in half precision
        prefix = "embedder.model.visual."
        weights = comfy.clip_vision.convert_to_transformers(tower(golden, prefix), prefix)
        missing, _ = made.load_sd(weights)
        assert not missing
        return made

    return clip_vision


def picture(golden: Golden, case: str) -> torch.Tensor:
    return golden[f"{case}.image_u8"].movedim(1, -1).float() / 255


@pytest.mark.parametrize("path", files(SYSTEM, "clip_towers.safetensors"))
@torch.no_grad()
def test_the_image_encoder_sees_pictures_as_published(path, clip_vision):
    from storyreel.core.video.pictures import clip_pixels
    from storyreel.host.dynamicrafter_conditioning import vision_tokens

    golden = Golden(path)
    encoder = clip_vision(golden)
    cases = [name.removesuffix(".image_u8") for name in golden.tensors if name.endswith(".image_u8")]
    assert cases
    for case in cases:
        pixels = clip_pixels(picture(golden, case), golden.config["image_size"])
        assert error(pixels, golden[f"{case}.preprocessed"]) <= 1e-4
        assert error(vision_tokens(encoder, picture(golden, case)), golden[f"{case}.tokens"]) <= 2e-5
    grey = torch.full_like(picture(golden, cases[0]), 0.5)
    assert error(vision_tokens(encoder, grey), golden["uncond.tokens"]) <= 2e-5


@pytest.mark.parametrize("path", files(SYSTEM, "clip_towers.safetensors"))
@torch.no_grad()
def test_the_text_encoder_reads_as_published(path, host):
    """SD2's text encoder of the host, with the data's sizes and weights."""
    import comfy.sd1_clip
    import comfy.supported_models

    golden = Golden(path)
    said = golden.config["clip"]
    config = dict(hidden_act="gelu", hidden_size=said["ctx_w"], intermediate_size=4 * said["ctx_w"])
    config |= dict(
        num_attention_heads=said["ctx_heads"], num_hidden_layers=said["ctx_layers"], vocab_size=said["vocab"]
    )
    config |= dict(max_position_embeddings=77, layer_norm_eps=1e-5, eos_token_id=said["vocab"] - 1, projection_dim=40)
    encoder = comfy.sd1_clip.SDClipModel(layer="hidden", layer_idx=-2, textmodel_json_config=config)
    weights = comfy.supported_models.SD20({}).process_clip_state_dict(tower(golden, "cond_stage_model.model."))
    own = {name.removeprefix("clip_h.transformer."): t for name, t in weights.items() if "projection" not in name}
    rows = "text_model.embeddings.token_embedding.weight"  # the host's class always has CLIP's whole vocabulary
    own[rows] = torch.nn.functional.pad(
        own[rows], (0, 0, 0, encoder.transformer.state_dict()[rows].shape[0] - said["vocab"])
    )
    missing, _ = encoder.transformer.load_state_dict(own, strict=False)
    assert missing == ["text_projection.weight"]
    found = encoder.transformer(golden["text.tokens"], intermediate_output=-2, final_layer_norm_intermediate=True)[1]
    assert error(found, golden["text.emb"]) <= 2e-5
