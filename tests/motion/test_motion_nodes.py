"""Predicting, editing and drawing a motion, and DynamiCrafter that follows one; the nodes in a running graph."""

import json
from dataclasses import replace

import pytest
import torch
from harness import dynamicrafter
from harness import motion as tiny
from harness.windows import windows
from safetensors.torch import save_file
from storyreel.core.motion import trajectory
from storyreel.core.motion.trajectory import Trajectory
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.semantic_motion.config import METADATA, PredictorConfig

FRAMES, SIZE = 16, (8, 12)
PLUS = PredictorConfig(tokens=tiny.TOKENS, token_width=tiny.CONTEXT, width=32, depth=1, heads=2, frames=20)
CRAFTER = replace(PLUS, token_space="dynamicrafter", tokens=16, token_width=64)
SD15 = "sd15.ckpt"


@pytest.fixture(scope="module")
def files(host):
    from storyreel.host.motion import ip_adapter
    from storyreel.host.motion import predict as motion

    models = host.base / "models"
    tiny.write_adapter(models / ip_adapter.FOLDER / "nodes_plus.safetensors")
    tiny.write_adapter(models / ip_adapter.FOLDER / "nodes_plain.bin", plus=False)
    dynamicrafter.write(models / "checkpoints" / "dynamicrafter_512_interp_motion.safetensors")
    for name, config in (("plus", PLUS), ("crafter", CRAFTER), ("one", replace(PLUS, ends=1))):
        tiny.write_predictor(models / motion.FOLDER / f"{name}.safetensors", config)
    return models


@pytest.fixture
def crafter(files):
    from storyreel.host.dynamicrafter import loader

    return loader.load("dynamicrafter_512_interp_motion.safetensors", precision=torch.float32).model


def image(seed: int, count: int = 1, size=SIZE) -> torch.Tensor:
    return torch.rand(count, 8 * size[0], 8 * size[1], 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def plus(files):
    from storyreel.host.motion.ip_adapter import load_token_encoder

    return load_token_encoder("nodes_plus.safetensors")


@torch.no_grad()
def predict(predictor, clip_vision, *images, keyframe_indices=None, frames=FRAMES, **edited):
    from storyreel.host.motion import predict as motion

    return motion.predict(
        predictor,
        clip_vision,
        images,
        keyframe_indices or trajectory.spread_evenly(len(images), frames),
        frames,
        **edited,
    )


def load(name: str, encoder):
    from storyreel.host.motion.predict import load_predictor

    return load_predictor(name, encoder)


def test_folders_of_the_users_own(files, tmp_path, monkeypatch):
    """As in extra_model_paths.yaml, also for folders that other packs register."""
    import folder_paths
    from storyreel.host.common.folders import file_names, path_of
    from utils.extra_config import load_extra_path_config

    for folder in ("animatediff_models", "ipadapter", "semantic_motion"):
        before = file_names(folder)
        paths, suffixes = folder_paths.folder_names_and_paths[folder]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, (list(paths), suffixes))
        (tmp_path / folder / "mine").mkdir(parents=True)
        (tmp_path / folder / "mine" / "my file.safetensors").write_bytes(b"")
        (tmp_path / folder / "readme.txt").write_text("not a model")
        settings = tmp_path / f"{folder}.yaml"
        settings.write_text(f"mine:\n  base_path: {tmp_path}\n  {folder}: {folder}\n")
        load_extra_path_config(str(settings))
        folder_paths.filename_list_cache.pop(folder, None)
        (name,) = set(file_names(folder)) - set(before)
        assert path_of(folder, name) == str(tmp_path / folder / "mine" / "my file.safetensors")
        folder_paths.filename_list_cache.pop(folder, None)


# Prediction


@torch.no_grad()
def test_untrained_is_a_line_between_the_tokens_of_ip_adapter(plus, clip_vision):
    motion = predict(load("none", plus), clip_vision, image(1), image(2))
    ends = [
        plus.projection.model(clip_vision.encode_image(image(seed))["penultimate_hidden_states"]) for seed in (1, 2)
    ]
    assert motion.tokens.shape == (FRAMES, tiny.TOKENS, tiny.CONTEXT) and motion.token_space == "ip-plus"
    for i, tokens in enumerate(motion.tokens):
        torch.testing.assert_close(tokens, torch.lerp(ends[0][0], ends[1][0], i / (FRAMES - 1)), rtol=0, atol=1e-5)
    assert torch.equal(motion.tokens[0], ends[0][0]) and torch.equal(motion.tokens[-1], ends[1][0])
    assert "untrained" in motion.description
    zeros = clip_vision.model(pixel_values=torch.zeros(1, 3, 128, 128), intermediate_output=-2)[1]
    torch.testing.assert_close(motion.uncond, plus.projection.model(zeros.float())[0])


@torch.no_grad()
def test_the_plain_adapter_reads_embeddings(files, clip_vision):
    from storyreel.host.motion.ip_adapter import load_token_encoder

    plain = load_token_encoder("nodes_plain.bin")
    motion = predict(load("none", plain), clip_vision, image(1))
    embeds = clip_vision.encode_image(image(1))["image_embeds"]
    assert motion.token_space == "ip" and torch.equal(motion.tokens[3], plain.projection.model(embeds)[0])
    assert torch.equal(motion.uncond, plain.projection.model(torch.zeros_like(embeds))[0])


@torch.no_grad()
def test_a_trained_predictor_adds_what_it_learnt(plus, clip_vision):
    images = image(1), image(2)
    straight = predict(load("none", plus), clip_vision, *images).tokens
    trained = load("plus.safetensors", plus)
    motion = predict(trained, clip_vision, *images)
    known = torch.zeros(FRAMES, dtype=torch.bool)
    known[[0, -1]] = True
    assert torch.equal(motion.tokens, trained.network.model(straight[None], known)[0])
    assert not torch.equal(motion.tokens[1:-1], straight[1:-1]) and "plus.safetensors" in motion.description
    nothing = predict(trained, clip_vision, *images, strength=0.0)
    assert torch.equal(nothing.tokens, straight) and "strength is 0" in nothing.description
    half = predict(trained, clip_vision, *images, strength=0.5).tokens
    torch.testing.assert_close(half, (motion.tokens + straight) / 2)
    through = predict(trained, clip_vision, image(1), image(3), image(2))
    assert "trained without images between" in through.description


@torch.no_grad()
def test_easing_retimes_the_whole_path(plus, clip_vision):
    """The predictor's part too: every frame is on the path at its own time."""
    trained, images = load("plus.safetensors", plus), (image(1), image(2))
    path = predict(trained, clip_vision, *images).tokens
    eased = predict(trained, clip_vision, *images, easing="ease in", hold_end=2).tokens
    times = trajectory.timing([0, FRAMES - 1], FRAMES, "ease in", hold_end=2)
    torch.testing.assert_close(eased, trajectory.retime(path, times), rtol=0, atol=1e-5)
    assert torch.equal(eased[-3], path[-1])


def test_positions_of_images():
    from storyreel.host.motion.predict import collect_images, parse_keyframe_indices

    assert parse_keyframe_indices(0, "", True, 16) == [0, 15] and parse_keyframe_indices(0, " ", False, 16) == [0]
    assert parse_keyframe_indices(2, "", True, 16) == [0, 5, 10, 15] and parse_keyframe_indices(
        2, "3, 11", True, 16
    ) == [0, 3, 11, 15]
    with pytest.raises(ValueError, match="keyframe_positions names 1 frames, and keyframes holds 2 images"):
        parse_keyframe_indices(2, "3", True, 16)
    with pytest.raises(ValueError, match="keyframe_positions is '3; 4'; frame numbers with commas"):
        parse_keyframe_indices(2, "3; 4", True, 16)
    with pytest.raises(ValueError, match="start_image holds 2 images; 1 is expected"):
        collect_images(image(1, 2), None, None)
    assert [part.shape for part in collect_images(image(1), image(2, 3), image(3))] == [image(1).shape] * 5


# Refusals


def test_a_predictor_of_another_space_is_refused_by_name(plus, crafter):
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

    with pytest.raises(
        ValueError, match=r"crafter.safetensors was trained for dynamicrafter \(16 x 64\).* ip-plus \(3 x"
    ):
        load("crafter.safetensors", plus)
    with pytest.raises(
        ValueError, match=r"plus.safetensors was trained for ip-plus \(3 x 48\), and DynamiCrafter 512_interp makes"
    ):
        load("plus.safetensors", DynamiCrafterTokenEncoder(crafter))
    load("crafter.safetensors", DynamiCrafterTokenEncoder(crafter))


def test_files_that_are_no_predictors_are_refused(files, plus):
    from storyreel.host.motion import predict as motion

    folder = files / motion.FOLDER
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is no motion predictor: it states no storyreel_motion"):
        load("other.safetensors", plus)
    stated = {METADATA: json.dumps(dict(tokens=tiny.TOKENS, token_width=tiny.CONTEXT))}
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors", stated)
    with pytest.raises(ValueError, match="does not hold the weights that its metadata state"):
        load("other.safetensors", plus)
    (folder / "other.safetensors").unlink()


def test_what_a_predictor_was_not_trained_for_is_refused(plus, clip_vision):
    with pytest.raises(ValueError, match="The shot has 21 frames, and the motion predictor knows at most 20"):
        predict(load("plus.safetensors", plus), clip_vision, image(1), image(2), frames=21)
    with pytest.raises(ValueError, match="trained with a start and an end image; connect end_image"):
        predict(load("plus.safetensors", plus), clip_vision, image(1))
    with pytest.raises(ValueError, match="trained with a start image only; disconnect the other images"):
        predict(load("one.safetensors", plus), clip_vision, image(1), image(2))
    predict(load("one.safetensors", plus), clip_vision, image(1))


def test_an_image_encoder_of_another_width_is_refused(files, plus, crafter, clip_vision):
    from storyreel.host.common.clip_vision import from_config
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

    other = from_config({**clip_vision.config, "hidden_size": 32, "projection_dim": 32})
    for weight in other.model.parameters():
        torch.nn.init.zeros_(weight)
    with pytest.raises(ValueError, match="CLIP_VISION gives features of width 32, and nodes_plus.safetensors .* 96"):
        predict(load("none", plus), other, image(1))
    with pytest.raises(ValueError, match="CLIP_VISION gives tokens of width 32, and this DynamiCrafter .* width 96"):
        predict(load("none", DynamiCrafterTokenEncoder(crafter)), other, image(1))


def test_a_motion_of_another_space_is_refused_by_name(host, tiny_checkpoint, crafter):
    from storyreel.host.motion.apply import apply_to_dynamicrafter, apply_to_sd15

    tokens = torch.zeros(FRAMES, 16, 64)
    sd15 = tiny.sd15(tiny.SIZES)
    with pytest.raises(ValueError, match="STORYREEL_MOTION has tokens of DynamiCrafter, which do not fit SD1.5"):
        apply_to_sd15(sd15, Trajectory(tokens, "dynamicrafter"), None, None)
    with pytest.raises(
        ValueError, match="STORYREEL_MOTION has tokens of IP-Adapter-Plus, which do not fit DynamiCrafter"
    ):
        apply_to_dynamicrafter(crafter, Trajectory(tokens, "ip-plus"))
    with pytest.raises(ValueError, match="16 tokens of width 32 per frame, and this DynamiCrafter .* 16 of width 64"):
        apply_to_dynamicrafter(crafter, Trajectory(tokens[..., :32], "dynamicrafter"))
    with pytest.raises(ValueError, match="MODEL is a BaseModel; a DynamiCrafter model is expected"):
        apply_to_dynamicrafter(sd15, Trajectory(tokens, "dynamicrafter"))
    with pytest.raises(ValueError, match="MODEL is DynamiCrafter; motion modules and IP-Adapter expect SD1.5"):
        apply_to_sd15(crafter, Trajectory(tokens, "ip-plus"), None, None)


# DynamiCrafter


def conditions(clip_vision, start: torch.Tensor, frames: int) -> tuple[list, list, list]:
    """(positive, image only, negative) as the conditioning node returns them."""
    from storyreel.host.dynamicrafter import conditioning
    from storyreel.host.dynamicrafter import model as keys

    text = [torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    latents = torch.randn(frames, 4, *SIZE, generator=torch.Generator().manual_seed(9))
    tokens = conditioning.vision_tokens(clip_vision, torch.cat([start, torch.full_like(start, conditioning.GRAY)]))
    extras = [{keys.VISION_TOKENS: row, keys.CONCAT_LATENTS: latents, keys.FS: None} for row in tokens.split(1)]
    return [[text[0], extras[0]]], [[text[1], extras[0]]], [[text[1], extras[1]]]


@torch.no_grad()
def sample(model, conds, frames=FRAMES):
    """The latents from the stock KSampler."""
    import nodes

    empty = {"samples": torch.zeros(frames, 4, *SIZE)}
    return nodes.common_ksampler(model, 1, 2, 5.0, "euler", "normal", conds[0], conds[-1], empty)[0]["samples"]


@torch.no_grad()
def guided(model, conds):
    """With separate guidance for text and image."""
    from storyreel.host.dynamicrafter import sampling

    guider = sampling.TextImageGuider(model)
    guider.set_conds(*conds)
    guider.set_scales(5.0, 2.0, 0.7)
    noise = torch.randn(FRAMES, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    sigmas = sampling.sigmas_of(model, "uniform_trailing", 2)
    return guider.sample(noise, torch.zeros_like(noise), sampling.DDIM(0.0), sigmas, seed=0, disable_pbar=True)


@pytest.fixture
def follow(crafter, clip_vision):
    """follow(start, end, frames) -> the DynamiCrafter model with the motion between two images"""
    from storyreel.host.motion.apply import apply_to_dynamicrafter
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

    def follow(start: torch.Tensor, end: torch.Tensor, frames: int = FRAMES, predictor: str = "none"):
        motion = predict(load(predictor, DynamiCrafterTokenEncoder(crafter)), clip_vision, start, end, frames=frames)
        assert motion.tokens.shape == (frames, 16, 64) and motion.token_space == "dynamicrafter"
        return apply_to_dynamicrafter(crafter, motion)

    return follow


def test_an_untrained_motion_to_the_same_image_is_plain_dynamicrafter_to_the_last_bit(crafter, clip_vision, follow):
    start = image(1)
    conds = conditions(clip_vision, start, FRAMES)
    still = follow(start, start)
    assert torch.equal(sample(still, conds), sample(crafter, conds))
    assert torch.equal(guided(still, conds), guided(crafter, conds))


def test_dynamicrafter_follows(crafter, clip_vision, follow):
    start, end = image(1), image(2)
    conds = conditions(clip_vision, start, FRAMES)
    plain, moved = sample(crafter, conds), sample(follow(start, end), conds)
    assert moved.isfinite().all() and not torch.equal(moved, plain)
    assert not torch.equal(sample(follow(start, end, predictor="crafter.safetensors"), conds), moved)
    assert not torch.equal(guided(follow(start, end), conds), guided(crafter, conds))
    assert torch.equal(sample(crafter, conds), plain)


@torch.no_grad()
def test_each_frame_has_its_own_slot(crafter, clip_vision, follow):
    """K_s and K_e of frame i are the checkpoint's tokens for frame i."""
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

    def slots(seed: int) -> torch.Tensor:
        _, extras = conditions(clip_vision, image(seed), FRAMES)[0][0]
        tokens = next(value for key, value in extras.items() if "vision_tokens" in key)
        return crafter.model.image_tokens(tokens, "cpu")[0].unflatten(0, (FRAMES, 16))

    motion = predict(load("none", DynamiCrafterTokenEncoder(crafter)), clip_vision, image(1), image(2))
    first, last = slots(1), slots(2)
    for i in range(FRAMES):
        torch.testing.assert_close(motion.tokens[i], torch.lerp(first[i], last[i], i / (FRAMES - 1)))


def test_cond_and_uncond_together_or_apart(clip_vision, follow, monkeypatch):
    moved, conds = follow(image(1), image(2)), conditions(clip_vision, image(1), FRAMES)
    monkeypatch.setattr(type(moved), "get_free_memory", lambda self, device: 1 << 40)
    together = sample(moved, conds)
    monkeypatch.setattr(type(moved), "get_free_memory", lambda self, device: 0)
    apart = sample(moved, conds)
    torch.testing.assert_close(apart, together, rtol=0, atol=2e-3 * together.abs().max().item())


def test_long_shots_need_windows_of_the_checkpoints_length(crafter, clip_vision, follow):
    long = follow(image(1), image(2), 24)
    conds = conditions(clip_vision, image(1), 24)
    with pytest.raises(ValueError, match="24 frames are sampled at once, and this DynamiCrafter .* expects 16"):
        sample(long, conds, 24)
    for causal in (True, False):
        assert sample(windows(long, FRAMES, 8, causal), conds, 24).isfinite().all()
    with pytest.raises(ValueError, match="STORYREEL_MOTION has 24 frames, and the LATENT has 16"):
        sample(long, conditions(clip_vision, image(1), FRAMES))


# The nodes


def test_two_branches_of_one_graph(host, files, tiny_checkpoint):
    """One samples the plain model, the other with motion; each result is the same as alone."""
    from storyreel.host.motion import animatediff, ip_adapter

    tiny_checkpoint("sd15")
    one_level = MotionConfig(((320,),), ((320, 320),), 320, 32)
    tiny.write_module(files / animatediff.FOLDER / "one_level.ckpt", one_level)
    tiny.write_adapter(files / ip_adapter.FOLDER / "one_level.safetensors", width=768, layers=(320,) * 4)

    sampler = dict(steps=2, cfg=4.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    sampler |= dict(seed=1, positive=["prompt", 0], negative=["prompt", 0], latent_image=["latent", 0])
    graph = {
        "load": ("CheckpointLoaderSimple", dict(ckpt_name=SD15)),
        "prompt": ("CLIPTextEncode", dict(clip=["load", 1], text="a boy runs")),
        "latent": ("EmptyLatentImage", dict(width=64, height=64, batch_size=4)),
        "world": ("StoryReelLoadStoryworld", dict(precision="auto")),
        "start": ("EmptyImage", dict(width=64, height=64, batch_size=1, color=0xFF0000)),
        "end": ("EmptyImage", dict(width=64, height=64, batch_size=1, color=0x00FF80)),
        "predictor": (
            "StoryReelMotionPredictorLoader",
            {"predictor": "none", "token_space": "IP-Adapter", "token_space.ip_adapter": "one_level.safetensors"},
        ),
        "motion": (
            "StoryReelPredictMotion",
            dict(
                predictor=["predictor", 0],
                clip_vision=["world", 3],
                start_image=["start", 0],
                end_image=["end", 0],
                frames=3,
            )
            | dict(easing="linear", hold_start=0, hold_end=0, strength=1.0),
        ),
        "longer": ("StoryReelSpliceMotions", dict(first=["motion", 0], second=["motion", 0], overlap=2)),
        "plot": ("StoryReelMotionPlot", dict(motion=["longer", 0])),
        "apply": (
            "StoryReelApplyMotion",
            {
                "model": ["load", 0],
                "motion": ["longer", 0],
                "decoder": "IP-Adapter",
                "decoder.motion_module": "one_level.ckpt",
                "decoder.ip_adapter": "one_level.safetensors",
                "decoder.strength": 1.0,
                "decoder.noise_schedule": "AnimateDiff's",
            },
        ),
        "still": ("KSampler", dict(model=["load", 0], **sampler)),
        "moved": ("KSampler", dict(model=["apply", 0], **sampler)),
        "again": ("KSampler", dict(model=["load", 0], **sampler)),
    }
    prompt = {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in graph.items()}
    for name in ("still", "moved", "again"):
        prompt[f"{name} saved"] = {"class_type": "SaveLatent", "inputs": dict(samples=[name, 0], filename_prefix=name)}
    prompt["plot shown"] = {"class_type": "PreviewImage", "inputs": dict(images=["plot", 0])}

    whole = host.run(prompt)
    assert whole.outputs["predictor"]["text"] == ["interpolation, untrained"]
    (plot,) = whole.values["plot"]
    assert plot.shape[0] == 1 and plot.shape[-1] == 3 and plot.std() > 0.01
    still, moved, again = (whole.values[name][0]["samples"] for name in ("still", "moved", "again"))
    assert torch.equal(still, again) and not torch.equal(still, moved) and moved.isfinite().all()
