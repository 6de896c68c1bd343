"""DynamiCrafter checkpoints as they were published: every key has its place, and every wrapping is unwrapped."""

import json
from pathlib import Path

import pytest
import torch

MANIFESTS = Path(__file__).parents[1] / "manifests"
NAMES = sorted(path.stem for path in MANIFESTS.glob("*crafter*.json"))
BUFFERS = {  # of the training program's schedule, rebuilt from the kind
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_arr",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
}


def manifest(name: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((MANIFESTS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes(weights) -> dict[str, tuple]:
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


@pytest.fixture
def loader(host):
    from storyreel.host.dynamicrafter import loader as dynamicrafter_loader

    return dynamicrafter_loader


def test_all_five_checkpoints_are_known():
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_its_place(loader, name):
    """The networks that the loader builds from a file's shapes have its keys at its shapes, and none besides."""
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ldm.models.autoencoder
    import comfy.ops
    import comfy.supported_models
    from comfy.text_encoders.sd2_clip import SD2ClipModel
    from storyreel.core.networks.dynamicrafter.config import read_decoder_sizes, read_resampler_config, read_unet_config
    from storyreel.core.networks.dynamicrafter.resampler import Resampler
    from storyreel.core.networks.dynamicrafter.tooncrafter import DualReferenceDecoder
    from storyreel.core.networks.dynamicrafter.unet import UNet

    weights = manifest(name)
    unet = loader.take_unet(weights)
    with torch.device("meta"):
        built = UNet(read_unet_config(shapes(unet)))
        assert shapes(built.state_dict()) == shapes(unet)
        projection = loader.take(weights, loader.RESAMPLER)
        assert shapes(Resampler(read_resampler_config(shapes(projection))).state_dict()) == shapes(projection)

        vae = loader.take(weights, loader.VAE)
        decoder = {key.removeprefix("decoder."): t for key, t in vae.items() if key.startswith("decoder.")}
        double = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, num_res_blocks=2)
        double |= dict(ch_mult=[1, 2, 4, 4], attn_resolutions=[], dropout=0.0)
        autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=double)
        if name.startswith("toon"):
            autoencoder.decoder = DualReferenceDecoder(**read_decoder_sizes(shapes(decoder)))
        assert shapes(autoencoder.state_dict()) == shapes(vae)

        text = {key: weights.pop(key) for key in list(weights) if key.startswith(loader.TEXT)}
        text = comfy.supported_models.SD20({}).process_clip_state_dict(text)
        known = shapes(SD2ClipModel(dtype=torch.float32).state_dict())
        assert known.items() >= shapes(text).items() - {("clip_h.logit_scale", ())}
        assert set(known) - set(text) <= {"clip_h.logit_scale"}

        vision = {key: weights.pop(key) for key in list(weights) if key.startswith(loader.VISION)}
        vision = comfy.clip_vision.convert_to_transformers(vision, loader.VISION)
        config = json.loads((Path(comfy.clip_vision.__file__).parent / "clip_vision_config_h.json").read_text())
        tower = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", comfy.ops.manual_cast)
        assert shapes(tower.state_dict()) == shapes(vision)

    rest = {key for key in weights if not key.startswith("embedder.model.")}  # the vision tower's idle text half
    assert rest <= BUFFERS


@pytest.mark.parametrize(
    ("file", "name", "table"),
    [
        ("dynamicrafter_256", "model.ckpt", None),
        ("dynamicrafter_512", "model.ckpt", 0.7),
        ("dynamicrafter_512", "dynamicrafter_512_interp.ckpt", 0.7),
        ("dynamicrafter_1024", "model.ckpt", 0.3),
        ("tooncrafter_512_interp", "model.ckpt", 0.7),
    ],
)
def test_a_file_is_taken_for_what_it_is(loader, file, name, table):
    """By keys and by the rescale table; 512 and 512_interp are alike in both, so the file's name decides."""
    weights = manifest(file)
    if table:
        weights["scale_arr"] = torch.full((1400,), table)
    expected = {"dynamicrafter_256": "256", "dynamicrafter_1024": "1024", "tooncrafter_512_interp": "tooncrafter"}
    kind = "512_interp" if "interp" in name else expected.get(file, "512")
    assert loader.detect(name, weights, {}).name == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dynamicrafter_512_fp16_pruned.safetensors", "512"),
        ("dynamicrafter/dynamicrafter_512_interp_fp16_pruned.safetensors", "512_interp"),
        ("dynamicrafter_1024_fp16_pruned.safetensors", "1024"),
        ("dynamicrafter-CIL-1024-no-watermark-pruned-fp16.safetensors", "1024"),
        ("tooncrafter_512_interp-pruned-fp16.safetensors", "tooncrafter"),
        ("dynamicrafter_unet_1024.safetensors", "1024"),
    ],
)
def test_a_pruned_file_is_taken_by_its_name(loader, name, kind):
    """Without its rescale table and its autoencoder."""
    parts = (loader.UNET, loader.RESAMPLER)
    weights = {key: t for key, t in manifest("dynamicrafter_512").items() if key.startswith(parts)}
    assert loader.detect(name, weights, {}).name == kind


PLAIN = "dynamicrafter_512_plain.safetensors"


@pytest.fixture(scope="module")
def plain(host) -> dict:
    """The weights of a tiny checkpoint, which also lies among the host's as `PLAIN`."""
    from harness import dynamicrafter
    from safetensors.torch import load_file

    return load_file(dynamicrafter.write(host.base / "models" / "checkpoints" / PLAIN))


def opened(host, name: str, precision=None):
    from storyreel.host.dynamicrafter import loader as dynamicrafter_loader

    return dynamicrafter_loader.load(name, precision=precision)


def weights_of(loaded) -> dict:
    return {name: tensor.float() for name, tensor in loaded.model.model.state_dict().items()}


@pytest.mark.parametrize("wrapping", ["flat", "state_dict", "module", "forward_module", "any"])
def test_a_pickled_checkpoint_in_any_wrapping(host, plain, wrapping):
    """With the schedule's buffers, the rescale table among them, and a training program's own numbers beside."""
    path = host.base / "models" / "checkpoints" / f"{wrapping}.ckpt"
    weights = plain | {name: torch.zeros(1000) for name in BUFFERS} | {"scale_arr": torch.full((1400,), 0.7)}
    saved = {
        "flat": weights,
        "state_dict": {"state_dict": weights, "global_step": 7, "epoch": 1},
        "module": {"module": weights},
        "forward_module": {"module": {f"_forward_module.{name}": tensor for name, tensor in weights.items()}},
        "any": {"model": weights},
    }
    torch.save(saved[wrapping], path)
    found, expected = weights_of(opened(host, path.name)), weights_of(opened(host, PLAIN))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    path.unlink()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_checkpoint_in_a_smaller_format(host, plain, dtype):
    """The weights are those of the file, not of a copy in another format, and the model samples with them."""
    from safetensors.torch import save_file

    path = host.base / "models" / "checkpoints" / f"dynamicrafter_512_{str(dtype)[6:]}.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in plain.items()}, path)
    model = opened(host, path.name, dtype).model
    stored = model.model.diffusion_model.state_dict()
    key = "input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight"
    assert torch.equal(stored[key].float(), plain[f"model.diffusion_model.{key}"].to(dtype).float())
    assert stored[key].dtype == dtype
    path.unlink()

    from harness.sampled.dynamicrafter import sample

    whole = sample(opened(host, PLAIN, torch.float32).model)
    small = sample(model)
    assert small.isfinite().all()
    assert (small - whole).abs().max() / whole.abs().max() < (0.5 if dtype == torch.float8_e4m3fn else 0.1)


@torch.no_grad()  # as in the host; a graph would hold on to encoders of gigabytes
def test_a_full_checkpoint_brings_its_encoders(host, plain):
    """Text encoder, image encoder and autoencoder under their published keys, around a tiny UNet."""
    from harness import tiny
    from storyreel.host.common.clip_vision import vision_tokens
    from storyreel.host.common.text_encoder import has_projection

    loader_keys = ("model.diffusion_model.", "image_proj_model.")
    published = manifest("dynamicrafter_512").items()
    rest = ((name, tuple(tensor.shape)) for name, tensor in published if not name.startswith(loader_keys))
    path = host.base / "models" / "checkpoints" / "full_512.ckpt"
    torch.save({"state_dict": plain | tiny.random_weights(rest) | {"scale_arr": torch.full((1400,), 0.7)}}, path)
    loaded = opened(host, path.name)
    path.unlink()
    assert loaded.kind.name == "512"
    text = loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize("a hero walks"))
    assert has_projection(loaded.clip, "clip_h")
    assert text[0][0].shape == (1, 77, 1024) and text[0][0].isfinite().all()
    assert vision_tokens(loaded.clip_vision, torch.rand(1, 40, 60, 3)).shape == (1, 257, 1280)
    assert loaded.vae.decode(loaded.vae.encode(torch.rand(1, 64, 64, 3))).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("image_proj_model.", "proj_out.weight"),
        ("image_proj_model.", "layers.0.0.norm2.bias"),
        ("model.diffusion_model.", "out.0.weight"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(loader, host, plain, part, weight):
    from safetensors.torch import save_file

    path = host.base / "models" / "checkpoints" / "half_512.safetensors"
    save_file({key: tensor for key, tensor in plain.items() if key != part + weight}, path)
    with pytest.raises(
        ValueError, match=rf"half_512.safetensors is not whole: it lacks {weight} of DynamiCrafter 512\."
    ):
        loader.load(path.name)
    path.unlink()


def toon_weights() -> dict:
    """A ToonCrafter autoencoder in the published layout."""
    from harness import dynamicrafter, tiny

    return {name: tensor.float() for name, tensor in tiny.random_weights(dynamicrafter.toon_vae()).items()}


@torch.no_grad()
def test_tooncrafters_autoencoder_decodes_plainly_and_with_its_end_pictures(loader):
    from storyreel.core.networks.dynamicrafter.tooncrafter import encoder_features
    from storyreel.host.dynamicrafter.decode import decode_clip

    vae = loader.build_vae(toon_weights())
    generator = torch.Generator().manual_seed(5)
    samples = torch.randn(6, 4, 4, 4, generator=generator)
    start, end = torch.rand(2, 1, 32, 32, 3, generator=generator)
    network = vae.first_stage_model.float()

    def shown(frames: torch.Tensor) -> torch.Tensor:
        return ((frames.float() + 1) / 2).clamp(0, 1).movedim(1, -1)

    vae.vae_dtype = torch.float32
    plain = shown(network.decoder(network.post_quant_conv(samples)))
    torch.testing.assert_close(vae.decode(samples), plain, rtol=0, atol=1e-4)

    ends = torch.stack([start[0], end[0]]).movedim(-1, 0)[None] * 2 - 1
    whole = shown(network.decoder(samples, encoder_features(network.encoder, ends)))
    found = decode_clip(vae, samples, start, end)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    refined = decode_clip(vae, samples, start, end, refine_middle=True)
    assert torch.equal(refined[:2], found[:2]) and torch.equal(refined[4:], found[4:])
    assert not torch.equal(refined[2:4], found[2:4])


def test_what_tooncrafters_decoder_cannot_decode_is_said(loader, host, tiny_checkpoint):
    from storyreel.host.dynamicrafter.decode import decode_clip

    picture, samples = torch.rand(1, 64, 64, 3), torch.zeros(4, 4, 8, 8)
    vae = loader.build_vae(toon_weights())
    with pytest.raises(ValueError, match="end_image contains 2 images; 1 is expected"):
        decode_clip(vae, samples, picture, torch.rand(2, 64, 64, 3))
    with pytest.raises(ValueError, match="refine_middle needs a clip of at least 6 frames; this one has 4"):
        decode_clip(vae, samples, picture, picture, refine_middle=True)
    stock = host.load_checkpoint(tiny_checkpoint("sd15"))[2]
    with pytest.raises(ValueError, match="VAE is not from a ToonCrafter checkpoint"):
        decode_clip(stock, samples, picture, picture)
