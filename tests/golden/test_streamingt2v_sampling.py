"""StreamingT2V's arithmetic around the networks: schedules, blending, a whole chunk, the chain of chunks, measures."""

import random

import pytest
import torch
from harness.golden import Golden, difference, files, procedural
from harness.streaming import LinearNetwork, Refiner, load, nearest_timestep, shapes, start_scale, streaming_model
from storyreel.core.diffusion import blending, ddim, prediction, refinement, schedule
from storyreel.core.diffusion.autoregression import extend_by_chunks
from storyreel.core.metrics import reductions
from storyreel.core.metrics.metric import evaluate
from storyreel.core.metrics.motion import Motion
from storyreel.core.networks.streaming.appearance import TokenExpander
from storyreel.core.video.images import clip_pixels

SYSTEM = "streamingt2v"


def relative(output: torch.Tensor, reference: torch.Tensor) -> float:
    assert output.shape == reference.shape
    return ((output - reference).abs() / reference.abs()).max().item()


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_v2v.safetensors"))
def test_noise_levels_of_the_refinement(path):
    golden = Golden(path)
    start = golden.value("tnl") - 1
    for (steps,), table in golden.named(r"tables\.vp_sigmas_(\d+)").items():
        assert difference(refinement.signal_and_noise(steps)[1], table) <= 1e-6
    sigmas = refinement.refine_sigmas(golden.value("steps"), start)
    assert relative(sigmas[:-1].float(), golden["sigmas_k"][:-1]) <= 1e-5
    levels = golden.named(r"tables\.k_sigmas_(\d+)steps_t(\d+)")
    for (steps, first), table in golden.named(r"tables\.k_t_(\d+)steps_t(\d+)").items():
        times, known = table.tolist(), levels.pop((steps, first))
        assert times[0] == first and [round(time) for time in refinement.refine_timesteps(steps, first)] == times
        sigmas = refinement.refine_sigmas(steps, first)
        assert relative(sigmas[:-1].float(), known[:-1]) <= 1e-5 and sigmas[-1] == known[-1] == 0
        assert [nearest_timestep(k.item()) for k in sigmas[:-1]] == times
    assert not levels


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_v2v.safetensors"))
def test_one_blended_evaluation(path):
    golden = Golden(path)
    network, start = Refiner(golden), golden.value("tnl") - 1
    noised = network.noised()
    assert difference(noised, golden["noised"]) <= 1e-5
    x = noised * start_scale(start)
    assert difference(x, golden["one.in"]) <= 1e-5
    assert difference(network.denoised(x, start, golden["one.offsets"].tolist()), golden["one.x0"]) <= 1e-4
    # The sampler's own units: noised / alpha is x_0 + k noise, and a network is shown x / sqrt(k^2 + 1).
    k = refinement.refine_sigmas(golden.value("steps"), start)[0]
    clip = start_scale(start) * (golden["in.x0"] + k * golden["in.noise"])
    assert difference(clip / (k**2 + 1) ** 0.5, golden["one.in"]) <= 1e-5


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_v2v.safetensors"))
def test_published_offsets_are_those_of_the_paper_but_one(path):
    """0 to overlap - 1: the range that our own draws have too."""
    golden = Golden(path)
    draw = random.Random(golden.value("python_seed"))
    overlap = golden.value("ov")
    for name in ("one", "multi", "brownian"):
        for offset in golden[f"{name}.offsets"].flatten().tolist():
            assert offset == draw.randint(0, overlap - 1)
    starts = LinearNetwork(golden).starts
    ours = [blending.draw_offsets(starts, golden.value("chunk"), 0, sigma / 7) for sigma in range(200)]
    assert {offset for offsets in ours for offset in offsets[1:]} == set(range(overlap))
    assert {offsets[0] for offsets in ours} == {0}


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_i2vgenxl.safetensors"))
def test_blended_steps(path):
    """x of the next step is what is blended here. The network's schedule is its own, and the network is not ours."""
    golden = Golden(path)
    network, config = LinearNetwork(golden), golden.value("scheduler")
    steps, count = golden.value("num_inference_steps"), config["num_train_timesteps"]
    times = schedule.timesteps("leading", steps, count)
    assert times == golden["timesteps_all"].tolist()
    visited = times[steps - min(int(steps * golden.value("strength")), steps) :]
    assert len(visited) == len(golden["offsets"])
    bars = squared_cosine(count)
    known, noise = golden["in.latents"], golden["in.noise"].transpose(0, 1)[None]
    x = bars[visited[0]] ** 0.5 * known + (1 - bars[visited[0]]) ** 0.5 * noise
    for step, now in enumerate(visited):
        then = now - count // steps
        bar, bar_next = bars[now].item(), bars[then].item() if then >= 0 else 1.0
        shares = bar**0.5, (1 - bar) ** 0.5
        chunks = []
        for part, image in zip(network.parts(x), golden["toy.image"], strict=True):
            v, _ = network.guided(part, now, golden.value("guidance"), image)
            x0 = prediction.x0_of_v(part, v, *shares)
            epsilon = shares[0] * v + shares[1] * part
            chunks.append(ddim.ddim_step(part, x0, epsilon, None, alpha_bar=bar, alpha_bar_next=bar_next))
        x = blending.blend(chunks, network.starts, [0, *golden["offsets"][step].tolist()])
    assert difference(x, golden["out.latents"]) <= 1e-3


def squared_cosine(steps: int) -> torch.Tensor:
    """alpha_bar of Nichol and Dhariwal's schedule (arXiv 2102.09672) at zero terminal SNR."""
    level = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    return schedule.zero_terminal_snr(torch.cumprod(1 - betas, 0))


@pytest.mark.parametrize("path", files(SYSTEM, "pipeline_chunk.safetensors"))
@torch.no_grad()
def test_a_whole_chunk(path):
    """The anchor's tokens, CAM and APM in cond and uncond, DDIM with noise, of the other file's network."""
    golden = Golden(path)
    seed, spec = golden.value("seed"), golden.value("resampler")
    model = streaming_model(Golden(path.with_name("unet_cam.safetensors")).manifest(), seed)
    expander = TokenExpander(spec["cross_attention_dim"], spec["inner_dim"], spec["expansion_factor"])
    load(expander, procedural(shapes(expander.state_dict()), seed, spec["prefix"]))
    tokens = {name: expander(golden[f"in.clip_embed_{name}"]) for name in ("uncond", "cond")}
    assert all(difference(output, golden[f"out.tokens_{name}"]) <= 1e-5 for name, output in tokens.items())

    text = torch.cat([golden["in.negative_prompt_embeds"], golden["in.prompt_embeds"]])
    features = model.encode_frames(golden["in.frames"].expand(2, -1, -1, -1, -1))
    scheduler = golden.value("scheduler")
    count = scheduler["num_train_timesteps"]
    times = schedule.timesteps("leading", golden.value("steps"), count)
    assert times == golden["timesteps"].tolist() and golden["in.frames"].shape[1] == golden.value("n_cond")
    bars = schedule.alpha_bars(False, scheduler["beta_start"], scheduler["beta_end"], count).tolist()
    x = golden["in.init_noise"]
    for step, (now, then) in enumerate(zip(times, [*times[1:], 0], strict=True)):
        both = model(x.repeat(2, 1, 1, 1, 1), torch.full((2,), now), text, torch.cat(list(tokens.values())), features)
        uncond, cond = both.chunk(2)
        epsilon = uncond + golden.value("cfg") * (cond - uncond)
        x0 = prediction.x0_of_epsilon(x, epsilon, bars[now] ** 0.5, (1 - bars[now]) ** 0.5)
        noise = golden["in.step_noise"][step].transpose(0, 1)[None]
        bar = dict(alpha_bar=bars[now], alpha_bar_next=bars[then])
        x = ddim.ddim_step(x, x0, epsilon, noise, **bar, eta=golden.value("eta"))
        if step == 0:
            assert difference(x, golden["out.latents_step1"]) <= 1e-3
    assert difference(x, golden["out.latents"]) <= 1e-3


@pytest.mark.parametrize("path", files(SYSTEM, "autoregressive_ms.safetensors"))
def test_the_chain_of_chunks(path):
    golden = Golden(path)
    frames, memory = golden.value("F"), golden.value("n_cond")
    first = golden["in.first_chunk"]
    inputs = []

    def make(number, before, anchor):
        inputs.append((before * 2 - 1, anchor * 2 - 1))
        places = torch.arange(frames)
        drift = (0.05 * places / (frames - 1))[:, None, None, None]
        return (0.8 * before[3 * places % memory] + 0.15 * anchor + drift).clamp(0, 1)

    chunks = range(1, golden.value("n_autoregressive_generations"))  # the first is one of them
    video = torch.cat([first, *extend_by_chunks(first, first[:1], memory, chunks, make)])
    assert difference(video, golden["out.video"]) <= 1e-5
    assert difference(torch.stack([before for before, _ in inputs]), golden["log.cam_frames"]) <= 1e-5
    assert difference(torch.stack([anchor for _, anchor in inputs]), golden["log.anchor"]) <= 1e-5


@pytest.mark.parametrize("path", files(SYSTEM, "autoregressive_svd.safetensors"))
def test_the_chain_of_streamingsvd(path):
    golden = Golden(path)
    frames, memory = golden.value("F"), golden.value("n_cond")
    first, number = golden["in.first_chunk"], int(golden.value("anchor"))
    inputs = []

    def make(_, before, anchor):
        inputs.append((before, anchor[0]))
        places = torch.arange(frames)
        drift = (0.05 * places / (frames - 1))[:, None, None, None]
        return (0.8 * before[3 * places % memory] + 0.15 * anchor + drift).clamp(-1, 1)

    chunks = range(golden.value("n_autoregressive_generations"))
    video = torch.cat([first, *extend_by_chunks(first, first[number : number + 1], memory, chunks, make)])
    assert difference((video + 1) * 127.5, golden["out.video_0_255"]) <= 1e-3
    assert difference(torch.stack([before for before, _ in inputs]), golden["log.ctrl_frames"]) <= 1e-5
    assert difference(torch.stack([anchor for _, anchor in inputs]), golden["log.svd_input_frame"]) <= 1e-5


@pytest.mark.parametrize("path", files(SYSTEM, "clip_preprocess.safetensors"))
def test_the_image_encoder_sees_the_anchor_as_published(path):
    golden = Golden(path)
    picture = (golden["in.image"].movedim(1, -1) + 1) / 2
    assert difference(clip_pixels(picture, golden.value("size")), golden["out.pixel_values"]) <= 1e-5


@pytest.mark.parametrize("path", files(SYSTEM, "mawe.safetensors"))
def test_pixels_pushed_forward(path):
    golden = Golden(path)
    pushed, filled = reductions.push_forward(golden["warp.in.img"], golden["warp.in.flow"])
    assert torch.equal(pushed, golden["warp.out.img"])
    assert torch.equal((~filled).float(), golden["warp.out.unknown_mask"])


@pytest.mark.parametrize("path", files(SYSTEM, "mawe.safetensors"))
def test_motion_aware_warp_error(path):
    golden = Golden(path)
    assert golden.value("coeff") == reductions.MAWE_SCALE
    frames = reductions.mawe_frames(golden["in.video_uint8"], golden.value("resize"))
    flow = linear_flow(golden["in.flow_params"], *frames.shape[-2:])
    errors, motion = reductions.warp_errors(frames, flow), reductions.motions(flow)
    assert relative(errors, golden["out.warp_errors"]) <= 1e-4
    assert relative(motion, golden["out.motions"]) <= 1e-4
    assert relative(torch.tensor([reductions.mawe_published(errors, motion)]), golden["out.mawe"]) <= 1e-4


def linear_flow(parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The data's stand-in for an estimated flow."""
    p = parameters[:, :, None, None]
    x, y = torch.arange(width) / (width - 1), torch.arange(height)[:, None] / (height - 1)
    return torch.stack([p[:, 0] + p[:, 1] * x + p[:, 2] * y, p[:, 3] + p[:, 4] * x + p[:, 5] * y], dim=1)


@pytest.mark.parametrize("path", files(SYSTEM, "mawe.safetensors"))
def test_motion_aware_warp_error_frame_by_frame(path):
    """As a video is measured: one frame after the other, as images from 0 to 1."""
    golden = Golden(path)
    side = golden.value("resize")
    flows = iter(linear_flow(golden["in.flow_params"], side, side))
    motion = Motion(lambda first, second: next(flows), "given", side)
    evaluate(golden["in.video_uint8"].movedim(1, -1).float() / 255, [motion])
    assert relative(torch.tensor(motion.per_frame["warp_error"][1:]), golden["out.warp_errors"]) <= 1e-4
    assert relative(torch.tensor([motion.results()["mawe_code"]]), golden["out.mawe"]) <= 1e-4
