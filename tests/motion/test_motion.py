"""SD1.5 that follows a motion, in the host: motion modules and image tokens, with the other patches of a model."""

import logging

import pytest
import torch
from harness import motion as tiny
from harness.windows import listed_windows, windows
from storyreel.core.motion.trajectory import Trajectory

FRAMES, SIZE = 6, (8, 8)
MODULE, ADAPTER = "tiny_v2.ckpt", "tiny_plus.safetensors"


@pytest.fixture(scope="module")
def files(host):
    """Tiny files in new model folders of the host."""
    from storyreel.host.common.folders import file_names
    from storyreel.host.motion import animatediff, ip_adapter

    models = host.base / "models"
    for version in ("v1", "v2", "v3"):
        tiny.write_module(models / animatediff.FOLDER / f"tiny_{version}.ckpt", tiny.motion_config(version))
    tiny.write_adapter(models / ip_adapter.FOLDER / ADAPTER)
    tiny.write_adapter(models / ip_adapter.FOLDER / "tiny_plus.bin")
    tiny.write_adapter(models / ip_adapter.FOLDER / "tiny_plain.bin", plus=False)
    assert {MODULE, "tiny_v1.ckpt"} <= set(file_names(animatediff.FOLDER))
    assert {ADAPTER, "tiny_plus.bin"} <= set(file_names(ip_adapter.FOLDER))
    return models


@pytest.fixture(scope="module")
def base_model(files):
    return tiny.sd15(tiny.SIZES)


@pytest.fixture
def model(base_model):
    return base_model.clone()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def following(frames: int = FRAMES, seed: int = 1, nothing: bool = True) -> Trajectory:
    tokens = noise(frames, tiny.TOKENS, tiny.CONTEXT, seed=seed)
    return Trajectory(tokens, "ip-plus", noise(tiny.TOKENS, tiny.CONTEXT, seed=99) if nothing else tokens[0])


def apply(model, motion=None, module=MODULE, adapter=ADAPTER, strength=1.0, own_schedule=True):
    from storyreel.host.motion.apply import apply_to_sd15

    return apply_to_sd15(model, motion or following(), module, adapter, strength, own_schedule)


def prompt(seed: int, frames: int = 1) -> list:
    return [[noise(frames, 7, tiny.CONTEXT, seed=seed), {}]]


@torch.no_grad()
def sample(model, frames=FRAMES, *, cfg=5.0, seed=1, negative=3, sampler="euler", start=None):
    """The latents from the stock KSampler."""
    import nodes

    latent = {"samples": torch.zeros(frames, 4, *SIZE) if start is None else start}
    denoise = 1.0 if start is None else 0.6
    conds = prompt(2), prompt(negative)
    done = nodes.common_ksampler(model, seed, 2, cfg, sampler, "normal", *conds, latent, denoise=denoise)
    return done[0]["samples"]


def near(output, reference):
    torch.testing.assert_close(output, reference, rtol=0, atol=2e-5 * reference.abs().max().item())


WAYS = {
    "v1 and IP-Adapter": dict(module="tiny_v1.ckpt"),
    "v2 and IP-Adapter": dict(),
    "v3 and text": dict(module="tiny_v3.ckpt", adapter=None),
    "IP-Adapter alone": dict(module=None),
    "text alone": dict(module=None, adapter=None),
}
TWO_WAYS = pytest.mark.parametrize("way", [WAYS["v1 and IP-Adapter"], WAYS["v3 and text"]], ids=["v1", "v3"])
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# Without a trace


@EVERY_WAY
def test_the_model_is_the_same_after_a_run(model, way):
    unet = model.model.diffusion_model
    before, keys = list(unet.named_modules()), list(unet.state_dict())
    plain = sample(model)
    moved = sample(apply(model, **way))
    assert list(unet.named_modules()) == before and list(unet.state_dict()) == keys
    assert moved.isfinite().all() and not torch.equal(moved, plain)
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(apply(model, **way)), moved)


@pytest.mark.parametrize("module", ["tiny_v1.ckpt", MODULE])
def test_a_run_that_ends_early_leaves_no_trace(model, module):
    unet = model.model.diffusion_model
    before, plain = list(unet.named_modules()), sample(model)
    stopped = apply(model, module=module)

    def stop(out, options):
        if options["block"] == ("output", 1):
            raise InterruptedError("stopped amid the network")
        return out

    stopped.set_model_attn1_output_patch(stop)
    with pytest.raises(InterruptedError):
        sample(stopped)
    assert list(unet.named_modules()) == before and torch.equal(sample(model), plain)


def test_modules_are_loaded_and_unloaded_with_the_model(model):
    """They are models of the host, which counts and frees their memory."""
    import comfy.model_management as management
    from storyreel.host.motion.apply import LAYERS, MODULES

    moved = apply(model)
    sample(moved)
    patchers = [*moved.get_additional_models_with_key(MODULES), *moved.get_additional_models_with_key(LAYERS)]
    loaded = {patcher.model for patcher in management.loaded_models()}
    assert len(patchers) == 2 and {patcher.model for patcher in patchers} <= loaded
    management.unload_all_models()
    assert management.loaded_models() == []
    assert torch.equal(sample(moved), sample(apply(model)))


def test_partial_offload_gives_the_same(model):
    """The host's low-memory path, for the modules as well: weights stay in memory and are loaded layer by layer."""
    import comfy.model_management
    from storyreel.host.motion.apply import MODULES

    moved = apply(model)
    whole = sample(moved)
    comfy.model_management.unload_all_models()
    (modules,) = moved.get_additional_models_with_key(MODULES)
    for patcher in (moved, modules):
        load = patcher.partially_load
        patcher.partially_load = lambda device, extra_memory=0, load=load, **kwargs: load(device, 1 << 16, **kwargs)
    assert torch.equal(sample(moved), whole)
    assert modules.model.model_lowvram and modules.loaded_size() < modules.model_size()


@TWO_WAYS
def test_half_precision(model, way):
    """The UNet in 16 bit, the modules as their files are: 32 bit."""
    whole = sample(apply(model, **way), cfg=1.0)
    half = sample(apply(tiny.sd15(tiny.SIZES, dtype=torch.bfloat16), **way), cfg=1.0)
    assert (half - whole).abs().mean() / whole.abs().mean() < 0.05


# What the frames see


def test_frames_depend_on_each_other_through_the_modules_alone(model):
    motion = following()
    moved = Trajectory(motion.tokens.clone(), motion.token_space, motion.uncond)
    moved.tokens[-1] += 1
    changed = [
        (sample(apply(model, moved, module)) != sample(apply(model, motion, module))).flatten(1).any(1).tolist()
        for module in (None, MODULE)
    ]
    assert changed == [[False] * (FRAMES - 1) + [True], [True] * FRAMES]


@pytest.mark.parametrize("adapter", [ADAPTER, None])
def test_the_negative_reads_no_image(model, adapter):
    """With the same text in both prompts guidance has an effect if, and only if, the tokens differ."""
    ways = dict(module=None, adapter=adapter)
    still = Trajectory(following().tokens[:1].expand(FRAMES, -1, -1), "ip-plus", following().tokens[0])
    alike = apply(model, still, **ways)
    near(sample(alike, cfg=9.0, negative=2), sample(alike, cfg=1.0, negative=2))
    other = apply(model, Trajectory(still.tokens, "ip-plus", following().uncond), **ways)
    assert not torch.allclose(sample(other, cfg=9.0, negative=2), sample(other, cfg=1.0, negative=2), atol=1e-2)


@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize("adapter", [ADAPTER, None])
def test_an_area_for_one_prompt_leaves_the_image_tokens_unchanged(model, adapter, side):
    """The host then adds a copy with the same name to the conds of the other prompt."""
    import nodes

    moved, latent = apply(model, module=None, adapter=adapter), {"samples": torch.zeros(FRAMES, 4, *SIZE)}
    conds = {"positive": prompt(2), "negative": prompt(3)}
    conds[side] = [[text, {"area": (*SIZE, 0, 0), "strength": 1.0}] for text, _ in conds[side]]
    with torch.no_grad():
        (latents,) = nodes.common_ksampler(moved, 1, 2, 5.0, "euler", "normal", *conds.values(), latent)
    near(latents["samples"], sample(moved))


@EVERY_WAY
def test_cond_and_uncond_together_or_apart(model, way, monkeypatch):
    moved = apply(model, **way)
    together = sample(moved)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    near(sample(moved), together)


def test_strength(model):
    plain = sample(model)
    assert torch.equal(sample(apply(model, module=None, strength=0.0)), plain)
    results = [sample(apply(model, module=None, strength=strength)) for strength in (0.5, 1.0)]
    assert not torch.equal(results[0], plain) and not torch.equal(*results)


def test_a_pickle_is_the_same_file(model):
    assert torch.equal(sample(apply(model, adapter="tiny_plus.bin")), sample(apply(model)))


# Context windows


@pytest.mark.parametrize("causal", [True, False])
@TWO_WAYS
def test_a_window_over_the_whole_clip_is_bit_equal_to_none(model, way, causal):
    moved = apply(model, **way)
    assert torch.equal(sample(windows(moved, FRAMES, 2, causal)), sample(moved))


@pytest.mark.parametrize("causal", [True, False])
@TWO_WAYS
def test_a_window_equals_its_frames_sampled_alone(model, way, causal):
    """Without overlap: its frames take the first positions, and their own tokens."""
    import comfy.sample

    motion, start = following(2 * FRAMES), noise(2 * FRAMES, 4, *SIZE, seed=5)
    drawn = comfy.sample.prepare_noise(start, 1)
    whole = run(windows(apply(model, motion, **way), FRAMES, 0, causal), drawn, start)
    for frames in (slice(0, FRAMES), slice(FRAMES, 2 * FRAMES)):
        part = Trajectory(motion.tokens[frames], motion.token_space, motion.uncond)
        near(whole[frames], run(apply(model, part, **way), drawn[frames], start[frames]))


@torch.no_grad()
def run(model, drawn: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    import comfy.sample

    conds = prompt(2), prompt(3)
    return comfy.sample.sample(model, drawn.clone(), 2, 5.0, "euler", "normal", *conds, start.clone(), seed=1)


@TWO_WAYS
def test_windows_of_animatediff_evolved_equal_the_hosts(model, way):
    import comfy.sample

    motion, start = following(2 * FRAMES), noise(2 * FRAMES, 4, *SIZE, seed=5)
    drawn = comfy.sample.prepare_noise(start, 1)
    moved = apply(model, motion, **way)
    near(run(listed_windows(moved, FRAMES), drawn, start), run(windows(moved, FRAMES, 0, False), drawn, start))


def test_a_pack_that_adds_to_our_attention_is_told_the_order(model):
    """IP-Adapter packs call `add` on what stands where they put theirs."""
    moved = apply(model)
    standing = next(iter(moved.model_options["transformer_options"]["patches_replace"]["attn2"].values()))
    with pytest.raises(ValueError, match="Place Apply Motion behind it"):
        standing.add(lambda *_: None, number=0)


def test_more_frames_than_positions_need_windows(model):
    motion = following(25)
    with pytest.raises(ValueError, match="clip has 25 frames, and the motion module supports at most 24"):
        sample(apply(model, motion, "tiny_v1.ckpt"), 25)
    assert sample(windows(apply(model, motion, "tiny_v1.ckpt"), 16, 4, True), 25).isfinite().all()
    assert sample(apply(model, motion, "tiny_v3.ckpt"), 25).isfinite().all()


# With other patches


def test_a_second_motion_replaces_the_first(model):
    one, two = following(seed=1), following(seed=2)
    alone = sample(apply(model, two))
    for first in (WAYS["v1 and IP-Adapter"], WAYS["v3 and text"], WAYS["IP-Adapter alone"]):
        assert torch.equal(sample(apply(apply(model, one, **first), two)), alone)
    last = apply(apply(model, one), two, None, ADAPTER, 0.0)
    assert torch.equal(sample(last), sample(model))


def test_a_clone_goes_its_own_way(model):
    first = apply(model)
    result = sample(first)
    other = apply(first, following(seed=2))
    assert not torch.equal(sample(other), result) and torch.equal(sample(first), result)


def test_an_earlier_patch_of_a_layer_is_called(model):
    from comfy.ldm.modules.attention import optimized_attention

    blocks = []

    def before(q, k, v, options):
        blocks.append(options["block"])
        return 0.5 * optimized_attention(q, k, v, options["n_heads"])

    patched = model.clone()
    patched.set_model_attn2_replace(before, "output", 1)
    patched.set_model_attn2_replace(before, "input", 1, 0)
    alone = sample(patched)
    assert torch.equal(sample(apply(patched, module=None, strength=0.0)), alone)
    blocks.clear()
    both = sample(apply(patched, module=None))
    assert set(blocks) == {("output", 1), ("input", 1)}
    assert not torch.equal(both, sample(apply(model, module=None))) and not torch.equal(both, alone)


def test_what_replaces_it_later_is_named(model, caplog):
    from comfy.ldm.modules.attention import optimized_attention

    def another_packs(q, k, v, options):
        return optimized_attention(q, k, v, options["n_heads"])

    patched = apply(model)
    sample(patched)
    assert "replaces it" not in caplog.text
    patched.set_model_attn2_replace(another_packs, "output", 1)
    with caplog.at_level(logging.WARNING):
        sample(patched)
    assert "another_packs was applied after this node and replaces it at output 1" in caplog.text


def test_a_lora_on_the_unet(model):
    """It changes the weights that it names, also those that modules move during a run, none after its removal."""
    import comfy.sd

    moved = apply(model)
    without = sample(moved)
    # A motion module follows this upsampling layer while the network runs.
    key = "diffusion_model.output_blocks.1.2.conv"
    weight = dict(model.model.named_parameters())[f"{key}.weight"]
    down, up = noise(2, weight[0].numel(), seed=7), noise(weight.shape[0], 2, seed=8)
    lora = {"lora_down.weight": down.view(2, *weight.shape[1:]), "lora_up.weight": up[..., None, None]}
    lora = {f"lora_unet_{key.removeprefix('diffusion_model.').replace('.', '_')}.{name}": t for name, t in lora.items()}
    lora[f"{next(iter(lora)).split('.')[0]}.alpha"] = torch.tensor(2.0)
    patched, _ = comfy.sd.load_lora_for_models(moved, None, lora, 0.1, 0)
    with_lora = sample(patched)
    assert not torch.equal(with_lora, without)
    assert torch.equal(sample(moved), without)
    near(sample(apply(comfy.sd.load_lora_for_models(model, None, lora, 0.1, 0)[0])), with_lora)


def test_with_consistent_attention(host, model):
    """Its frames are the batch as well."""
    from harness import probe

    moved = apply(model)
    both = sample(probe.node(host, moved, preset="low-vram"))
    assert both.isfinite().all() and not torch.equal(both, sample(moved))


# The noise schedule


def test_the_schedule_of_the_modules(model):
    def largest(model) -> float:
        return model.get_model_object("model_sampling").sigma_max.item()

    stock = largest(model)
    assert stock == pytest.approx(14.615, abs=1e-3)
    assert largest(apply(model)) == pytest.approx(25.146, abs=1e-3)
    for same in (apply(model, own_schedule=False), apply(model, module=None), apply(apply(model), module=None)):
        assert largest(same) == stock
    assert type(apply(model).get_model_object("model_sampling")) is type(model.get_model_object("model_sampling"))


def test_a_sampling_node_before_or_after(host, model):
    """Its prediction type stays, and after ours its schedule too; removal restores its settings."""
    change = host.nodes["ModelSamplingDiscrete"]().patch
    velocity = change(model, "v_prediction", True)[0]
    before = velocity.get_model_object("model_sampling")
    ours = apply(velocity).get_model_object("model_sampling")
    assert type(ours) is type(before) and ours.zsnr and not torch.equal(ours.sigmas, before.sigmas)
    assert apply(apply(velocity), own_schedule=False).get_model_object("model_sampling") is before
    behind = change(apply(model), "eps", False)[0]
    assert torch.equal(
        behind.get_model_object("model_sampling").sigmas, model.get_model_object("model_sampling").sigmas
    )
    kept = apply(behind, own_schedule=False)
    assert kept.get_model_object("model_sampling") is behind.get_model_object("model_sampling")


# Refusals


def test_files_of_another_kind_are_named(files, model):
    import dataclasses

    from storyreel.host.motion import animatediff

    folder = files / animatediff.FOLDER
    config = tiny.motion_config()
    whole = torch.load(tiny.write_module(folder / "whole.ckpt"))["state_dict"]
    first = next(iter(whole))
    kinds = {
        "sd15.ckpt": ({"model.diffusion_model.out.2.weight": torch.zeros(1)}, "is a checkpoint of another model"),
        "lora.ckpt": ({"a.lora_up.weight": torch.zeros(1)}, "is a LoRA"),
        "more.ckpt": (whole | {f"{first}_more": torch.zeros(1)}, "also holds .*_more, which none has"),
        "torn.ckpt": ({key: t for key, t in whole.items() if key != first}, f"is not whole: it lacks {first}"),
        "lcm.ckpt": (
            {key: t for key, t in whole.items() if not key.endswith(".pe")},
            "holds no position table, like the files of AnimateLCM",
        ),
        "motion_lora.ckpt": (
            {f"{first}.processor.to_q_lora.down.weight": torch.zeros(1)},
            "is a MotionLoRA, which patches",
        ),
        "hotshot.ckpt": (
            {key.replace("encoder.pe", "encoder.positional_encoding"): t for key, t in whole.items()},
            "is a motion module of Hotshot-XL",
        ),
    }
    for name, (weights, _) in kinds.items():
        torch.save(weights, folder / name)
    xl = dataclasses.replace(config, down=((320,),) * 3, up=((320, 320),) * 3, middle=320)
    tiny.write_module(folder / "xl.ckpt", xl)
    kinds["xl.ckpt"] = None, "is a motion module for SDXL"
    for name, (_, sentence) in kinds.items():
        with pytest.raises(ValueError, match=f"{name} {sentence}.*motion module of AnimateDiff for SD1.5"):
            apply(model, module=name)
    wide = dataclasses.replace(config, up=((64, 64), (32, 64)))
    tiny.write_module(folder / "wide.ckpt", wide)
    with pytest.raises(ValueError, match="wide.ckpt has modules of widths .*, and the MODEL has blocks of widths"):
        apply(model, module="wide.ckpt")
    for path in folder.iterdir():
        if not path.name.startswith("tiny_"):
            path.unlink()


def test_adapters_of_another_kind_are_named(files, model):
    from storyreel.host.motion import ip_adapter

    folder = files / ip_adapter.FOLDER
    tiny.write_adapter(folder / "short.safetensors", layers=tiny.LAYERS[:-1])
    with pytest.raises(ValueError, match="short.safetensors has 6 layers that do not match the 7 layers of this MODEL"):
        apply(model, adapter="short.safetensors")
    tiny.write_adapter(folder / "wide.safetensors", width=64)
    with pytest.raises(ValueError, match="wide.safetensors expects tokens of width 64, and the motion's have 48"):
        apply(model, adapter="wide.safetensors")
    with pytest.raises(ValueError, match="tiny_plain.bin is IP-Adapter, and the STORYREEL_MOTION has tokens of IP-Ada"):
        apply(model, adapter="tiny_plain.bin")
    torch.save({"state_dict": {"model.diffusion_model.out.2.weight": torch.zeros(1)}}, folder / "sd15.ckpt")
    with pytest.raises(ValueError, match="sd15.ckpt is a checkpoint of another model; ip-adapter-plus_sd15"):
        apply(model, adapter="sd15.ckpt")
    for path in folder.iterdir():
        if not path.name.startswith("tiny_"):
            path.unlink()


@pytest.mark.parametrize("family", ["SDXL", "SD20"])
def test_models_of_another_kind_are_named(files, family):
    with pytest.raises(ValueError, match=f"the MODEL is {family}; motion modules and IP-Adapter expect SD1.5"):
        apply(tiny.sd15(tiny.SIZES, family=family))


def test_different_lengths_are_refused(model):
    with pytest.raises(ValueError, match="STORYREEL_MOTION has 6 frames, and the LATENT has 5"):
        sample(apply(model), 5)
    wide = Trajectory(noise(FRAMES, 3, 64), "ip-plus")
    with pytest.raises(ValueError, match="has tokens of width 64, and this MODEL expects width 48"):
        apply(model, wide, adapter=None)
