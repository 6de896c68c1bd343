"""StreamingT2V's published trajectories, sampled by the real host with its own guiders through the pack's nodes."""

import pytest
import torch
from harness.golden import Golden, difference, files, procedural
from harness.streaming import LinearNetwork, shapes, write

SYSTEM = "streamingt2v"
WHOLE, SAMPLED = 1e-4, 1e-3  # absolute: the data's README


@pytest.fixture
def opened(host, tmp_path):
    """opened(weights, name) -> the MODEL of a file."""
    from storyreel.host.streaming import loader

    def opened(weights: dict, name: str = "golden.safetensors"):
        return loader.load(write(tmp_path / name, weights).name, precision=torch.float32).model

    with host.checkpoints_of(tmp_path):
        yield opened


def run_node(node, *inputs) -> tuple:
    """A node's outputs. inputs: the first of its schema, in their order."""
    names = [entry.id for entry in node.define_schema().inputs]
    return node.execute(**dict(zip(names, inputs, strict=False))).result


def in_frames(clip: torch.Tensor) -> torch.Tensor:
    """[1, C, T, H, W] -> [T, C, H, W]"""
    return clip[0].transpose(0, 1)


@pytest.mark.parametrize("path", files(SYSTEM, "pipeline_chunk.safetensors"))
@torch.no_grad()
def test_a_published_chunk(path, opened):
    """CAM's frames and the anchor in the CONDITIONING; the data's noise in the pack's DDIM."""
    import comfy.samplers
    from storyreel.core.networks.streaming.appearance import TokenExpander
    from storyreel.host.dynamicrafter import sampling
    from storyreel.host.streaming import modelscope as names

    golden = Golden(path)
    seed, spec = golden.value("seed"), golden.value("resampler")
    weights = procedural(Golden(path.with_name("unet_cam.safetensors")).manifest(), seed)
    expander = TokenExpander(spec["cross_attention_dim"], spec["inner_dim"], spec["expansion_factor"])
    prefix = spec["prefix"]
    listed = shapes(expander.state_dict())
    weights |= {prefix + key: t for key, t in procedural(listed, seed, prefix).items()}
    model = opened(weights)

    def conditioning(text: str, embed: str) -> list:
        frames = (golden["in.frames"][0].movedim(1, -1) + 1) / 2
        return [[golden[text], {names.CAM_FRAMES: frames, names.ANCHOR_EMBEDS: golden[embed][None]}]]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(
        conditioning("in.prompt_embeds", "in.clip_embed_cond"),
        conditioning("in.negative_prompt_embeds", "in.clip_embed_uncond"),
    )
    guider.set_cfg(golden.value("cfg"))
    sigmas = sampling.sigmas_of(model, "leading", golden.value("steps"))
    assert [model.get_model_object("model_sampling").timestep(s).item() for s in sigmas[:-1]] == golden[
        "timesteps"
    ].tolist()
    steps = []
    noise = in_frames(golden["in.init_noise"])
    samples = guider.sample(
        noise,
        torch.zeros_like(noise),
        sampling.DDIM(golden.value("eta"), noise=lambda step, like: golden["in.step_noise"][step]),
        sigmas,
        callback=lambda step, denoised, x, total: steps.append(x.clone()),
        seed=0,
        disable_pbar=True,
    )
    assert difference(steps[0], in_frames(golden["out.latents_step1"])) <= SAMPLED
    factor = model.model.latent_format.scale_factor
    assert difference(samples * factor, in_frames(golden["out.latents"])) <= SAMPLED


@pytest.mark.parametrize("path", files(SYSTEM, "svd_unet_cam.safetensors"))
@torch.no_grad()
def test_a_published_chunk_of_streamingsvd(path, opened, monkeypatch):
    """The host's Euler, its guidance that grows along the frames, the pack's noise levels. The data has a vector of its
    own in the place of frame rate and motion."""
    import comfy.model_base
    import comfy.samplers
    import comfy.supported_models
    import nodes
    from storyreel.host.streaming import modelscope as names

    golden = Golden(path)
    heads = {"num_head_channels": golden.value("unet")["num_head_channels"]}
    monkeypatch.setattr(
        comfy.supported_models.SVD_img2vid,
        "unet_extra_config",
        comfy.supported_models.SVD_img2vid.unet_extra_config | heads,
    )
    vector = golden["in.vector"].chunk(2)[1]
    monkeypatch.setattr(comfy.model_base.SVD_img2vid, "encode_adm", lambda self, **conditioning: vector)
    model = opened(procedural(golden.manifest(), golden.value("seed")))
    scales = golden["sample.guider_scale"].flatten()
    guided = nodes.NODE_CLASS_MAPPINGS["VideoLinearCFGGuidance"]().patch(model, scales[0].item())[0]

    frames = (golden["in.ctrl_frames"][0].movedim(1, -1) + 1) / 2
    cond = {name: golden[f"in.{name}"].chunk(2)[1] for name in ("crossattn", "concat")}

    def conditioning(scale: float) -> list:
        more = {names.CAM_FRAMES: frames, "concat_latent_image": scale * cond["concat"]}
        return [[scale * cond["crossattn"], more]]

    guider = comfy.samplers.CFGGuider(guided)
    guider.set_conds(conditioning(1.0), conditioning(0.0))
    guider.set_cfg(scales[-1].item())
    noise = golden["sample.noise"]
    samples = guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object("euler"),
        golden["sample.sigmas"],
        seed=0,
        disable_pbar=True,
    )
    factor = model.model.latent_format.scale_factor
    assert difference(samples * factor, golden["sample.out"]) <= SAMPLED


def linear_model(golden: Golden, dim: int):
    """The data's linear network as a MODEL with MS-Vid2Vid's schedule. dim: the axis of frames in its latents."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models_base
    from storyreel.host.common.loading import patcher_of
    from storyreel.host.common.video_model import ClipCondition
    from storyreel.host.streaming.modelscope import RefinementSampling

    network = LinearNetwork(golden)

    class Network(torch.nn.Module):
        def __init__(self, dtype=None, device=None, operations=None):
            super().__init__()
            self.dtype = dtype

        def forward(self, x, timesteps, context, transformer_options, **kwargs):
            if dim == 2:
                rows = zip(x, timesteps, context, strict=True)
                return torch.cat([network.net(clip[None], time, y) for clip, time, y in rows])
            clips = x.unflatten(0, (len(context), -1)).transpose(1, 2)
            outputs = [network.net(clip[None], timesteps[0], y) for clip, y in zip(clips, context, strict=True)]
            return torch.cat(outputs).transpose(1, 2).flatten(0, 1)

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        latent_format = type("Latent", (comfy.latent_formats.LatentFormat,), {"latent_dimensions": 2 + dim // 2})

    class Model(comfy.model_base.BaseModel):
        def extra_conds(self, **kwargs):
            return {"c_crossattn": ClipCondition(kwargs["cross_attn"])}

        def resize_cond_for_context_window(self, cond_key, cond_value, *window, **retain):
            return cond_value

    config = Config({})
    config.set_inference_dtype(torch.float32, None)
    model = Model(config, comfy.model_base.ModelType.V_PREDICTION, unet_model=Network)
    model.model_sampling = RefinementSampling()
    return patcher_of(model)


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_v2v.safetensors"))
@pytest.mark.parametrize(("case", "dim"), [("multi", 0), ("multi", 2), ("brownian", 2)])
@torch.no_grad()
def test_a_published_refinement_through_the_nodes(path, case, dim, host):
    """Both nodes and the host's DPM++ 2M SDE; the data's offsets are put in, and its noise where it holds any.

    A Brownian path distinguishes noise levels that differ by rounding, and layouts: there the levels are the data's.
    """
    import comfy.samplers
    from storyreel.nodes.blending import StoryReelRandomizedBlending, StoryReelRefineSigmas

    golden = Golden(path)
    value, start = golden.value, golden.value("tnl") - 1

    def laid(clip: torch.Tensor) -> torch.Tensor:
        return clip if dim == 2 else in_frames(clip)

    model = linear_model(golden, dim)
    model, sigmas = run_node(StoryReelRefineSigmas, model, value("steps"), start, True)
    assert ((sigmas - golden["sigmas_k"]).abs() <= 1e-5 * golden["sigmas_k"]).all()
    settings = value("chunk"), value("ov"), value("cfg"), value("resc"), 0
    (model,) = run_node(StoryReelRandomizedBlending, model, *settings)
    offsets, drawn = iter(golden[f"{case}.offsets"].tolist()), []
    model.model_options["context_handler"].draw = lambda *arguments: drawn.append(arguments) or [0, *next(offsets)]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*([[golden[name][None], {}]] for name in ("toy.y", "toy.y_neg")))
    guider.set_cfg(1.0)  # which has no effect
    noise = iter(golden["multi.step_noise"])
    options = {"noise_sampler": lambda sigma, then: laid(next(noise))} if case == "multi" else {}
    samples = guider.sample(
        laid(golden["in.noise"]),
        laid(golden["in.x0"]),
        comfy.samplers.ksampler("dpmpp_2m_sde", options),
        sigmas if case == "multi" else golden["sigmas_k"],
        seed=0,
        disable_pbar=True,
    )
    assert difference(samples, laid(golden[f"{case}.out"])) <= WHOLE
    assert next(offsets, None) is None
    assert {tuple(starts) for starts, _ in drawn} == {tuple(LinearNetwork(golden).starts)}


@pytest.mark.parametrize("path", files(SYSTEM, "vid2vid_unet.safetensors"))
@torch.no_grad()
def test_ms_vid2vid_through_the_nodes(path, opened):
    """A step of Euler's method to no noise is the denoised clip, and that is its velocity's."""
    import comfy.samplers
    from storyreel.core.diffusion import prediction, refinement
    from storyreel.nodes.blending import StoryReelRandomizedBlending, StoryReelRefineSigmas

    golden = Golden(path)
    time = int(golden["in.t"])
    weights = procedural(golden.manifest(), golden.value("seed"), "v2v.")
    refiner = opened(weights, "vid2vid.safetensors")
    model, sigmas = run_node(StoryReelRefineSigmas, refiner, 1, time, False)
    (model,) = run_node(StoryReelRandomizedBlending, model, golden.value("F"), 1, 1.0, 0.0, 0)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[golden["in.context"], {}]], [[golden["in.context"], {}]])
    guider.set_cfg(1.0)
    x = in_frames(golden["in.x"])
    samples = guider.sample(
        x * (1 + sigmas[0] ** 2) ** 0.5 / sigmas[0],  # so that the network is shown x
        torch.zeros_like(x),
        comfy.samplers.sampler_object("euler"),
        sigmas[[0, -1]],
        seed=0,
        disable_pbar=True,
    )
    signal, noise = (table[time].item() for table in refinement.signal_and_noise())
    expected = prediction.x0_of_v(x, in_frames(golden["out"]), signal, noise)
    assert difference(samples * model.model.latent_format.scale_factor, expected) <= WHOLE
