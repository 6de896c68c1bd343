"""ModelScope text-to-video, MS-Vid2Vid and StreamingT2V in the host: sampled, patched, offloaded, windowed."""

import pytest
import torch
from harness.sampled.modelscope import FRAMES, MEMORY, SIZE, cam_apm, conditioning, empty, sample
from harness.streaming import nearest_timestep, start_scale

NAMES = {
    "t2v": "modelscope_t2v_tiny.safetensors",
    "vid2vid": "modelscope_vid2vid_tiny.safetensors",
    "streaming": "streaming_t2v_tiny.safetensors",
}
NETWORKS = ("t2v", "streaming")  # MS-Vid2Vid has the first of them, and predicts something else


@pytest.fixture(scope="module")
def files(host):
    """The tiny checkpoints lie in the host's folder."""
    from harness import streaming

    folder = host.base / "models" / "checkpoints"
    for kind in ("t2v", "vid2vid"):
        streaming.write(folder / NAMES[kind], streaming.tiny_modelscope())
    streaming.write(folder / NAMES["streaming"], streaming.tiny_streaming())


@pytest.fixture
def opened(files):
    """opened(kind) -> a MODEL of its own."""
    from storyreel.host.streaming import loader

    return lambda kind: loader.load(NAMES[kind], precision=torch.float32).model


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("euler", "normal"), ("dpmpp_2m", "karras"), ("dpmpp_2m_sde", "sgm_uniform"), ("uni_pc", "normal")],
)
def test_samplers_of_the_host(opened, kind, sampler, scheduler):
    samples = sample(opened(kind), steps=3, sampler=sampler, scheduler=scheduler)
    assert samples.shape == (FRAMES, 4, *SIZE) and samples.isfinite().all() and samples.std() > 0.01


@pytest.mark.parametrize(("frames", "size"), [(1, (4, 6)), (5, (5, 7)), (24, (4, 4))])
@pytest.mark.parametrize("kind", NETWORKS)
def test_any_number_of_frames_and_any_size(opened, kind, frames, size):
    samples = sample(opened(kind), frames, size=size)
    assert samples.shape == (frames, 4, *size) and samples.isfinite().all()


def test_what_each_predicts_and_its_schedule(opened):
    import comfy.model_sampling
    from storyreel.core.diffusion import refinement, schedule

    bars = schedule.alpha_bars(False)
    for kind in ("t2v", "streaming"):
        sampling = opened(kind).get_model_object("model_sampling")
        assert isinstance(sampling, comfy.model_sampling.EPS)
        assert not isinstance(sampling, comfy.model_sampling.V_PREDICTION)
        torch.testing.assert_close(sampling.sigmas.double(), ((1 - bars) / bars).sqrt(), rtol=1e-5, atol=0)
    sampling = opened("vid2vid").get_model_object("model_sampling")
    signal, noise = refinement.signal_and_noise()
    torch.testing.assert_close(sampling.sigmas.double(), noise / signal, rtol=1e-5, atol=0)
    for k in (0.01, 0.3, 1.0, 4.16, 200.0):
        assert sampling.timestep(torch.tensor([k])).item() == nearest_timestep(k)


@torch.no_grad()
def test_the_refiner_is_denoised_at_the_nearest_timestep(opened):
    """Between two timesteps signal and noise are those of the nearer one, while the network is shown x by its own."""
    from storyreel.core.diffusion import refinement

    sampling = opened("vid2vid").get_model_object("model_sampling")
    signal, noise = refinement.signal_and_noise()
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, 4, 2, 2, generator=generator)
    for share in (0.2, 0.8):
        sigma = torch.lerp(sampling.log_sigmas[410], sampling.log_sigmas[411], share).exp()
        time = 410 + round(share)
        expected = signal[time] * x / (sigma**2 + 1) ** 0.5 - noise[time] * v
        found = sampling.calculate_denoised(sigma.expand(3), v, x)
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)


def test_what_cam_and_apm_bring(opened):
    """Each changes the result; at strength 0 it is the model without it, and without both it is the plain one."""
    from storyreel.host.streaming import modelscope as names

    model = opened("streaming")
    plain, both = sample(model), sample(model, more=cam_apm())
    only = {
        names.CAM_STRENGTH: sample(model, more=cam_apm(**{names.CAM_STRENGTH: 0.0})),
        names.APM_STRENGTH: sample(model, more=cam_apm(**{names.APM_STRENGTH: 0.0})),
    }
    assert len({found.sum().item() for found in (plain, both, *only.values())}) == 4
    for strength, key in ((names.CAM_STRENGTH, names.CAM_FRAMES), (names.APM_STRENGTH, names.ANCHOR_EMBEDS)):
        without = {name: value for name, value in cam_apm().items() if name != key}
        assert torch.equal(sample(model, more=without), only[strength])
    neither = cam_apm(**{names.CAM_STRENGTH: 0.0, names.APM_STRENGTH: 0.0})
    assert torch.equal(sample(model, more=neither), plain)
    half = sample(model, more=cam_apm(**{names.CAM_STRENGTH: 0.5}))
    assert not torch.equal(half, both) and not torch.equal(half, only[names.CAM_STRENGTH])


def test_streamingt2v_without_memory_is_its_base(opened, host, files):
    """Bit for bit the plain network of the same weights."""
    from harness import streaming
    from storyreel.host.streaming import loader

    base = {
        key.removeprefix("base_model."): t
        for key, t in streaming.tiny_streaming().items()
        if key.startswith("base_model.")
        and "merger" not in key
        and not any(own in key for own in (".alpha", ".attn2.conv.", ".conv_ln."))
    }
    path = streaming.write(host.base / "models" / "checkpoints" / "base_tiny.safetensors", base)
    plain = loader.load(path.name, precision=torch.float32)
    path.unlink()
    assert plain.kind is loader.TEXT_TO_VIDEO
    assert torch.equal(sample(opened("streaming")), sample(plain.model))


def test_cam_sees_once_a_chunk(opened, monkeypatch):
    """Not at every step."""
    model, calls = opened("streaming"), []
    encoder = model.model.diffusion_model.extractor.frame_encoder
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda frames: calls.append(len(frames)) or forward(frames))
    sample(model, steps=6, more=cam_apm())
    assert calls == [MEMORY] * 2  # for each of the two conditionings


@pytest.mark.parametrize("kind", NAMES)
def test_halves_of_guidance_together_or_apart(opened, kind, monkeypatch):
    """MS-Vid2Vid from noise that leaves something of the signal: else the first step magnifies rounding."""
    model = opened(kind)
    told_as = dict(more=cam_apm() if kind == "streaming" else None, part=0.5)
    together = sample(model, **told_as)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    torch.testing.assert_close(sample(model, **told_as), together, rtol=0, atol=1e-5 * together.abs().max().item())


@pytest.mark.parametrize("kind", NETWORKS)
def test_partial_offload_gives_the_same(opened, kind):
    import comfy.model_management

    model = opened(kind)
    more = cam_apm() if kind == "streaming" else None
    whole = sample(model, more=more)
    comfy.model_management.unload_all_models()
    load = model.partially_load
    model.partially_load = lambda device, extra_memory=0, **kwargs: load(device, 1 << 16, **kwargs)
    assert torch.equal(sample(model, more=more), whole)
    assert model.model.model_lowvram and model.loaded_size() < model.model_size()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_lora_on_the_unet(opened, kind):
    """The same file serves both: the base's layers have the same names. It is gone once it is off."""
    import comfy.sd

    model = opened(kind)
    plain = sample(model)
    layer = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    weight = dict(model.model.named_parameters())[f"diffusion_model.{layer}.weight"]
    generator = torch.Generator().manual_seed(4)
    down = torch.randn(2, weight.shape[1], generator=generator)
    up = torch.randn(weight.shape[0], 2, generator=generator)
    name = f"lora_unet_{layer.replace('.', '_')}"
    lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    changed = sample(patched)
    assert not torch.equal(changed, plain) and torch.equal(sample(model), plain)
    merged = opened(kind)
    with torch.no_grad():
        dict(merged.model.named_parameters())[f"diffusion_model.{layer}.weight"].add_(0.5 * up @ down)
    torch.testing.assert_close(sample(merged), changed, rtol=0, atol=1e-4 * changed.abs().max().item())


SPATIAL = {  # layers of the tiny network: {diffusers' name: the original one}
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.attentions.0.proj_in": "input_blocks.1.1.proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": "middle_block.1.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0": (
        "output_blocks.3.1.transformer_blocks.0.attn2.to_out.0"
    ),
}
OTHERS = {
    "transformer_in.proj_in": "input_blocks.0.1.proj_in",
    "down_blocks.0.temp_convs.0.conv1.2": "input_blocks.1.0.temopral_conv.conv1.2",
    "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn2.to_v": (
        "input_blocks.1.2.transformer_blocks.0.attn2.to_v"
    ),
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.op",
    "mid_block.resnets.1.conv2": "middle_block.3.out_layers.3",
    "mid_block.temp_attentions.0.proj_out": "middle_block.2.proj_out",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.temp_attentions.0.transformer_blocks.0.ff.net.2": "output_blocks.2.2.transformer_blocks.0.ff.net.2",
}
KOHYA, PEFT, OLD = ("lora_down", "lora_up"), ("lora_A", "lora_B"), ("_lora.down", "_lora.up")


def small_lora(model, layers, name_of, words=PEFT) -> dict:
    """A LoRA of rank 2 on the layers of these original names. name_of(layer): what the file calls it, up to `words`."""
    parameters, generator, lora = dict(model.model.named_parameters()), torch.Generator().manual_seed(4), {}
    for layer in layers:
        out, *inner = parameters[f"diffusion_model.{layer}.weight"].shape
        down, up = (2, *inner), (out, 2, *[1] * (len(inner) - 1))
        for word, shape in zip(words, (down, up), strict=True):
            lora[f"{name_of(layer)}{word}.weight"] = torch.randn(shape, generator=generator) / 8
    return lora


def by_the_hosts_node(host, model, lora: dict):
    """The MODEL behind Load LoRA (Model Only), which reads a file."""
    import nodes
    from harness import streaming

    streaming.write(host.base / "models" / "loras" / "small.safetensors", lora)
    (patched,) = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "small.safetensors", 1.0)
    return patched


@pytest.mark.parametrize("kind", ["t2v", "streaming"])
def test_a_lora_under_diffusers_names(host, opened, kind):
    """Spatial layers as they are, in the two spellings that the host knows; all layers once they are renamed."""
    from storyreel.core.networks.modelscope.keys import rename_lora

    model, published = opened(kind), {ours: name for name, ours in (SPATIAL | OTHERS).items()}

    def as_kohya(layer: str) -> str:
        return f"lora_unet_{published[layer].replace('.', '_')}."

    def as_old(layer: str) -> str:
        name = f"unet.{published[layer]}".replace(".to_", ".processor.to_")
        return name.replace("to_out.0", "to_out")

    def original(layer: str) -> str:
        return f"diffusion_model.{layer}."

    def changed(lora: dict, layers) -> torch.Tensor:
        patched = by_the_hosts_node(host, model, lora)
        assert set(patched.patches) == {f"diffusion_model.{layer}.weight" for layer in layers}
        return sample(patched)

    spatial, every = list(SPATIAL.values()), list(published)
    expected = changed(small_lora(model, spatial, original), spatial)
    assert not torch.equal(expected, sample(model))
    for name_of, words in ((as_kohya, KOHYA), (as_old, OLD)):
        assert torch.equal(changed(small_lora(model, spatial, name_of, words), spatial), expected)
    peft = small_lora(model, every, lambda layer: f"unet.{published[layer]}.")
    expected = changed(small_lora(model, every, original), every)
    assert torch.equal(changed(rename_lora(peft, model.model.sizes), every), expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", NAMES)
def test_a_context_window_equals_its_frames_alone(opened, kind, causal):
    """By Euler, without overlap and from noise of its own."""
    import comfy.samplers
    from harness.sampled.dynamicrafter import by_euler
    from harness.windows import windows

    model = opened(kind)
    noise = torch.randn(32, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)[1:]

    whole = by_euler(windows(model, 16, 0, causal), noise, sigmas, conditioning(1), conditioning(2))
    for frames in (slice(0, 16), slice(16, 32)):
        alone = by_euler(model, noise[frames], sigmas, conditioning(1), conditioning(2))
        torch.testing.assert_close(whole[frames], alone, rtol=0, atol=1e-5 * alone.abs().max().item())


def test_a_preview(opened):
    import latent_preview

    for kind in NAMES:
        form = opened(kind).model.latent_format
        shown = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
        assert shown.decode_latent_to_preview(empty()["samples"]).size == SIZE[::-1]


def test_the_published_start_is_a_matter_of_one_noise_level():
    from storyreel.core.diffusion import refinement
    from storyreel.host.streaming.modelscope import RefinementSampling

    start = refinement.refine_sigmas(30)[0].item()
    sampling, plain = RefinementSampling(start), RefinementSampling()
    clip, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    at = torch.tensor(start)
    scaled, whole = (one.noise_scaling(at, noise.clone(), clip) for one in (sampling, plain))
    torch.testing.assert_close(scaled, start_scale() * (clip + start * noise), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole, clip + start * noise, rtol=1e-5, atol=1e-5)
    for k in (0.99 * start, 0.1):
        at = torch.tensor(k)
        assert torch.equal(*(one.noise_scaling(at, noise.clone(), clip) for one in (sampling, plain)))


def test_what_does_not_go_together_is_said(opened, caplog):
    import nodes
    from storyreel.host.streaming import modelscope as names

    model = opened("streaming")

    def run(cond, latent=None, model=model):
        return nodes.common_ksampler(model, 0, 2, 5.0, "euler", "normal", cond, cond, latent or empty())

    with pytest.raises(ValueError, match="CLIP gives text of width 32, and this StreamingT2V .* on width 64"):
        run([[torch.zeros(1, 77, 32), {}]])
    with pytest.raises(ValueError, match="CONDITIONING holds 3 prompts; ModelScope text-to-video expects 1"):
        run([[torch.zeros(3, 77, 64), {}]], model=opened("t2v"))
    with pytest.raises(ValueError, match="CLIP_VISION projects to width 80, and this StreamingT2V .* on width 64"):
        run(conditioning(1, **{names.ANCHOR_EMBEDS: torch.zeros(1, 1, 80)}))
    with pytest.raises(ValueError, match="CAM reads 8 frames of 48 x 32 pixels, .* 16 frames of 64 x 32"):
        run(conditioning(1, **cam_apm()), empty(size=(4, 8)))
    with pytest.raises(ValueError, match="CAM reads 8 frames .* has 5 frames"):
        run(conditioning(1, **cam_apm()), empty(5))
    with pytest.raises(ValueError, match="does not work with context windows"):
        from harness.windows import windows

        run(conditioning(1, **cam_apm()), empty(32), windows(model, 16, 4, False))
    run(conditioning(1, 154, **cam_apm()))
    assert "StreamingT2V reads the first 77 tokens of a prompt; this one has 154" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("kind", [*NAMES, "svd"])
def test_smaller_number_formats(host, opened, kind, dtype):
    """Of the file, and of the model that is made from a whole one."""
    from harness import streaming
    from harness.sampled import svd
    from storyreel.host.streaming import loader

    name = NAMES.get(kind, svd.NAME)
    make = {"streaming": streaming.tiny_streaming, "svd": streaming.tiny_svd}.get(kind, streaming.tiny_modelscope)
    folder = host.base / "models" / "checkpoints"
    if kind == "svd":
        streaming.write(folder / name, make())
    stored = streaming.write(folder / f"small_{name}", {key: t.to(dtype) for key, t in make().items()})

    def drawn(file: str, precision) -> torch.Tensor:
        model = loader.load(file, precision=precision).model
        assert model.model.get_dtype() == precision
        if kind == "svd":
            return svd.sample(model, cam_seed=4)
        return sample(model, more=cam_apm() if kind == "streaming" else None, part=0.5)

    whole = drawn(name, torch.float32)
    for file in (name, stored.name):
        found = drawn(file, dtype)
        assert found.isfinite().all()
        assert (found - whole).abs().mean() < (0.5 if dtype == torch.float8_e4m3fn else 0.1) * whole.abs().mean()
    stored.unlink()
