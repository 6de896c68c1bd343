"""Joint training: the frozen video model's error reaches the predictor, and nothing of it stays in the model."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from harness import motion as tiny
from harness.dynamicrafter import random
from safetensors.torch import load_file, safe_open
from storyreel.core.motion.trajectory import Trajectory
from storyreel.core.networks.semantic_motion import training
from storyreel.core.networks.semantic_motion.config import TRAINING, PredictorConfig
from storyreel.core.networks.semantic_motion.predictor import MotionPredictor
from storyreel.core.networks.semantic_motion.training import TokenClip
from storyreel.core.training import TrainConfig

FRAMES, CLIPS, SIZE, HELD_OUT = 5, 6, 64, 0.3
MODULE, ADAPTER = "joint_v2.ckpt", "joint_plus.safetensors"
CONFIG = PredictorConfig(tokens=tiny.TOKENS, token_width=tiny.CONTEXT, width=64, depth=1, heads=1, frames=FRAMES)
PLAN = TrainConfig(steps=4, batch_size=2, learning_rate=2e-3, ema=0.9, warmup=2)


@pytest.fixture(scope="module")
def clips(host):
    from storyreel.host.motion import animatediff, ip_adapter

    for version in ("v1", "v2"):
        config = tiny.motion_config(version)
        tiny.write_module(host.base / "models" / animatediff.FOLDER / f"joint_{version}.ckpt", config)
    tiny.write_adapter(host.base / "models" / ip_adapter.FOLDER / ADAPTER)
    folder = host.base / "input" / "joint"
    for number in range(CLIPS):
        tiny.write_video(folder / f"{number}.gif", tiny.swing(number, FRAMES + number % 2))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def encoder(clips):
    from storyreel.host.motion.ip_adapter import load_token_encoder

    return load_token_encoder(ADAPTER)


def make_vae(channels: int = 4):
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    return comfy.sd.VAE(sd=random(TAESD(latent_channels=channels)) | {"vae_scale": torch.tensor(1.0)})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(seed: int = 2) -> list:
    return [[noise(1, 7, tiny.CONTEXT, seed=seed), {}]]


@pytest.fixture(scope="module")
def parts(clips):
    """(MODEL, VAE), as the host's loaders make them: in inference mode."""
    with torch.inference_mode():
        return tiny.sd15(tiny.SIZES), make_vae()


@pytest.fixture
def joint(parts):
    """joint(...) -> a joint training, with other settings where they are named"""
    from storyreel.host.motion.job import DecoderConfig, VideoModelConfig

    def joint(model=None, decoder=None, **changed):
        decoding = DecoderConfig(MODULE, ADAPTER)
        config = VideoModelConfig(model or parts[0].clone(), parts[1], text(), decoding, resolution=SIZE, frames=3)
        return replace(config, **changed, decoder=replace(config.decoder, **decoder or {}))

    return joint


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("joint")


@pytest.fixture
def learn(encoder, clip_vision, clips, work, tmp_path):
    """learn(...) -> the trained predictor, called as a node is; tokens and latents are computed once for all tests."""
    from storyreel.host.motion.job import DataConfig, TokenSpec, TrainingJob
    from storyreel.host.motion.training import run

    def learn(name: str, joint=None, plan=PLAN, report=lambda *_: None):
        job = TrainingJob(CONFIG, plan, DataConfig(frames=FRAMES, validation_split=HELD_OUT), video_model=joint)
        with torch.inference_mode():
            return run(job, TokenSpec(encoder, clip_vision), clips, tmp_path / f"{name}.safetensors", work, report)

    return learn


def sample(model) -> torch.Tensor:
    import nodes

    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    with torch.inference_mode():
        return nodes.common_ksampler(model, 1, 1, 1.0, "euler", "normal", text(), text(3), latent)[0]["samples"]


def metadata_of(trained) -> dict:
    with safe_open(trained.path, "pt") as file:
        return json.loads(file.metadata()[TRAINING])


def same(one, other) -> bool:
    one, other = load_file(one.path), load_file(other.path)
    return all(torch.equal(one[key], other[key]) for key in one)


# Without it


def test_weight_0_is_a_training_in_token_space(learn, joint, encoder, clip_vision, clips, work):
    """To the last bit, with the same key."""
    from storyreel.host.motion.clips import digest, token_paths
    from storyreel.host.motion.job import DataConfig, TokenSpec

    alone, joined = learn("alone"), learn("weight_0", joint(loss_weight=0.0))
    assert same(alone, joined) and joined.log == alone.log and metadata_of(joined) == metadata_of(alone)
    tokens = TokenSpec(encoder, clip_vision)
    paths = token_paths(tokens, clips, 1, work / "tokens")
    data = asdict(DataConfig(frames=FRAMES, validation_split=HELD_OUT))
    settings = {"train": asdict(PLAN), "data": data, "cosine_loss_weight": 1.0}
    key = digest([settings, asdict(CONFIG), [path.name for path in paths]])
    assert metadata_of(alone)["run"] == key and "video_model" not in metadata_of(alone)


# The gradient

TOKENS = noise(FRAMES, tiny.TOKENS, tiny.CONTEXT, seed=3)
WAYS = {
    "v1 and IP-Adapter": dict(module="joint_v1.ckpt"),
    "v2 and text": dict(adapter=None),
    "IP-Adapter alone": dict(module=None),
}


@pytest.fixture
def error_of(tmp_path):
    """error_of(joint, tokens) -> (error of one window under one noise, its gradient), called as a node is"""
    from storyreel.host.motion.clips import write
    from storyreel.host.motion.decoder_training import FrozenVideo

    clip, latents = TokenClip(tmp_path / "tokens", FRAMES), tmp_path / "latents"
    write(latents, {"latents": noise(FRAMES, 4, 8, 8, seed=5)}, {})

    def error_of(joint, tokens: torch.Tensor) -> tuple[float, torch.Tensor]:
        @torch.inference_mode(False)
        @torch.enable_grad()
        def work(error):
            given = tokens.clone().requires_grad_()
            value = error(given, clip, 0, torch.Generator().manual_seed(1))
            value.backward()
            return value.item(), given.grad

        with torch.inference_mode():
            return FrozenVideo(joint, CONFIG).run({clip.path: latents}, 0, work)

    return error_of


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_gradient_is_that_of_the_error(error_of, joint, way):
    """Where the error is steep; consecutive frames of the window have a gradient, the others none."""
    config, step = joint(decoder=way, loss_weight=2.0), 0.05
    _, gradient = error_of(config, TOKENS)
    direction = gradient / gradient.norm()
    after, before = (error_of(config, TOKENS + sign * step * direction)[0] for sign in (1, -1))
    assert (after - before) / (2 * step) == pytest.approx(gradient.norm().item(), rel=0.02)
    frames = gradient.flatten(1).any(1).nonzero().flatten().tolist()
    assert frames == list(range(frames[0], frames[0] + config.frames))


def test_it_does_not_depend_on_how_the_model_runs(error_of, joint, parts, monkeypatch):
    """With another pack's attention, which has no gradient; with streamed weights; in half precision."""

    def without(attend, *args, **kwargs):
        return attend(*args, **kwargs).detach()

    value, whole = error_of(joint(), TOKENS)
    other = parts[0].clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = without
    assert torch.equal(error_of(joint(other), TOKENS)[1], whole)

    half = parts[0].clone()
    half.set_model_compute_dtype(torch.float16)
    about, coarse = error_of(joint(half), TOKENS)
    assert about == pytest.approx(value, rel=0.02)
    assert coarse.norm().item() == pytest.approx(whole.norm().item(), rel=0.05)
    assert torch.cosine_similarity(coarse.flatten(), whole.flatten(), dim=0) > 0.99

    kind = type(parts[0])
    load = kind.partially_load
    monkeypatch.setattr(kind, "partially_load", lambda self, device, *_, **more: load(self, device, 1 << 16, **more))
    streamed = tiny.sd15(tiny.SIZES)
    assert torch.equal(error_of(joint(streamed), TOKENS)[1], whole)
    assert streamed.model.model_lowvram


# What is learnt


def test_the_predictor_reduces_the_video_models_error(learn, joint, parts, encoder, clip_vision, clips, work):
    """On training clips its error falls below where a training without it leaves it; the model is unchanged."""
    from storyreel.host.motion.clips import latent_paths, make_tokens, token_paths
    from storyreel.host.motion.decoder_training import FrozenVideo
    from storyreel.host.motion.job import TokenSpec

    model, vae = parts
    plain = sample(model)
    before, modules = {key: t.clone() for key, t in model.model.state_dict().items()}, list(model.model.modules())
    plan, config = replace(PLAN, steps=40, learning_rate=5e-3), joint(loss_weight=30.0)
    trained = [learn("alone", plan=plan), learn("together", config, plan)]

    assert torch.equal(sample(model), plain)
    after = model.model.state_dict()
    assert all(torch.equal(after[key], t) for key, t in before.items()) and list(model.model.modules()) == modules
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.model.parameters())
    assert not any(getattr(module, "weight_function", None) for module in modules)

    metadata = metadata_of(trained[1])["video_model"]
    assert (metadata["loss_weight"], metadata["resolution"], metadata["frames"]) == (30, SIZE, 3)
    assert (metadata["model"], metadata["adapter"], metadata["module"]) == ("SD15", ADAPTER, MODULE)
    assert metadata_of(trained[1])["run"] != metadata_of(trained[0])["run"]

    tokens = TokenSpec(encoder, clip_vision)
    paths = token_paths(tokens, clips, 1, work / "tokens")
    latents = dict(zip(paths, latent_paths(vae, SIZE, clips, 1, work / "latents"), strict=True))
    kept, _ = training.split_clips(make_tokens(tokens, clips, 1, paths, lambda *_: None), HELD_OUT, plan.seed)

    def mean_error(error) -> list[float]:
        means = []
        for file in trained:
            network, errors = MotionPredictor(CONFIG), []
            network.load_state_dict({key: t.float() for key, t in load_file(file.path).items()})
            for number in range(24):
                clip = kept[number % len(kept)]
                window = training.make_batch([clip.read(0, FRAMES)], [0, FRAMES - 1])
                predicted = network(window.interpolated, window.is_keyframe)[0]
                errors.append(error(predicted, clip, 0, torch.Generator().manual_seed(number)).item())
            means.append(sum(errors) / len(errors) / config.loss_weight)
        return means

    alone, together = FrozenVideo(config, CONFIG).run(latents, 0, mean_error)
    assert together < 0.98 * alone, (alone, together)


def test_an_interrupted_training_resumes_with_the_same_result(learn, joint, work):
    whole, latents = learn("whole", joint()), sorted((work / "latents").iterdir())
    latents[2].unlink()
    for stop in (("latents of clip", 4), ("step", 0), ("step", 2)):

        def report(kind, done, total, stop=stop):
            if (kind, done) == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            learn("broken", joint(), report=report)
    reported = []
    again = learn("broken", joint(), report=lambda *progress: reported.append(progress[:2]))
    assert [done for kind, done in reported if kind == "step"] == [2, 3, 4]
    assert same(whole, again) and again.log == whole.log and metadata_of(again) == metadata_of(whole)
    assert sorted((work / "latents").iterdir()) == latents
    with pytest.raises(ValueError, match="whole.safetensors exists and is of another training"):
        learn("whole", joint(loss_weight=2.0))


def test_the_metadata_identifies_the_video_model(joint, parts):
    """By weights, patches, text and decoder, whatever is loaded: no run of another model is resumed."""
    from storyreel.host.motion.apply import apply_to_sd15
    from storyreel.host.motion.decoder_training import FrozenVideo

    def metadata(*named, **changed) -> str:
        return json.dumps(FrozenVideo(joint(*named, **changed), CONFIG).metadata)

    first = metadata()
    assert metadata(tiny.sd15(tiny.SIZES)) == first
    sample(apply_to_sd15(parts[0], Trajectory(TOKENS, "ip-plus"), MODULE, ADAPTER))
    assert metadata() == first
    patched = parts[0].clone()
    key = "diffusion_model.out.2.weight"
    patched.add_patches({key: (torch.ones_like(patched.model.state_dict()[key]),)}, 0.1)
    stronger = parts[0].clone()
    stronger.add_patches({key: (torch.ones_like(patched.model.state_dict()[key]),)}, 0.2)
    others = [
        metadata(patched),
        metadata(stronger),
        metadata(positive=text(7)),
        metadata(loss_weight=2.0),
        metadata(frames=2),
        metadata(resolution=128),
    ]
    ways = (dict(module="joint_v1.ckpt"), dict(own_schedule=False), dict(strength=0.5), dict(adapter=None))
    others += [metadata(decoder=way) for way in ways]
    sample(patched)
    assert metadata(patched) == others[0] and len({first, *others}) == 1 + len(others)


# Refusals


def test_unusable_video_models_are_refused_by_name(joint, host):
    from storyreel.host.motion import ip_adapter
    from storyreel.host.motion.decoder_training import FrozenVideo

    tiny.write_adapter(host.base / "models" / ip_adapter.FOLDER / "joint_wide.safetensors", width=64)
    refused = {
        "the MODEL is SDXL; motion modules and IP-Adapter expect SD1.5": joint(tiny.sd15(tiny.SIZES, family="SDXL")),
        "vae is empty: the checkpoint has none. Use Load VAE": joint(vae=None),
        "the VAE makes latents of 16 channels, and the MODEL expects 4": joint(vae=make_vae(16)),
        "strength is 0, so the video model ignores the tokens": joint(decoder=dict(strength=0.0)),
        "expects tokens of width 64, and the motion's have 48": joint(decoder=dict(adapter="joint_wide.safetensors")),
    }
    for sentence, config in refused.items():
        with pytest.raises(ValueError, match=sentence):
            FrozenVideo(config, CONFIG)
    known = tiny.motion_config("v1").frames
    long, config = (
        replace(CONFIG, frames=known + 1),
        replace(joint(decoder=dict(module="joint_v1.ckpt")), frames=known + 1),
    )
    with pytest.raises(ValueError, match=f"{known + 1} frames go through .* supports {known}; set the video"):
        FrozenVideo(config, long)
    FrozenVideo(config, CONFIG)  # whose windows are shorter
    with pytest.raises(ValueError, match="has tokens of width 64, and this MODEL expects width 48"):
        FrozenVideo(joint(decoder=dict(adapter=None)), replace(CONFIG, token_width=64))
    with pytest.raises(ValueError, match="the predictor is for DynamiCrafter, and video_model supports SD1.5 only"):
        FrozenVideo(joint(), replace(CONFIG, token_space="dynamicrafter"))


# The node


class JointParts:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "VAE", "CONDITIONING"), "make", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return tiny.sd15(tiny.SIZES), make_vae(), text()


def test_the_node(host, clips):
    """In the host's inference mode, with models that its nodes loaded in it."""
    settings = dict(clips="joint", name="by_both", frames=FRAMES, stride=1, conditioning_mode="start and end", steps=2)
    settings["batch_size"] = 2
    settings |= dict(learning_rate=1e-3, seed=0, validation_split=HELD_OUT, width=64, depth=1, cosine_loss_weight=1.0)
    video = dict(motion_module=MODULE, noise_schedule="AnimateDiff's", ip_adapter=ADAPTER, strength=1.0)
    video |= dict(loss_weight=1.0, resolution=SIZE, frames=2)
    video |= {name: ["parts", slot] for slot, name in enumerate(("model", "vae", "positive"))}
    settings |= {f"video_model.{name}": value for name, value in video.items()}
    loader = {"predictor": "none", "token_space": "IP-Adapter", "token_space.ip_adapter": ADAPTER}
    links = dict(predictor=["load", 0], clip_vision=["world", 3], video_model="IP-Adapter")
    nodes = {
        "world": ("StoryReelLoadStoryworld", dict(precision="auto")),
        "load": ("StoryReelMotionPredictorLoader", loader),
        "parts": ("JointParts", {}),
        "train": ("StoryReelTrainMotionPredictor", settings | links),
    }
    with host.node(JointParts):
        done = host.run({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()})
    bars = [data["value"] for kind, data in done.events if kind == "progress" and data["max"] == CLIPS]
    assert bars.count(CLIPS) == 2  # of tokens, and of latents
    with safe_open(host.base / "models" / "semantic_motion" / "by_both.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()[TRAINING])
    video_model = metadata["video_model"]
    assert video_model["frames"] == 2 and video_model["model"] == "SD15" and metadata["figures"]["clips"] == 2
    assert done.values["train"][0].description.startswith("predicted by by_both.safetensors")
