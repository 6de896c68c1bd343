"""Animate Story on each family of video models, which are tiny and of the host's own classes."""

import pytest
import torch
from harness import video_models
from harness.shots import CFG, FPS, SEED, STEPS, Stage, assert_frames, kept_shots, node

POSITIVE, NEGATIVE, START, END = ["shot", 0], ["shot", 1], ["shot", 2], ["shot", 3]
BOUNDARY = 0.9  # of Wan 2.2's two models, as published


@pytest.mark.parametrize("name", video_models.FAMILIES)
@torch.no_grad()
def test_a_tiny_model_samples_latents_of_its_vae(host, name):
    import nodes

    family, vae, model = video_models.FAMILIES[name], video_models.FAMILIES[name].vae(), video_models.build(name)
    frames, side = family.frames, 2 * family.multiple
    latent = vae.encode(torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(0)))
    prompts = video_models.prompt(name, 1, 1), video_models.prompt(name, 1, 2)
    empty = {"samples": torch.zeros_like(latent)}
    (sampled,) = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *prompts, empty)
    decoded = vae.decode(sampled["samples"])[0]
    assert decoded.shape == (frames, side, side, 3) and latent.shape[2] == family.latents and decoded.std() > 0.01


def size(stage: Stage) -> dict:
    return dict(width=stage.side, height=stage.side, length=stage.family.frames, batch_size=1)


def ksampler(stage: Stage, source: str, seed: int) -> dict:
    """The host's sampler on the outputs of a node: positive, negative and LATENT."""
    settings = dict(seed=seed, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0)
    conds = dict(positive=[source, 0], negative=[source, 1], latent_image=[source, 2])
    return node("KSampler", model=stage.link("MODEL"), **conds, **settings)


def decoded(stage: Stage, source: str) -> dict:
    return node("VAEDecode", samples=[source, 0], vae=stage.link("VAE"))


def seen(stage: Stage, image: list) -> dict:
    return node("CLIPVisionEncode", clip_vision=stage.link("CLIP_VISION"), image=image, crop="none")


def wan(stage: Stage, seed: int, end: bool) -> dict:
    """The nodes of the host's templates for Wan image-to-video, and from first to last frame."""
    conditioned = dict(positive=POSITIVE, negative=NEGATIVE, vae=stage.link("VAE"), start_image=START, **size(stage))
    nodes = {}
    if stage.family.vision:
        nodes["first"] = seen(stage, START)
        conditioned["clip_vision_start_image" if end else "clip_vision_output"] = ["first", 0]
    if end:
        conditioned["end_image"] = END
        if stage.family.vision:
            nodes["last"] = seen(stage, END)
            conditioned["clip_vision_end_image"] = ["last", 0]
    kind = "WanFirstLastFrameToVideo" if end else "WanImageToVideo"
    return nodes | {
        "conditioned": node(kind, **conditioned),
        "sampled": ksampler(stage, "conditioned", seed),
        "decoded": decoded(stage, "sampled"),
    }


def wan_5b(stage: Stage, seed: int, end: bool) -> dict:
    vae = stage.link("VAE")
    sampled = ksampler(stage, "latent", seed)
    sampled["inputs"] |= dict(positive=POSITIVE, negative=NEGATIVE, latent_image=["latent", 0])
    latent = node("Wan22ImageToVideoLatent", vae=vae, start_image=START, **size(stage))
    return {"latent": latent, "sampled": sampled, "decoded": decoded(stage, "sampled")}


def ltx(stage: Stage, seed: int, end: bool) -> dict:
    vae = stage.link("VAE")
    nodes = {
        "rate": node("LTXVConditioning", positive=POSITIVE, negative=NEGATIVE, frame_rate=FPS),
        "empty": node("EmptyLTXVLatentVideo", **size(stage)),
    }
    if not end:
        first = node("LTXVImgToVideoInplace", vae=vae, image=START, latent=["empty", 0], strength=1.0, bypass=False)
        sampled = ksampler(stage, "rate", seed)
        sampled["inputs"]["latent_image"] = ["first", 0]
        return nodes | {"first": first, "sampled": sampled, "decoded": decoded(stage, "sampled")}
    guide = dict(vae=vae, strength=1.0)
    first = dict(positive=["rate", 0], negative=["rate", 1], latent=["empty", 0], image=START, frame_idx=0)
    last = dict(positive=["first", 0], negative=["first", 1], latent=["first", 2], image=END, frame_idx=-1)
    cropped = node("LTXVCropGuides", positive=["last", 0], negative=["last", 1], latent=["sampled", 0])
    return nodes | {
        "first": node("LTXVAddGuide", **first, **guide),
        "last": node("LTXVAddGuide", **last, **guide),
        "sampled": ksampler(stage, "last", seed),
        "cropped": cropped,
        "decoded": node("VAEDecode", samples=["cropped", 2], vae=vae),
    }


def hunyuan(stage: Stage, seed: int, end: bool) -> dict:
    vision = node("CLIPVisionEncode", clip_vision=stage.link("CLIP_VISION"), image=START, crop="center")
    conditioned = dict(positive=POSITIVE, negative=NEGATIVE, vae=stage.link("VAE"), start_image=START, **size(stage))
    return {
        "vision": vision,
        "conditioned": node("HunyuanVideo15ImageToVideo", clip_vision_output=["vision", 0], **conditioned),
        "sampled": ksampler(stage, "conditioned", seed),
        "decoded": decoded(stage, "sampled"),
    }


def kandinsky(stage: Stage, seed: int, end: bool) -> dict:
    conditioned = dict(positive=POSITIVE, negative=NEGATIVE, vae=stage.link("VAE"), start_image=START, **size(stage))
    return {
        "conditioned": node("Kandinsky5ImageToVideo", **conditioned),
        "sampled": ksampler(stage, "conditioned", seed),
        "clean": node("ReplaceVideoLatentFrames", destination=["sampled", 0], source=["conditioned", 3], index=0),
        "start": node("NormalizeVideoLatentStart", latent=["clean", 0], start_frame_count=4, reference_frame_count=5),
        "decoded": decoded(stage, "start"),
    }


BY_HAND = {
    "wan21_i2v": wan, "wan21_flf": wan, "wan22_i2v": wan, "wan22_5b": wan_5b, "ltxv": ltx, "ltx2": ltx,
    "hunyuan15": hunyuan, "kandinsky5": kandinsky,
}  # fmt: skip
ENDING = ("wan21_flf", "wan22_i2v", "ltxv", "ltx2")  # families that end at an image
SHOTS = [(name, "animate") for name in BY_HAND] + [(name, "interpolate") for name in ENDING]


@pytest.mark.parametrize(("name", "mode"), SHOTS)
def test_a_shot_is_that_of_the_hosts_nodes(host, output, name, mode):
    """Bit by bit: the second shot, with its own images, prompt and seed."""
    stage, ends = Stage(host, name), mode == "interpolate"
    stage.run(stage.prompt(mode=mode))
    kept = kept_shots(output)
    assert len(kept) == (2 if ends else 3)
    frames = stage.frames(BY_HAND[name](stage, SEED + 1, ends), 1, 1, 2 if ends else None)
    assert len(frames) == stage.family.frames
    assert_frames(kept[1], frames)


@pytest.mark.parametrize("mode", ["animate", "interpolate"])
@pytest.mark.parametrize("reference", [False, True])
def test_vace_gets_the_images_as_given_frames(host, output, mode, reference):
    """In a gray video, which the host's node makes of images in the first places and adds gray frames to."""
    from comfy_api.latest import io

    stage, ends = Stage(host, "wan21_vace"), mode == "interpolate"
    stage.run(stage.prompt(mode=mode, **({"reference_image": stage.link("images")} if reference else {})))
    count = size(stage)["length"]
    images, masks = torch.full((count, 2 * stage.side, 2 * stage.side, 3), 0.5), torch.ones(count, 64, 64)
    images[0], masks[0] = stage.parts["images"][1], 0
    if ends:
        images[-1], masks[-1] = stage.parts["images"][2], 0

    class Given(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="TestGiven", inputs=[], outputs=[io.Image.Output(), io.Mask.Output()])

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(images, masks)

    conditioned = dict(positive=POSITIVE, negative=NEGATIVE, vae=stage.link("VAE"), strength=1.0, **size(stage))
    conditioned |= dict(control_video=["given", 0], control_masks=["given", 1])
    conditioned |= {"reference_image": stage.link("images")} if reference else {}
    nodes = {
        "given": node("TestGiven"),
        "conditioned": node("WanVaceToVideo", **conditioned),
        "sampled": ksampler(stage, "conditioned", SEED + 1),
        "trimmed": node("TrimVideoLatent", samples=["sampled", 0], trim_amount=["conditioned", 3]),
        "decoded": decoded(stage, "trimmed"),
    }
    with host.node(Given):
        assert_frames(kept_shots(output)[1], stage.frames(nodes, 1, 1, 2 if ends else None))


@pytest.mark.parametrize("mode", ["animate", "interpolate"])
def test_ltx_2_keeps_its_sound_on_the_shot_and_in_the_video(host, output, mode):
    from fractions import Fraction

    from storyreel.core.video.sound import read_sound

    stage, ends = Stage(host, "ltx2"), mode == "interpolate"
    stage.run(stage.prompt(mode=mode, audio_vae=stage.link("audio")))
    nodes = ltx(stage, SEED + 1, ends)
    latent = nodes["sampled"]["inputs"]["latent_image"]
    silence = dict(frames_number=size(stage)["length"], frame_rate=FPS, batch_size=1, audio_vae=stage.link("audio"))
    nodes |= {
        "silence": node("LTXVEmptyLatentAudio", **silence),
        "both": node("LTXVConcatAVLatent", video_latent=latent, audio_latent=["silence", 0]),
        "parts_of_it": node("LTXVSeparateAVLatent", av_latent=["sampled", 0]),
        "sound": node("LTXVAudioVAEDecode", samples=["parts_of_it", 1], audio_vae=stage.link("audio")),
        "heard": node("PreviewAudio", audio=["sound", 0]),
    }
    nodes["sampled"]["inputs"]["latent_image"] = ["both", 0]
    (nodes["cropped"]["inputs"] if ends else nodes["decoded"]["inputs"])["latent" if ends else "samples"] = [
        "parts_of_it",
        0,
    ]
    values = stage.values(nodes, 1, 1, 2 if ends else None)
    kept = kept_shots(output)
    assert_frames(kept[1], values["decoded"][0])
    sounds = [read_sound(str(path)) for path in kept]
    audio, length = values["sound"][0], int(size(stage)["length"] / Fraction(FPS) * sounds[1].rate)
    expected = audio["waveform"][0, :, :length]
    assert sounds[1].rate == audio["sample_rate"] and sounds[1].samples.shape == (2, length)
    assert expected.std() > 0.01 and torch.equal(torch.from_numpy(sounds[1].samples)[:, : expected.shape[1]], expected)
    (whole,) = output.glob("story/shots/*/all_*.avi")
    skipped = int(sounds[0].rate / Fraction(FPS)) if ends else 0
    parts = [torch.from_numpy(sound.samples)[:, skipped if number else 0 :] for number, sound in enumerate(sounds)]
    assert torch.equal(torch.from_numpy(read_sound(str(whole)).samples), torch.cat(parts, 1))


@pytest.mark.parametrize("switch", [0, 1])
def test_two_experts_share_the_steps_as_in_the_hosts_nodes(host, output, switch):
    """KSamplerAdvanced twice: the first returns the leftover noise, the second adds none."""
    import comfy.samplers

    stage = Stage(host, "wan22_i2v")
    stage.run(stage.prompt(mode="interpolate", low_noise_model=stage.link("low"), switch_step=switch))
    sigmas = comfy.samplers.calculate_sigmas(stage.parts["MODEL"].get_model_object("model_sampling"), "simple", STEPS)
    step = switch or int((sigmas[:-1] >= BOUNDARY).sum())
    assert switch == 1 or step == 2

    def advanced(model, latent, noise, first, last):
        settings = dict(steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", noise_seed=SEED + 1)
        switches = dict(add_noise=noise, return_with_leftover_noise=noise, start_at_step=first, end_at_step=last)
        conds = dict(positive=["conditioned", 0], negative=["conditioned", 1], latent_image=latent)
        return node("KSamplerAdvanced", model=stage.link(model), **conds, **settings, **switches)

    nodes = wan(stage, SEED + 1, True) | {
        "high": advanced("MODEL", ["conditioned", 2], "enable", 0, step),
        "sampled": advanced("low", ["high", 0], "disable", step, 10000),
    }
    assert_frames(kept_shots(output)[1], stage.frames(nodes, 1, 1, 2))
