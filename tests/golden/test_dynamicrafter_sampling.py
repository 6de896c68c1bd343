"""DynamiCrafter's schedules, guidance and single sampling steps against the published ones."""

import re

import pytest
import torch
from harness.golden import Golden, error, files
from storyreel.core.diffusion import ddim, guidance, prediction, schedule
from storyreel.core.networks.blocks import timestep_embedding

SYSTEM = "dynamicrafter"
TOLERANCE = 1e-5  # of a single step and of the rescale; 1e-6 of schedules: the data's README


@pytest.mark.parametrize("path", files(SYSTEM, "schedules.safetensors"))
def test_schedules(path):
    golden = Golden(path)
    config = golden.config
    table = golden["v_zsnr.scale_arr"]
    scale = schedule.scale_table(config["base_scale"], len(table), config["turning_step"])
    assert error(scale.float(), table) <= 1e-6
    for kind, zero_snr in (("eps", False), ("v_zsnr", True)):
        bars = schedule.alpha_bars(zero_snr, config["linear_start"], config["linear_end"], config["timesteps"])
        assert error(bars.float(), golden[f"{kind}.alphas_cumprod"]) <= 1e-6
        assert bars[-1] == 0 or not zero_snr
        tables = set()
        for name in golden.tensors:
            if match := re.fullmatch(rf"{kind}\.(\w+)\.(\d+)\.ddim_timesteps", name):
                tables.add((match[1], int(match[2])))
                times = schedule.timesteps(match[1], int(match[2]), config["timesteps"])[::-1]
                assert times == golden[name].tolist()
                stem = name.removesuffix("timesteps")
                torch.testing.assert_close(bars[times], golden[f"{stem}alphas"], rtol=1e-6, atol=1e-7)
                if zero_snr:
                    assert error(scale[times].float(), golden[f"{stem}scale_arr"]) <= 1e-6
        spacings = {spacing for spacing, _ in tables}
        assert spacings and tables == {(spacing, steps) for spacing in spacings for steps in config["steps"]}


@pytest.mark.parametrize("path", files(SYSTEM, "schedules.safetensors"))
def test_embeddings_of_timesteps(path):
    golden = Golden(path)
    times = golden["timestep_embedding.t"]
    for (width,), embedded in golden.named(r"timestep_embedding\.(\d+)").items():
        assert error(timestep_embedding(times, width), embedded) <= 1e-6


@pytest.mark.parametrize("path", files(SYSTEM, "rescale_noise_cfg.safetensors"))
def test_guidance_is_rescaled_over_the_whole_clip(path):
    golden = Golden(path)
    outputs = [name for name in golden.tensors if name.startswith("out_")]
    assert outputs
    for name in outputs:
        share = float(name.removeprefix("out_"))
        output = guidance.rescale_guidance(golden["noise_cfg"], golden["noise_pred_text"], share)
        assert error(output, golden[name]) <= TOLERANCE


def guided(golden: Golden, step: int) -> torch.Tensor:
    """The published combination of the given model outputs."""
    config = golden.config
    outputs = {name.removeprefix("model_out."): t[step] for name, t in golden.tensors.items() if "model_out." in name}
    cond, scale = outputs["cond"], config["unconditional_guidance_scale"]
    if "uncond" not in outputs:
        return cond
    image = outputs.get("uncond_img", cond)
    of_image = scale if config["cfg_img"] is None else config["cfg_img"]
    if "uncond_img" not in outputs:
        of_image = scale
    combined = outputs["uncond"] + of_image * (image - outputs["uncond"]) + scale * (cond - image)
    return guidance.rescale_guidance(combined, cond, config["guidance_rescale"])


@pytest.mark.parametrize("path", files(SYSTEM, "sampler_*.safetensors"))
def test_single_steps(path):
    golden = Golden(path)
    config = golden.config
    bars = schedule.alpha_bars(config["zero_snr"]).tolist()
    scales = schedule.scale_table(config["base_scale"] or 1.0).tolist()
    times = schedule.timesteps(config["spacing"], config["S"])
    assert times == golden["timesteps"].tolist()
    x0_of = {"v": prediction.x0_of_v, "eps": prediction.x0_of_epsilon}[config["parameterization"]]
    errors, before = {}, golden["x_T"]
    for step, (now, then) in enumerate(zip(times, [*times[1:], 0], strict=True)):
        if "mask" in golden.tensors:
            before = ddim.blend_known(before, golden["x0"], golden["mask"])
        last = step == len(times) - 1
        rescale = 1.0 if last else scales[then] / scales[now]
        shares = bars[now] ** 0.5, (1 - bars[now]) ** 0.5
        x0 = x0_of(before, guided(golden, step), *shares)
        epsilon = prediction.epsilon_of_x0(before, x0, *shares)
        options = dict(alpha_bar=bars[now], alpha_bar_next=bars[then], rescale=rescale, eta=config["eta"])
        output = ddim.ddim_step(before, x0, epsilon, golden["noise"][step], **options)
        errors[f"x after step {step}"] = error(output, golden["x_steps"][step])
        errors[f"x0 of step {step}"] = error(x0 * rescale, golden["pred_x0_steps"][step])
        before = golden["x_steps"][step]
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("spacing", schedule.SPACINGS)
def test_every_number_of_steps_gives_timesteps_in_the_range(spacing):
    """The published code raises, or divides by zero, for some of them."""
    for count in (*range(1, 130), 250, 500, 999, 1000):
        times = schedule.timesteps(spacing, count)
        assert times == sorted(set(times), reverse=True) and 0 <= times[-1] <= times[0] <= 999
        if spacing == "uniform_trailing":
            assert len(times) == count and times[0] == 999
        else:
            assert len(times) >= min(count, 999)  # timestep 0 is never visited


def test_no_number_of_steps_gives_nan():
    bars = schedule.alpha_bars(zero_snr=True).float().tolist()
    for count in range(1, 101):
        times = schedule.timesteps("uniform_trailing", count)
        x = noise = torch.ones(1, 1)
        for now, then in zip(times, [*times[1:], 0], strict=True):
            shares = bars[now] ** 0.5, (1 - bars[now]) ** 0.5
            x0 = prediction.x0_of_v(x, torch.zeros_like(x), *shares)
            epsilon = prediction.epsilon_of_x0(x, x0, *shares)
            x = ddim.ddim_step(x, x0, epsilon, noise, alpha_bar=bars[now], alpha_bar_next=bars[then], eta=1.0)
        assert x.isfinite().all(), count


def test_what_cannot_be_a_schedule_is_refused():
    with pytest.raises(ValueError, match="steps is 0; 1 to 1000"):
        schedule.timesteps("uniform", 0)
    with pytest.raises(ValueError, match="spacing even is unknown; one of uniform, uniform_trailing"):
        schedule.timesteps("even", 5)
