"""DynamiCrafter in the host: loaded, conditioned, sampled by stock nodes and by the pack's own."""

from itertools import cycle

import pytest
import torch
from harness.sampled.dynamicrafter import FRAMES, SIZE, by_euler, conditioning, empty, sample
from harness.windows import windows


@pytest.fixture(scope="module")
def names(host):
    """The tiny checkpoints, by what they stand for."""
    from harness import dynamicrafter

    folder = host.base / "models" / "checkpoints"
    for kind in ("512", "512_interp"):
        dynamicrafter.write(folder / f"dynamicrafter_{kind}_tiny.safetensors")
    return {kind: f"dynamicrafter_{kind}_tiny.safetensors" for kind in ("512", "512_interp")}


@pytest.fixture
def model(names):
    from storyreel.host.dynamicrafter import loader

    return loader.load(names["512_interp"], precision=torch.float32).model


def two_scales(model, *scales: float, image_only: int = 3):
    """Our guider. scales: of text and of image, and the rescale."""
    from storyreel.host.dynamicrafter.sampling import TextImageGuider

    guider = TextImageGuider(model)
    guider.set_conds(conditioning(1), conditioning(image_only), conditioning(2))
    guider.set_scales(*scales)
    return guider


def one_scale(model):
    """The host's guider."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(5.0)
    return guider


@torch.no_grad()
def by_guider(
    guider,
    sampler,
    steps: int,
    spacing: str = "uniform_trailing",
    seed: int = 0,
    callback=None,
    part: slice = slice(None),
):
    """part: of the sigmas of all steps."""
    from storyreel.host.dynamicrafter.sampling import sigmas_of

    noise = torch.randn(FRAMES, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    sigmas = sigmas_of(guider.model_patcher, spacing, steps)[part]
    how = dict(callback=callback, seed=seed, disable_pbar=True)
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, **how)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        *zip(
            ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "lcm", "ddim"],
            cycle(["normal", "karras", "sgm_uniform"]),
        )
    ],
)
def test_every_sampler_of_the_host(model, sampler, scheduler):
    samples = sample(model, steps=3, sampler=sampler, scheduler=scheduler)
    assert samples.shape == (FRAMES, 4, *SIZE) and samples.isfinite().all() and samples.std() > 0.01


@pytest.mark.parametrize("steps", [3, 7, 11, 20, 27, 36, 61])
@pytest.mark.parametrize("spacing", ["uniform", "uniform_trailing"])
def test_step_counts_at_which_the_published_code_fails(model, steps, spacing):
    from storyreel.host.dynamicrafter.sampling import DDIM

    guider = two_scales(model, 1.0, 1.0, 0.0)
    for part in (slice(3), slice(-3, None)):  # the first and the last two steps
        assert by_guider(guider, DDIM(1.0), steps, spacing, part=part).isfinite().all()


def test_ddim_without_eta_is_eulers_method(model):
    """But for its last step, which ends at the first timestep's noise and not at none."""
    import comfy.samplers
    from storyreel.host.dynamicrafter.sampling import DDIM

    steps = {"ddim": [], "euler": []}
    for sampler, seen in zip((DDIM(0.0), comfy.samplers.sampler_object("euler")), steps.values(), strict=True):

        def see(step, denoised, x, total, seen=seen):
            seen.append(denoised.clone())

        by_guider(one_scale(model), sampler, 5, callback=see)
    assert len(steps["ddim"]) == 5
    for ddim, euler in zip(steps["ddim"], steps["euler"], strict=True):
        assert (ddim - euler).abs().max() / euler.abs().max() < 1e-3


@torch.no_grad()
def test_ddim_in_two_stages_is_ddim_in_one(model):
    """Split SIGMAS: what the first stage hands over is in the host's units, as the second takes it."""
    from storyreel.host.dynamicrafter.sampling import DDIM, sigmas_of

    guider, how = one_scale(model), dict(seed=0, disable_pbar=True)
    sigmas = sigmas_of(model, "uniform_trailing", 5)
    noise = torch.randn(FRAMES, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    nothing = torch.zeros_like(noise)
    whole = guider.sample(noise, nothing, DDIM(0.0), sigmas, **how)
    half = guider.sample(noise, nothing, DDIM(0.0), sigmas[:3], **how)
    both = guider.sample(nothing, half, DDIM(0.0), sigmas[2:], **how)
    assert (both - whole).abs().max() / whole.abs().max() < 1e-5
    none_left = guider.sample(nothing, whole, DDIM(0.0), sigmas[5:], **how)  # split behind the last step
    assert (none_left - whole).abs().max() / whole.abs().max() < 1e-2


@torch.no_grad()
def test_ddim_below_the_models_own_least_noise(host, tiny_checkpoint):
    import comfy.samplers
    from harness import probe
    from storyreel.host.dynamicrafter.sampling import DDIM

    model = host.load_model(tiny_checkpoint("sd15"))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sigmas = torch.tensor([14.0, 1.0, 0.01, 0.0])
    for eta in (0.0, 1.0):
        made = guider.sample(noise, torch.zeros_like(noise), DDIM(eta), sigmas, seed=0, disable_pbar=True)
        assert made.isfinite().all() and made.std() > 0.01


def test_ddim_refuses_a_rectified_flow(host):
    import comfy.model_sampling
    from storyreel.host.dynamicrafter.sampling import _Units

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    with pytest.raises(ValueError, match="rectified flow model, which DDIM does not support. Use euler"):
        _Units(Flow(), torch.ones(1))


def test_noise_of_ddim_is_a_function_of_seed_and_step(model):
    from storyreel.host.dynamicrafter.sampling import DDIM

    results = []
    for seed in (0, 0, 1):
        torch.rand(seed + 5)  # the global generator may stand anywhere
        results.append(by_guider(two_scales(model, 5.0, 2.0, 0.7), DDIM(1.0), 3, seed=seed))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_halves_of_guidance_together_or_apart(names, monkeypatch):
    """Under the schedule of the 256 checkpoint: Euler's first step from nearly no signal, as the others begin, takes
    differences of numbers in the thousands and magnifies their rounding."""
    from storyreel.host.dynamicrafter import loader

    model = loader.load(names["512"], "256", torch.float32).model
    together = sample(model)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    apart = sample(model)
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-5 * together.abs().max().item())


def test_the_gate(model):
    from storyreel.host.dynamicrafter import sampling

    plain = sample(model)
    assert torch.equal(sample(sampling.patch_gate(model, 1.0, 1.0)), plain)
    assert not torch.equal(sample(sampling.patch_gate(model, 0.5, 1.0)), plain)
    assert not torch.equal(sample(sampling.patch_gate(model, 1.0, 0.5)), plain)
    assert torch.equal(sample(model), plain)


def test_rescale_0_changes_nothing(model):
    from storyreel.host.dynamicrafter import sampling

    plain = sample(model)
    assert torch.equal(sample(sampling.patch_rescale(model, 0.0)), plain)
    assert not torch.equal(sample(sampling.patch_rescale(model, 0.7)), plain)


def test_rescale_under_a_schedule_that_another_node_brought_is_refused(host, model):
    from storyreel.host.dynamicrafter import sampling

    (other,) = host.nodes["ModelSamplingDiscrete"]().patch(model, "v_prediction", True)
    with pytest.raises(ValueError, match="another node replaced the MODEL's schedule by .* Remove that node"):
        sample(sampling.patch_rescale(other, 0.7))
    assert sample(sampling.patch_rescale(other, 0.0)).isfinite().all()


def test_the_patch_and_the_guider_rescale_alike(model):
    from storyreel.host.dynamicrafter.sampling import DDIM, patch_rescale

    stock = by_guider(one_scale(patch_rescale(model, 0.7)), DDIM(0.0), 3)
    ours = by_guider(two_scales(model, 5.0, 5.0, 0.7, image_only=1), DDIM(0.0), 3)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5 * stock.abs().max().item())


def test_equal_scales_are_ordinary_guidance(model):
    from storyreel.host.dynamicrafter.sampling import DDIM

    stock, ours = (by_guider(one, DDIM(0.0), 3) for one in (one_scale(model), two_scales(model, 5.0, 5.0, 0.0)))
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5 * stock.abs().max().item())


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_over_the_whole_clip_is_bit_equal_to_none(model, causal):
    assert torch.equal(sample(windows(model, 16, 4, causal)), sample(model))


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_equals_its_frames_sampled_alone(names, causal):
    """Without overlap, by Euler. The first frame of a window reads the first image tokens, and the picture's latents
    are cut by the frame's own number."""
    import comfy.samplers
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.dynamicrafter import model as keys

    model = loader.load(names["512"], precision=torch.float32).model
    noise = torch.randn(32, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)

    def run(model, frames: slice):
        conds = [conditioning(1, 32), conditioning(2, 32)]
        for cond in conds:
            cond[0][1][keys.CONCAT_LATENTS] = cond[0][1][keys.CONCAT_LATENTS][frames]
        return by_euler(model, noise[frames], sigmas, *conds)

    whole = run(windows(model, 16, 0, causal), slice(0, 32))
    for frames in (slice(0, 16), slice(16, 32)):
        alone = run(model, frames)
        torch.testing.assert_close(whole[frames], alone, rtol=0, atol=1e-6 * alone.abs().max().item())


@pytest.fixture(scope="module")
def keeping(host):
    """Opens a checkpoint with the further output channel, which says `keep` everywhere; its other weights are those of
    the tiny ones."""
    from harness import dynamicrafter
    from storyreel.core.networks.dynamicrafter.unet import UNet
    from storyreel.host.dynamicrafter import loader

    def open_one(keep: float):
        weights = dynamicrafter.random(UNet(dynamicrafter.SIZES))
        last = weights["out.2.weight"]
        weights["out.2.weight"] = torch.cat([last, torch.zeros_like(last[:1])])
        weights["out.2.bias"] = torch.cat([weights["out.2.bias"], torch.tensor([keep])])
        name = f"dynamicrafter_512_interp_keeps_{keep:.0f}.safetensors"
        dynamicrafter.write(host.base / "models" / "checkpoints" / name, weights)
        return loader.load(name, precision=torch.float32).model

    return open_one


def test_what_is_said_to_stay_is_the_picture(keeping, model):
    """Exactly, in every frame, by any sampler; and with nothing to keep, nothing is changed."""
    from storyreel.host.dynamicrafter import model as keys

    (given,) = (options[keys.CONCAT_LATENTS] for _, options in conditioning(1))
    for how in ({}, {"sampler": "dpmpp_2m", "scheduler": "karras"}):
        torch.testing.assert_close(sample(keeping(40.0), **how), given, rtol=0, atol=1e-4)
        assert torch.equal(sample(keeping(-200.0), **how), sample(model, **how))
    torch.testing.assert_close(sample(windows(keeping(40.0), 8, 2, True)), given, rtol=0, atol=1e-4)


def test_frames_that_nothing_is_given_for_stay_as_the_first():
    from storyreel.core.storyworld.keeping import still_clip

    clip = torch.randn(1, 4, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    altered = clip.clone()
    altered[:, :, 1:4] = 0
    guess = still_clip(altered)
    assert torch.equal(guess[:, :, [0, 4]], clip[:, :, [0, 4]])
    assert torch.equal(guess[:, :, 1:4], clip[:, :, :1].expand(-1, -1, 3, -1, -1))
    assert torch.equal(still_clip(torch.zeros_like(clip)), torch.zeros_like(clip))


@pytest.mark.parametrize("frames", [8, 16, 24])
def test_any_number_of_frames(model, frames):
    assert sample(model, frames).shape[0] == frames


@pytest.mark.parametrize("size", [(8, 12), (6, 4), (2, 2)], ids=["upscaled", "turned", "smaller"])
@torch.no_grad()
def test_a_latent_of_another_size_resizes_what_is_concatenated(model, size):
    """As the host does for SVD: scaled to cover the LATENT, cut from the middle. Of the same size nothing changes."""
    import comfy.utils
    import nodes
    from storyreel.host.dynamicrafter import model as keys

    def sampled(*conds):
        return nodes.common_ksampler(model, 1, 3, 5.0, "euler", "normal", *conds, empty(size=size))[0]["samples"]

    conds = conditioning(1), conditioning(2)
    expected = conditioning(1), conditioning(2)
    for ((_, options),) in expected:
        latents = options[keys.CONCAT_LATENTS]
        options[keys.CONCAT_LATENTS] = comfy.utils.common_upscale(latents, size[1], size[0], "bilinear", "center")
    found = sampled(*conds)
    assert found.shape == (FRAMES, 4, *size) and torch.equal(found, sampled(*expected))
    assert all(options[keys.CONCAT_LATENTS].shape[-2:] == SIZE for ((_, options),) in conds), "it stays"


def test_an_upscaled_latent_of_the_demo_model_is_sampled(host, tmp_path):
    """The empty clip of DynamiCrafter Conditioning behind the stock Upscale Latent, at twice its size."""
    prompt = {
        "image": ("EmptyImage", dict(width=128, height=64, batch_size=1, color=0x336699)),
        "toy": ("StoryReelLoadStoryworld", dict(precision="auto")),
        "model": (
            "StoryReelDynamiCrafterLoader",
            dict(checkpoint="storyworld_video.safetensors", model_type="auto", precision="auto"),
        ),
        "text": ("CLIPTextEncode", dict(text="a hero waving", clip=["toy", 1])),
        "shot": (
            "StoryReelDynamiCrafterConditioning",
            dict(positive=["text", 0], negative=["text", 0], clip_vision=["toy", 3], vae=["toy", 2], frames=4, fs=0)
            | dict(start_image=["image", 0], mode="animate", width=128, height=64),
        ),
        "larger": (
            "LatentUpscale",
            dict(samples=["shot", 3], upscale_method="bilinear", width=256, height=128, crop="disabled"),
        ),
        "sample": (
            "KSampler",
            dict(model=["model", 0], positive=["shot", 0], negative=["shot", 2], latent_image=["larger", 0])
            | dict(seed=1, steps=1, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0),
        ),
        "end": ("PreviewAny", dict(source=["sample", 0])),
    }
    done = host.run({name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in prompt.items()})
    empty, sampled = done.values["shot"][3]["samples"], done.values["sample"][0]["samples"]
    assert sampled.shape == (*empty.shape[:2], *(2 * side for side in empty.shape[2:])) and sampled.isfinite().all()


def test_what_does_not_go_together_is_said(names, model):
    import nodes
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.dynamicrafter import model as keys

    animating = loader.load(names["512"], precision=torch.float32).model
    with pytest.raises(ValueError, match="of type 512, which does not support interpolate"):
        sample(animating, mode="interpolate")
    sample(model, mode="interpolate")
    with pytest.raises(ValueError, match="LATENT is 56 x 32 pixels. Width and height must be multiples of 16"):
        sample(model, size=(4, 7))
    with pytest.raises(ValueError, match="CONDITIONING contains no image"):
        nodes.common_ksampler(
            model, 0, 2, 5.0, "euler", "normal", [[torch.zeros(1, 77, 64), {}]], conditioning(2), empty()
        )
    wrong = conditioning(1)
    wrong[0][1][keys.VISION_TOKENS] = torch.zeros(1, 5, 80)
    with pytest.raises(ValueError, match="CLIP_VISION gives tokens of width 80, and this .* on width 96"):
        nodes.common_ksampler(model, 0, 2, 5.0, "euler", "normal", wrong, conditioning(2), empty())
    with pytest.raises(ValueError, match="CONDITIONING is for 16 frames, but the LATENT has 8"):
        nodes.common_ksampler(model, 0, 2, 5.0, "euler", "normal", conditioning(1), conditioning(2), empty(8))
    wrong = conditioning(1)
    wrong[0][1][keys.CONCAT_LATENTS] = torch.zeros(FRAMES, 16, *SIZE)
    with pytest.raises(ValueError, match="VAE gives latents of 16 channels, and this DynamiCrafter expects 4"):
        nodes.common_ksampler(model, 0, 2, 5.0, "euler", "normal", wrong, wrong, empty())
    with pytest.raises(ValueError, match="CLIP gives text of width 32"):
        cond = [[torch.zeros(1, 77, 32), conditioning(1)[0][1]]]
        nodes.common_ksampler(model, 0, 2, 5.0, "euler", "normal", cond, cond, empty())


def test_another_model_is_refused_by_name(host, tiny_checkpoint, names, tmp_path):
    from storyreel.host.dynamicrafter import loader, sampling

    stock = host.load_model(tiny_checkpoint("sd15"))
    with pytest.raises(ValueError, match="MODEL is a BaseModel; a DynamiCrafter model is expected"):
        sampling.patch_rescale(stock, 0.7)
    tiny_checkpoint("sd15")
    with pytest.raises(ValueError, match="sd15.ckpt is a checkpoint of another model; a DynamiCrafter checkpoint was"):
        loader.load("sd15.ckpt")


def test_partial_offload_gives_the_same(names):
    """The host's low-memory path: weights stay behind and are fetched layer by layer."""
    import comfy.model_management
    from storyreel.host.dynamicrafter import loader

    model = loader.load(names["512"], precision=torch.float32).model
    whole = sample(model)
    comfy.model_management.unload_all_models()
    load = model.partially_load
    model.partially_load = lambda device, extra_memory=0, **kwargs: load(device, 1 << 16, **kwargs)
    assert torch.equal(sample(model), whole)
    assert model.model.model_lowvram and model.loaded_size() < model.model_size()


def test_a_lora_on_the_unet(names, tmp_path):
    """A file in the usual layout changes what it names, by what it says, and nothing once it is off."""
    import comfy.sd
    from storyreel.host.dynamicrafter import loader

    model = loader.load(names["512"], precision=torch.float32).model
    plain = sample(model)
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip"
    weight = dict(model.model.named_parameters())[f"{key}.weight"]
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    lora = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(2.0)}
    lora = {
        name.replace("diffusion_model.", "lora_unet_")
        .replace(".", "_")
        .replace("_lora_", ".lora_")
        .replace("_weight", ".weight")
        .replace("_alpha", ".alpha"): t
        for name, t in lora.items()
    }
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    changed = sample(patched)
    assert not torch.equal(changed, plain)
    assert torch.equal(sample(model), plain)
    merged = loader.load(names["512"], precision=torch.float32).model
    with torch.no_grad():
        dict(merged.model.named_parameters())[f"{key}.weight"].add_(0.5 * up @ down)
    torch.testing.assert_close(sample(merged), changed, rtol=0, atol=1e-4 * changed.abs().max().item())
