"""Animate Story on each family of video models, which are tiny and of the host's own classes."""

import pytest
import torch
from harness import video_models
from harness.shots import CFG, SEED, STEPS, Stage, assert_frames, kept_shots, node

POSITIVE, NEGATIVE, START, END = ["shot", 0], ["shot", 1], ["shot", 2], ["shot", 3]
BOUNDARY = 0.9  # of Wan 2.2's two models, as published


@pytest.fixture
def output(host, tmp_path):
    """A folder for the host's output that starts empty."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.mark.parametrize("name", video_models.FAMILIES)
@torch.no_grad()
def test_a_tiny_model_samples_latents_of_its_vae(host, name):
    import nodes

    family, vae, model = video_models.FAMILIES[name], video_models.FAMILIES[name].vae(), video_models.build(name)
    frames, side = 2 * family.step + 1, 2 * family.multiple
    latent = vae.encode(torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(0)))
    prompts = video_models.prompt(name, 1, 1), video_models.prompt(name, 1, 2)
    empty = {"samples": torch.zeros_like(latent)}
    (sampled,) = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *prompts, empty)
    decoded = vae.decode(sampled["samples"])[0]
    assert decoded.shape == (frames, side, side, 3) and latent.shape[2] == 3 and decoded.std() > 0.01


def size(stage: Stage, frames: int | None = None) -> dict:
    frames = frames or 2 * stage.family.step + 1
    return dict(width=stage.side, height=stage.side, length=frames, batch_size=1)


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


BY_HAND = {"wan21_i2v": wan, "wan21_flf": wan, "wan22_i2v": wan}
ENDING = ("wan21_flf", "wan22_i2v")  # families that end at an image
SHOTS = [(name, "animate") for name in BY_HAND] + [(name, "interpolate") for name in ENDING]


@pytest.mark.parametrize(("name", "mode"), SHOTS)
def test_a_shot_is_that_of_the_hosts_nodes(host, output, name, mode):
    """Bit by bit: the second shot, with its own images, prompt and seed."""
    stage, ends = Stage(host, name), mode == "interpolate"
    stage.run(stage.prompt(mode=mode))
    kept = kept_shots(output)
    assert len(kept) == (2 if ends else 3)
    frames = stage.frames(BY_HAND[name](stage, SEED + 1, ends), 1, 1, 2 if ends else None)
    assert len(frames) == 2 * stage.family.step + 1
    assert_frames(kept[1], frames)


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


def messages(run) -> list[str]:
    return run.outputs["shots"]["text"]


def test_what_is_changed_or_without_effect_is_said_once(host, output):
    stage = Stage(host, "wan22_i2v")
    changed = dict(frames=12, clip_vision=stage.link("CLIP_VISION"), fs=8, switch_step=3)
    stage.parts["CLIP_VISION"] = video_models.vit_h()
    assert messages(stage.run(stage.prompt(**changed))) == [
        "clip_vision, fs and switch_step have no effect on Wan image-to-video.",
        "frames is 12; Wan image-to-video makes 4k + 1 frames, so each shot has 13.",
    ]
    assert "text" not in stage.run(stage.prompt(frames=13)).outputs.get("shots", {})
    assert len(kept_shots(output)) == 3, "12 frames are the same run as 13"


def test_a_wan_that_was_not_trained_on_last_frames_says_so(host, output):
    stage = Stage(host, "wan21_i2v", shots=1)
    (message,) = messages(stage.run(stage.prompt(mode="interpolate")))
    assert "was not trained to end at an image" in message


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("wan21_t2v", {}, "MODEL is Wan text-to-video, which cannot animate an image. Use one of DynamiCrafter, Wan"),
        ("wan21_i2v", dict(clip_vision=None), "clip_vision is empty, and Wan 2.1 image-to-video reads it"),
        (
            "wan22_i2v",
            dict(width=72),
            "72 x 64 pixels. Width and height must be multiples of 16 for Wan",
        ),
        ("wan22_i2v", dict(vae="none"), "vae is empty; Wan image-to-video needs wan_2.1_vae.safetensors"),
        ("wan22_i2v", dict(vae="other"), "vae makes latents of 48 channels, and Wan image-to-video reads 16"),
        ("wan22_i2v", dict(low="low", switch_step=STEPS), f"switch_step is {STEPS}, and sigmas has {STEPS} steps"),
        ("wan22_i2v", dict(low="other"), "low_noise_model: MODEL is Wan text-to-video, which cannot animate"),
    ],
)
def test_what_makes_no_shot_is_refused_before_sampling(host, output, name, changed, message):
    stage = Stage(host, name, shots=1)
    changed = dict(changed)
    if other := changed.pop("vae", None):
        stage.parts["VAE"] = None if other == "none" else video_models.tiny_tae(48)
    if low := changed.pop("low", None):
        changed["low_noise_model"] = stage.link("low")
        if low == "other":
            stage.parts["low"] = video_models.build("wan21_t2v")
    prompt = stage.prompt(**changed)
    if changed.get("clip_vision", "") is None:
        del prompt["shots"]["inputs"]["clip_vision"]
    with pytest.raises(RuntimeError, match="Animate Story: ") as refused:
        stage.run(prompt)
    assert message in str(refused.value) and not kept_shots(output)


def test_inputs_that_count_as_unset_are_those_of_the_node(host):
    from storyreel.nodes.shot_models import UNREAD

    declared = {entry.id: entry for entry in host.nodes["StoryReelAnimateStory"].define_schema().inputs}
    assert {name: getattr(declared[name], "default", None) for name in UNREAD} == UNREAD
