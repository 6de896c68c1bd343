"""StreamingT2V's published trajectories, sampled by the real host with its own guider and the pack's sampler."""

import pytest
import torch
from harness.golden import Golden, difference, files, procedural
from harness.streaming import shapes, write

SYSTEM = "streamingt2v"
WHOLE, SAMPLED = 1e-4, 1e-3  # absolute: the data's README


@pytest.fixture
def opened(host, tmp_path, monkeypatch):
    """opened(weights, name) -> the MODEL of a file."""
    import folder_paths
    from storyreel.host import streaming_loader

    def opened(weights: dict, name: str = "golden.safetensors"):
        path = write(tmp_path / name, weights)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(path.parent)], {path.suffix}))
        folder_paths.filename_list_cache.pop("checkpoints", None)
        return streaming_loader.load(path.name, precision=torch.float32).model

    yield opened
    folder_paths.filename_list_cache.pop("checkpoints", None)


def in_frames(clip: torch.Tensor) -> torch.Tensor:
    """[1, C, T, H, W] -> [T, C, H, W]"""
    return clip[0].transpose(0, 1)


@pytest.mark.parametrize("path", files(SYSTEM, "pipeline_chunk.safetensors"))
@torch.no_grad()
def test_a_published_chunk(path, opened):
    """CAM's frames and the anchor in the CONDITIONING; the data's noise in the pack's DDIM."""
    import comfy.samplers
    from storyreel.core.networks.streaming.appearance import TokenExpander
    from storyreel.host import dynamicrafter_sampling as sampling
    from storyreel.host import modelscope_model as names

    golden = Golden(path)
    seed, said = golden.said("seed"), golden.said("resampler")
    weights = procedural(Golden(path.with_name("unet_cam.safetensors")).manifest(), seed)
    expander = TokenExpander(said["cross_attention_dim"], said["inner_dim"], said["expansion_factor"])
    prefix = said["prefix"]
    listed = shapes(expander.state_dict())
    weights |= {prefix + key: t for key, t in procedural(listed, seed, prefix).items()}
    model = opened(weights)

    def told(text: str, embed: str) -> list:
        frames = (golden["in.frames"][0].movedim(1, -1) + 1) / 2
        return [[golden[text], {names.CAM_FRAMES: frames, names.ANCHOR_EMBEDS: golden[embed][None]}]]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(
        told("in.prompt_embeds", "in.clip_embed_cond"), told("in.negative_prompt_embeds", "in.clip_embed_uncond")
    )
    guider.set_cfg(golden.said("cfg"))
    sigmas = sampling.sigmas_of(model, "leading", golden.said("steps"))
    assert [model.get_model_object("model_sampling").timestep(s).item() for s in sigmas[:-1]] == golden[
        "timesteps"
    ].tolist()
    steps = []
    noise = in_frames(golden["in.init_noise"])
    samples = guider.sample(
        noise,
        torch.zeros_like(noise),
        sampling.DDIM(golden.said("eta"), noise=lambda step, like: golden["in.step_noise"][step]),
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
    from storyreel.host import modelscope_model as names

    golden = Golden(path)
    heads = {"num_head_channels": golden.said("unet")["num_head_channels"]}
    monkeypatch.setattr(
        comfy.supported_models.SVD_img2vid,
        "unet_extra_config",
        comfy.supported_models.SVD_img2vid.unet_extra_config | heads,
    )
    vector = golden["in.vector"].chunk(2)[1]
    monkeypatch.setattr(comfy.model_base.SVD_img2vid, "encode_adm", lambda self, **told: vector)
    model = opened(procedural(golden.manifest(), golden.said("seed")))
    scales = golden["sample.guider_scale"].flatten()
    guided = nodes.NODE_CLASS_MAPPINGS["VideoLinearCFGGuidance"]().patch(model, scales[0].item())[0]

    frames = (golden["in.ctrl_frames"][0].movedim(1, -1) + 1) / 2
    cond = {name: golden[f"in.{name}"].chunk(2)[1] for name in ("crossattn", "concat")}

    def told(scale: float) -> list:
        more = {names.CAM_FRAMES: frames, "concat_latent_image": scale * cond["concat"]}
        return [[scale * cond["crossattn"], more]]

    guider = comfy.samplers.CFGGuider(guided)
    guider.set_conds(told(1.0), told(0.0))
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
