"""Whole published trajectories, sampled by the real host with the pack's own guider, sampler and sigmas."""

import pytest
import torch
from harness.golden import Golden, error, files

SYSTEM = "dynamicrafter"
TOLERANCE = 1e-3  # of whole trajectories: the data's README
TERMINAL_ALPHA_BAR = 4.8973451890853435e-08  # the host's, where it should be 0
FIRST_STEP = 1e-4  # of an x that is the data's own: the network's tolerance, amplified by guidance


@pytest.fixture
def opened(host, tmp_path):
    """opened(golden) -> the MODEL of the data's own UNet, loaded from a file."""
    from harness import dynamicrafter
    from storyreel.host.dynamicrafter import loader

    def opened(golden: Golden):
        config = golden.config
        unet = Golden(golden.path.with_name(config["unet_file"]))
        kind = dict(name="golden", v_prediction=config["parameterization"] == "v", zero_snr=config["zero_snr"])
        kind |= dict(base_scale=config["base_scale"] or 1.0, default_fs=unet.config["unet_config"]["default_fs"])
        context = golden["text_cond"].shape[-1]
        path = dynamicrafter.write(
            tmp_path / "golden.safetensors", unet.weights(), dynamicrafter.resampler(context), kind
        )
        return loader.load(path.name, precision=torch.float32).model

    with host.checkpoints_of(tmp_path):
        yield opened


def frames(clip: torch.Tensor) -> torch.Tensor:
    """[1, C, T, H, W] -> [T, C, H, W]"""
    return clip[0].transpose(0, 1)


def conditioning(golden: Golden, text: str, image: str, scale: float) -> list:
    from storyreel.host.dynamicrafter import model as names

    return [
        [
            golden[text],
            {
                names.IMAGE_TOKENS: golden[image],
                names.CONCAT_LATENTS: frames(golden["c_concat"]) / scale,
                names.FS: int(golden["fs"]) if "fs" in golden.tensors else None,
            },
        ]
    ]


def conditionings(golden: Golden, model) -> tuple[list, list, list]:
    """(positive, image only, negative)"""
    factor = model.model.latent_format.scale_factor
    unguided = "text_uncond" not in golden.tensors
    return (
        conditioning(golden, "text_cond", "img_cond", factor),
        conditioning(golden, "text_cond" if unguided else "text_uncond", "img_cond", factor),
        conditioning(golden, "text_cond", "img_cond", factor)
        if unguided
        else conditioning(golden, "text_uncond", "img_uncond", factor),
    )


def follow(guider, golden: Golden, sampler) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(x after every step, samples) of a trajectory, both [T, C, H, W] and the samples in the network's units."""
    from storyreel.host.dynamicrafter import sampling

    factor = guider.model_patcher.model.latent_format.scale_factor
    config, steps = golden.config, []
    samples = guider.sample(
        frames(golden["x_T"]),
        frames(golden["x0"]) / factor if "mask" in golden.tensors else torch.zeros_like(frames(golden["x_T"])),
        sampler,
        sampling.sigmas_of(guider.model_patcher, config["spacing"], config["S"]),
        denoise_mask=1 - frames(golden["mask"]) if "mask" in golden.tensors else None,
        callback=lambda step, denoised, x, total: steps.append(x.clone()),
        seed=0,
        disable_pbar=True,
    )
    return steps, samples * factor


def ddim(golden: Golden):
    from storyreel.host.dynamicrafter import sampling

    config = golden.config
    return sampling.DDIM(
        config["eta"], keep_clean=config["mask_clean_cond"], noise=lambda step, like: frames(golden["noise"][step])
    )


def check(golden: Golden, steps: list[torch.Tensor], samples: torch.Tensor):
    errors = [error(x, frames(golden["x_steps"][step])) for step, x in enumerate(steps)]
    assert len(errors) == golden.config["actual_steps"] and max(errors) <= TOLERANCE, errors
    assert error(samples, frames(golden["samples"])) <= TOLERANCE


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_*.safetensors"))
@torch.no_grad()
def test_a_published_trajectory(path, opened):
    from storyreel.host.dynamicrafter import sampling

    golden = Golden(path)
    config = golden.config
    model = opened(golden)
    scale = config["unconditional_guidance_scale"]
    guider = sampling.TextImageGuider(model)
    guider.set_conds(*conditionings(golden, model))
    guider.set_scales(scale, scale if config["cfg_img"] is None else config["cfg_img"], config["guidance_rescale"])
    check(golden, *follow(guider, golden, ddim(golden)))


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_*.safetensors"))
def test_a_published_trajectory_through_the_nodes(path, opened, host):
    """The pack's nodes and the host's SamplerCustomAdvanced, in a prompt; only the data's noise is put in."""
    from comfy_api.latest import io

    golden = Golden(path)
    config = golden.config
    model = opened(golden)
    factor = model.model.latent_format.scale_factor

    class Given:
        seed = 0

        def generate_noise(self, latent):
            return frames(golden["x_T"])

    class Data(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            kinds = [io.Model, io.Conditioning, io.Conditioning, io.Conditioning, io.Noise, io.Latent]
            return io.Schema(node_id="Data", inputs=[], outputs=[kind.Output() for kind in kinds])

        @classmethod
        def execute(cls):
            latent = {"samples": torch.zeros_like(frames(golden["x_T"]))}
            if "mask" in golden.tensors:
                latent = {"samples": frames(golden["x0"]) / factor, "noise_mask": 1 - frames(golden["mask"])[:, :1]}
            return io.NodeOutput(model, *conditionings(golden, model), Given(), latent)

    class PublishedNoise(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="PublishedNoise", inputs=[io.Sampler.Input("sampler")], outputs=[io.Sampler.Output()]
            )

        @classmethod
        def execute(cls, sampler):
            sampler.noise = lambda step, like: frames(golden["noise"][step])
            return io.NodeOutput(sampler)

    scale = config["unconditional_guidance_scale"]
    cfg_image = scale if config["cfg_img"] is None else config["cfg_img"]
    scales = {"model": ["data", 0], "positive": ["data", 1], "image_only": ["data", 2], "negative": ["data", 3]}
    scales |= {"cfg_text": scale, "cfg_image": cfg_image, "cfg_rescale": config["guidance_rescale"]}
    ddim = {"eta": config["eta"], "keep_clean": config["mask_clean_cond"]}
    sigmas = {"model": ["data", 0], "spacing": config["spacing"], "steps": config["S"]}
    sample = {"noise": ["data", 4], "guider": ["guider", 0], "sampler": ["noise", 0]}
    sample |= {"sigmas": ["sigmas", 0], "latent_image": ["data", 5]}
    prompt = {
        "data": {"class_type": "Data", "inputs": {}},
        "guider": {"class_type": "StoryReelDynamiCrafterGuider", "inputs": scales},
        "ddim": {"class_type": "StoryReelDDIMSampler", "inputs": ddim},
        "noise": {"class_type": "PublishedNoise", "inputs": {"sampler": ["ddim", 0]}},
        "sigmas": {"class_type": "StoryReelDDIMSigmas", "inputs": sigmas},
        "sample": {"class_type": "SamplerCustomAdvanced", "inputs": sample},
        "end": {"class_type": "PreviewAny", "inputs": {"source": ["sample", 0]}},
    }
    with host.node(Data), host.node(PublishedNoise):
        samples = host.run(prompt).values["sample"][0]["samples"]
    assert error(samples * factor, frames(golden["samples"])) <= TOLERANCE


@pytest.fixture
def stock_guider(opened):
    """stock_guider(golden) -> the host's own guidance, as KSampler has it, over the MODEL with its rescale patched."""
    import comfy.samplers
    from storyreel.host.dynamicrafter import sampling

    def stock_guider(golden: Golden):
        model = opened(golden)
        guider = comfy.samplers.CFGGuider(sampling.patch_rescale(model, golden.config["guidance_rescale"]))
        positive, _, negative = conditionings(golden, model)
        guider.set_conds(positive, negative)
        guider.set_cfg(golden.config["unconditional_guidance_scale"])
        return guider

    return stock_guider


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_v_cfg_*.safetensors"))
@torch.no_grad()
def test_a_published_trajectory_under_the_hosts_guidance(path, stock_guider):
    golden = Golden(path)
    check(golden, *follow(stock_guider(golden), golden, ddim(golden)))


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_v_cfg_*.safetensors"))
@torch.no_grad()
def test_ksamplers_euler_is_the_published_sampler_without_eta(path, stock_guider):
    """What `denoised` is at every step of KSampler's Euler: the published x0. Where the published program adds noise
    its x leaves Euler's path, so there only the first step is held, whose x is the same.

    Of zero terminal SNR, Euler starts at a finite sigma, the host's: it keeps a share of sqrt(alpha_bar) of the first
    x0 that the published x does not have. The first step does not see it. From the second on, guidance and network
    amplify it, as the data's README has it of their own noise: by 8 at most.
    """
    import comfy.samplers
    from storyreel.host.dynamicrafter import sampling

    golden = Golden(path)
    config = golden.config
    if "mask" in golden.tensors:
        pytest.skip("the published mask goes in without noise at every step, KSampler's with it")
    steps = []
    guider = stock_guider(golden)
    sigmas = sampling.sigmas_of(guider.model_patcher, config["spacing"], config["S"])
    guider.sample(
        frames(golden["x_T"]),
        torch.zeros_like(frames(golden["x_T"])),
        comfy.samplers.sampler_object("euler"),
        sigmas,
        callback=lambda step, denoised, x, total: steps.append(denoised.clone()),
        seed=0,
        disable_pbar=True,
    )
    assert len(steps) == config["actual_steps"]
    held = steps if config["eta"] == 0 else steps[:1]
    after = [*sigmas[1:-1], sigmas[-2]]  # the published x0 is rescaled for the step that follows
    scales = [float(guider.model_patcher.model.model_sampling.parts(sigma)[2]) for sigma in after]
    errors = [
        error(denoised * scale, frames(golden["pred_x0_steps"][step]))
        for step, (denoised, scale) in enumerate(zip(held, scales, strict=False))
    ]
    kept = TERMINAL_ALPHA_BAR**0.5 if config["zero_snr"] else 0.0
    assert errors[0] <= FIRST_STEP, errors
    assert max(errors) <= TOLERANCE + 8 * kept, errors


def tower(golden: Golden, prefix: str) -> dict:
    return {name: t for name, t in golden.weights().items() if name.startswith(prefix)}


@pytest.fixture
def clip_vision(host):
    """clip_vision(golden) -> the data's image encoder as the host's CLIP_VISION, from the published keys."""
    import comfy.clip_vision
    from storyreel.host.common.clip_vision import from_config

    def clip_vision(golden: Golden):
        spec = golden.config["clip"]
        config = dict(model_type="clip_vision_model", hidden_act="gelu", layer_norm_eps=1e-5, num_channels=3)
        config |= dict(image_size=golden.config["image_size"], patch_size=spec["patch"], projection_dim=40)
        config |= dict(hidden_size=spec["width"], intermediate_size=4 * spec["width"])
        config |= dict(num_hidden_layers=spec["layers"], num_attention_heads=spec["width"] // spec["head_width"])
        encoder = from_config(config)
        encoder.model.float()  # the host keeps encoders in half precision
        prefix = "embedder.model.visual."
        weights = comfy.clip_vision.convert_to_transformers(tower(golden, prefix), prefix)
        missing, _ = encoder.load_sd(weights)
        assert not missing
        return encoder

    return clip_vision


def picture(golden: Golden, case: str) -> torch.Tensor:
    return golden[f"{case}.image_u8"].movedim(1, -1).float() / 255


@pytest.mark.parametrize("path", files(SYSTEM, "clip_towers.safetensors"))
@torch.no_grad()
def test_the_image_encoder_sees_pictures_as_published(path, clip_vision):
    from storyreel.core.video.images import clip_pixels
    from storyreel.host.common.clip_vision import vision_tokens

    golden = Golden(path)
    encoder = clip_vision(golden)
    cases = [name.removesuffix(".image_u8") for name in golden.tensors if name.endswith(".image_u8")]
    assert cases
    for case in cases:
        pixels = clip_pixels(picture(golden, case), golden.config["image_size"])
        assert error(pixels, golden[f"{case}.preprocessed"]) <= 1e-4
        assert error(vision_tokens(encoder, picture(golden, case)), golden[f"{case}.tokens"]) <= 2e-5
    gray = torch.full_like(picture(golden, cases[0]), 0.5)
    assert error(vision_tokens(encoder, gray), golden["uncond.tokens"]) <= 2e-5


@pytest.mark.parametrize("path", files(SYSTEM, "clip_towers.safetensors"))
@torch.no_grad()
def test_the_text_encoder_reads_as_published(path, host):
    """SD2's text encoder of the host, with the data's sizes and weights."""
    import comfy.sd1_clip
    import comfy.supported_models

    golden = Golden(path)
    spec = golden.config["clip"]
    config = dict(hidden_act="gelu", hidden_size=spec["ctx_w"], intermediate_size=4 * spec["ctx_w"])
    config |= dict(
        num_attention_heads=spec["ctx_heads"], num_hidden_layers=spec["ctx_layers"], vocab_size=spec["vocab"]
    )
    config |= dict(max_position_embeddings=77, layer_norm_eps=1e-5, eos_token_id=spec["vocab"] - 1, projection_dim=40)
    encoder = comfy.sd1_clip.SDClipModel(layer="hidden", layer_idx=-2, textmodel_json_config=config)
    weights = comfy.supported_models.SD20({}).process_clip_state_dict(tower(golden, "cond_stage_model.model."))
    own = {name.removeprefix("clip_h.transformer."): t for name, t in weights.items() if "projection" not in name}
    rows = "text_model.embeddings.token_embedding.weight"  # the host's class always has CLIP's whole vocabulary
    own[rows] = torch.nn.functional.pad(
        own[rows], (0, 0, 0, encoder.transformer.state_dict()[rows].shape[0] - spec["vocab"])
    )
    missing, _ = encoder.transformer.load_state_dict(own, strict=False)
    assert missing == ["text_projection.weight"]
    output = encoder.transformer(golden["text.tokens"], intermediate_output=-2, final_layer_norm_intermediate=True)[1]
    assert error(output, golden["text.emb"]) <= 2e-5
