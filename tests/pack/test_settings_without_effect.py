"""Settings of video nodes without effect are reported, and those with an effect are not."""

from dataclasses import dataclass

import pytest
import torch

FRAMES = 16


@pytest.fixture
def reported(host):
    """reported(make) -> the messages while `make()` runs, and what it returns."""
    from storyreel.host.common import messages

    def reported(make):
        with messages.collecting("a node") as texts, torch.no_grad():
            result = make()
        return texts, result

    return reported


@pytest.fixture(scope="module")
def crafter(host):
    from harness import dynamicrafter
    from storyreel.host.dynamicrafter import loader

    path = dynamicrafter.write(host.base / "models" / "checkpoints" / "dynamicrafter_512_effects.safetensors")
    return loader.load(path.name, "512", torch.float32).model


def crafter_sample(model, cfg=5.0, sampler="euler", mask=None):
    """Two steps of a tiny DynamiCrafter."""
    import comfy.samplers
    from storyreel.host.dynamicrafter import model as keys
    from storyreel.host.dynamicrafter.sampling import sigmas_of

    text, tokens = torch.zeros(1, 77, 64), torch.zeros(1, 5, 96)
    shown = {keys.VISION_TOKENS: tokens, keys.CONCAT_LATENTS: torch.zeros(FRAMES, 4, 8, 8), keys.FS: None}
    conds = [[text, shown | {keys.MODE: "animate"}]]
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conds, conds)
    guider.set_cfg(cfg)
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = sigmas_of(model, "uniform_trailing", 2)
    guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, denoise_mask=mask, seed=0, disable_pbar=True)


def test_guidance_rescale(crafter, reported):
    from storyreel.host.dynamicrafter.sampling import patch_rescale

    (text,), _ = reported(lambda: patch_rescale(crafter, 0.0))
    assert text == "cfg_rescale is 0, so this node has no effect."
    nothing, patched = reported(lambda: patch_rescale(crafter, 0.7))
    (text,), _ = reported(lambda: crafter_sample(patched, cfg=1.0))
    assert nothing == [] and "cfg is 1, so there is no guidance to rescale" in text
    assert reported(lambda: crafter_sample(patched))[0] == []


def test_what_ddim_is_to_keep_clean(crafter, reported):
    from storyreel.host.dynamicrafter.sampling import DDIM

    (text,), _ = reported(lambda: crafter_sample(crafter, sampler=DDIM(1.0, keep_clean=True)))
    assert "keep_clean has no effect: the LATENT has no noise mask" in text
    mask = torch.ones(FRAMES, 1, 8, 8)
    assert reported(lambda: crafter_sample(crafter, sampler=DDIM(1.0, keep_clean=True), mask=mask))[0] == []
    assert reported(lambda: crafter_sample(crafter, sampler=DDIM(1.0)))[0] == []


@pytest.mark.parametrize("frames, silent", [(4, False), (6, False), (7, True)])
def test_blending_of_a_single_chunk(host, reported, frames, silent):
    import comfy.samplers
    from harness import extending
    from storyreel.host.streaming.blending import patch_blending

    model = patch_blending(extending.tiny_wan(pictures=False, image_encoder=False), 6, 3, 2.0, 0.0, 0)
    guider = comfy.samplers.CFGGuider(model)
    text = [[torch.zeros(1, 7, 64), {}]]
    guider.set_conds(text, text)
    noise = torch.zeros(1, 16, frames, 4, 6)
    sigmas = torch.tensor([0.9, 0.0])
    texts, _ = reported(
        lambda: guider.sample(noise, noise, comfy.samplers.sampler_object("euler"), sigmas, seed=0, disable_pbar=True)
    )
    assert (texts == []) == silent
    assert silent or f"the clip has {frames} latent frames and chunk_length is 6, so nothing is blended" in texts[0]


@dataclass
class MeanEncoder:
    """Encodes an image as one token."""

    frames_per_image: int = 1
    reads_clip_vision: bool = True
    token_space: str = "ip"

    def encode(self, clip_vision, picture, frames):
        return picture.mean().expand(1, 1, 4)

    def uncond(self, clip_vision):
        return None


def test_prediction_without_a_predictor(host, reported):
    from storyreel.host.motion.predict import Predictor, predict

    predictor, vision = Predictor(MeanEncoder(), None, "interpolation"), object()  # which MeanEncoder does not read
    images = [torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3)]
    (text,), _ = reported(lambda: predict(predictor, vision, images, [0, 7], 8, strength=0.5))
    assert "strength 0.5 has no effect because no predictor is loaded" in text
    (text,), _ = reported(lambda: predict(predictor, vision, images[:1], [0], 8))
    assert "start_image is the only image, so all frames have the same tokens" in text
    assert reported(lambda: predict(predictor, vision, images, [0, 7], 8))[0] == []


@pytest.mark.parametrize("strength, silent", [(0.0, False), (0.5, True)])
def test_motion_of_strength_0(host, reported, strength, silent):
    from harness import motion as tiny
    from storyreel.core.motion.trajectory import Trajectory
    from storyreel.host.motion import ip_adapter
    from storyreel.host.motion.apply import apply_to_sd15

    tiny.write_adapter(host.base / "models" / ip_adapter.FOLDER / "effects_plus.safetensors")
    model = tiny.sd15(tiny.SIZES)
    encoder, models = ip_adapter.load_token_encoder("effects_plus.safetensors"), []
    motion = Trajectory(torch.zeros(4, *encoder.shape), encoder.token_space, None, "")
    texts, _ = reported(lambda: models.append(apply_to_sd15(model, motion, None, "effects_plus.safetensors", strength)))
    assert (texts == []) == silent and (silent or "strength is 0, so the motion has no effect" in texts[0])


@pytest.mark.parametrize(
    "kind, changed, anchor, expected",
    [
        ("StreamingT2VExtender", {}, True, []),
        ("StreamingT2VExtender", {"cam_strength": 0.5, "apm_strength": 2.0}, False, []),
        (
            "StreamingT2VExtender",
            {"apm_strength": 0.0},
            True,
            ["anchor and reference_image have no effect: apm_strength"],
        ),
        ("StreamingSVDExtender", {"apm_strength": 0.5}, True, ["apm_strength has no effect on StreamingSVD"]),
        (
            "SVDExtender",
            {"cam_strength": 0.5},
            True,
            ["cam_strength has no", "Stable Video Diffusion reads no anchor"],
        ),
        ("WanExtender", {}, True, ["Wan image-to-video reads no anchor"]),
        ("WanExtender", {}, False, []),
        ("WanExtender", {"switch_step": 2}, False, ["switch_step has no effect without low_noise_model"]),
        ("WanExtender", {"switch_step": 2, "low_noise_model": object()}, False, []),
        ("WanVACEExtender", {}, True, ["Wan VACE reads reference_image, which is not connected"]),
        ("WanVACEExtender", {"reference_image": torch.zeros(1, 8, 8, 3)}, True, []),
        ("LTX2Extender", {"chunk_length": 17, "overlap": 9}, False, ["LTX-2 adds no sound here"]),
        ("SVDExtender", {"low_noise_model": object()}, False, ["low_noise_model has no effect: Stable Video"]),
    ],
)
def test_what_a_kind_of_model_does_not_read(host, kind, changed, anchor, expected):
    from storyreel.host.extend import families
    from storyreel.host.extend.extender import ChunkInputs

    inputs = dict(model=None, vae=None, sampler=None, sigmas=None, seed=0, cfg=1.0, chunk_length=9, overlap=1)
    inputs = ChunkInputs(**inputs | changed)
    messages = getattr(families, kind)(inputs).describe_ignored(anchor)
    assert len(messages) == len(expected)
    assert all(text in message for text, message in zip(expected, messages, strict=True))
