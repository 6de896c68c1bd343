"""Randomized blending under the host's own samplers, on three families of its video models; the refinement."""

import pytest
import torch
from harness.streaming import start_scale

LENGTH, OVERLAP = 6, 3


def wan():
    """A tiny Wan of the host's own class, whose latents have a dimension of time."""
    import comfy.model_base
    import comfy.supported_models
    from harness.dynamicrafter import random
    from storyreel.host.common.loading import patcher_of, set_precision

    sizes = dict(image_model="wan2.1", model_type="t2v", dim=32, ffn_dim=64, num_heads=2, num_layers=1)
    config = comfy.supported_models.WAN21_T2V(sizes | dict(text_dim=16, freq_dim=32))
    set_precision(config, 0, torch.float32)
    model = comfy.model_base.WAN21(config)
    model.diffusion_model.load_state_dict(random(model.diffusion_model))
    return patcher_of(model)


def modelscope():
    from harness.dynamicrafter import random
    from harness.streaming import SIZES
    from storyreel.core.networks.modelscope.unet import UNet
    from storyreel.host.streaming import loader

    return loader.build_modelscope(random(UNet(SIZES), 1), precision=torch.float32)


def svd():
    """The host's own image-to-video model, as StreamingSVD's file carries it."""
    from harness.streaming import tiny_svd
    from storyreel.host.streaming import svd as streaming_svd

    return streaming_svd.build_model(tiny_svd(), torch.float32)


class Family:
    """A model, latents of clips for it, and conditionings."""

    def __init__(self, make, dim: int, width: int, channels: int):
        self.make, self.dim, self.width, self.channels = make, dim, width, channels

    def noise(self, frames: int) -> torch.Tensor:
        shape = (frames, self.channels, 4, 6) if self.dim == 0 else (1, self.channels, frames, 4, 6)
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))

    def part(self, clip: torch.Tensor, start: int, length: int = LENGTH) -> torch.Tensor:
        return clip.narrow(self.dim, start, min(length, clip.shape[self.dim] - start))

    def conditioning(self, seed: int) -> list:
        return [[torch.randn(1, 77, self.width, generator=torch.Generator().manual_seed(seed)), {}]]


FAMILIES = {"modelscope": Family(modelscope, 0, 64, 4), "svd": Family(svd, 0, 64, 4), "wan": Family(wan, 2, 16, 16)}


@pytest.fixture(params=FAMILIES)
def family(request, host):
    """(family, its model)"""
    chosen = FAMILIES[request.param]
    return chosen, chosen.make()


def blended(model, length=LENGTH, overlap=OVERLAP, guidance=4.0, rescale=0.0, seed=0):
    """Through the node."""
    from storyreel.nodes.blending import StoryReelRandomizedBlending

    return StoryReelRandomizedBlending.execute(model, length, overlap, guidance, rescale, seed).result[0]


@torch.no_grad()
def sample(family, model, noise, *, steps=1, cfg=4.0, sampler="euler", sigmas=None, guider=None):
    """The host's sampler; after one step of Euler the sample is the first denoised output."""
    import comfy.samplers

    if sigmas is None:
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps + 1)[1:]
    if guider is None:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(family.conditioning(1), family.conditioning(2))
        guider.set_cfg(cfg)
    return guider.sample(
        noise.clone(),
        torch.zeros_like(noise),
        comfy.samplers.sampler_object(sampler),
        sigmas,
        seed=0,
        disable_pbar=True,
    )


def close(output, expected, tolerance=1e-5):
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("frames", [15, 17])
@pytest.mark.parametrize("rescale", [0.0, 0.4])
def test_one_evaluation_is_the_blend_of_its_chunks(family, frames, rescale):
    """Computed here from samples of single chunks; 17 frames do not divide, and the last chunk moves back."""
    import comfy.samplers
    from storyreel.core.diffusion import blending

    family, model = family
    noise = family.noise(frames)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)[1:]
    starts = blending.chunk_starts(frames, LENGTH, OVERLAP)
    assert (starts[-1] - starts[-2] < LENGTH - OVERLAP) == (frames == 17)
    offsets = blending.draw_offsets(starts, LENGTH, 5, float(sigmas[0]))
    chunks = [
        sample(family, blended(model, rescale=rescale), family.part(noise, start), sigmas=sigmas) for start in starts
    ]
    output = sample(family, blended(model, rescale=rescale, seed=5), noise, sigmas=sigmas)
    close(output, blending.blend(chunks, starts, offsets, family.dim))


def test_a_clip_of_one_chunk(family):
    """Guidance in the node equals the sampler's own; with the sampler's own guidance nothing changes."""
    family, model = family
    noise = family.noise(LENGTH)
    plain = sample(family, model, noise, steps=3, cfg=4.0)
    close(sample(family, blended(model, guidance=4.0), noise, steps=3, cfg=7.0), plain)
    assert torch.equal(sample(family, blended(model, guidance=0.0), noise, steps=3, cfg=4.0), plain)
    alone = sample(family, model, noise, steps=3, cfg=1.0)
    assert torch.equal(sample(family, blended(model, guidance=1.0), noise, steps=3, cfg=9.0), alone)


def test_guidance_without_rescale_is_the_samplers_own(family):
    family, model = family
    noise = family.noise(15)
    here = sample(family, blended(model, guidance=4.0), noise, steps=3, cfg=1.0)
    close(here, sample(family, blended(model, guidance=0.0), noise, steps=3, cfg=4.0))
    assert torch.equal(here, sample(family, blended(model, guidance=4.0), noise, steps=3, cfg=6.0))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc"])
def test_samplers_of_the_host(family, sampler):
    family, model = family
    output = sample(family, blended(model, rescale=0.2), family.noise(17), steps=3, sampler=sampler)
    assert output.shape == family.noise(17).shape and output.isfinite().all() and output.std() > 0.01


def test_cond_and_uncond_together_or_apart(family, monkeypatch):
    """Offsets are equal for both, in any order."""
    family, model = family
    noise, patched = family.noise(15), blended(model, rescale=0.3)
    together = sample(family, patched, noise, steps=3)
    monkeypatch.setattr(type(patched), "get_free_memory", lambda self, device: 0)
    close(sample(family, patched, noise, steps=3), together, 1e-4)


def test_the_seed_moves_the_seams_and_nothing_else(family):
    family, model = family
    noise = family.noise(15)
    first = sample(family, blended(model, seed=1), noise, steps=3)
    torch.rand(9)  # the global generator may be in any state
    assert torch.equal(sample(family, blended(model, seed=1), noise, steps=3), first)
    others = [sample(family, blended(model, seed=seed), noise) for seed in range(8)]
    shared = [frame for start in (3, 6, 9) for frame in range(start, start + OVERLAP)]
    for other in others[1:]:
        same = [torch.equal(family.part(other, frame, 1), family.part(others[0], frame, 1)) for frame in range(15)]
        assert all(kept for frame, kept in enumerate(same) if frame not in shared)
    assert not all(torch.equal(other, others[0]) for other in others)


def test_the_rescale_is_that_of_dynamicrafters_nodes(host):
    """They compare outputs of the model too: for a model of velocity."""
    from harness import dynamicrafter
    from harness.sampled.dynamicrafter import sample as shot
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.dynamicrafter.sampling import patch_rescale

    name = dynamicrafter.write(host.base / "models" / "checkpoints" / "dynamicrafter_512_blended.safetensors").name
    model = loader.load(name, "256", torch.float32).model  # whose first step magnifies no rounding
    close(shot(blended(model, 16, 4, 5.0, 0.7), cfg=3.0), shot(patch_rescale(model, 0.7)), 1e-4)
    assert shot(blended(model, 8, 4, 5.0, 0.7)).isfinite().all()


def test_a_guider_of_three(host):
    """DynamiCrafter's guider applies its own guidance; guidance in the node is refused."""
    from harness import dynamicrafter
    from harness.sampled.dynamicrafter import conditioning
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.dynamicrafter.sampling import TextImageGuider

    name = dynamicrafter.write(host.base / "models" / "checkpoints" / "dynamicrafter_512_blended.safetensors").name
    model = loader.load(name, precision=torch.float32).model
    family = Family(None, 0, 64, 4)

    def run(model):
        guider = TextImageGuider(model)
        guider.set_conds(*(conditioning(seed, 20, (4, 6)) for seed in (1, 3, 2)))
        guider.set_scales(5.0, 2.0, 0.0)
        return sample(family, model, family.noise(20), steps=2, guider=guider)

    assert run(blended(model, 16, 4, 0.0)).isfinite().all()
    with pytest.raises(ValueError, match="guider uses 3 conditionings; cfg supports 2. Set cfg to 0"):
        run(blended(model, 16, 4, 5.0))


def test_what_cannot_be_blended_is_refused(family, host):
    import comfy.latent_formats
    import comfy.samplers

    family, model = family
    for overlap in (0, LENGTH, LENGTH + 1):
        with pytest.raises(ValueError, match=rf"(overlap by|overlap is) {overlap}; 1 to \d+ is expected"):
            blended(model, overlap=overlap)
    with pytest.raises(ValueError, match="cfg_rescale is 0.2, but cfg is 0"):
        blended(model, guidance=0.0, rescale=0.2)
    alone = comfy.samplers.CFGGuider(blended(model))
    alone.inner_set_conds({"positive": family.conditioning(1)})
    with pytest.raises(ValueError, match="cfg is 4, but the guider has no negative"):
        sample(family, model, family.noise(15), guider=alone)
    sound = model.clone()
    sound.model.latent_format = comfy.latent_formats.StableAudio1()
    with pytest.raises(ValueError, match="a video model is expected"):
        blended(sound)


def test_video_with_its_sound_is_refused(host):
    """Two latents packed into one, as for a tiny LTX-2 of the host's own class."""
    import comfy.model_base
    import comfy.supported_models
    from comfy.nested_tensor import NestedTensor
    from harness.dynamicrafter import random
    from storyreel.host.common.loading import patcher_of, set_precision

    sizes = dict(image_model="ltxav", num_layers=1, caption_channels=16, connector_num_layers=1)
    video = dict(num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16)
    config = comfy.supported_models.LTXAV(
        sizes | video | {f"audio_{name}": value for name, value in video.items()} | dict(in_channels=16)
    )
    set_precision(config, 0, torch.float32)
    model = comfy.model_base.LTXAV(config)
    model.diffusion_model.load_state_dict(random(model.diffusion_model))
    family = Family(None, 2, 32, 16)
    latents = NestedTensor([family.noise(15), torch.zeros(1, 8, 20, 16)])
    guider = comfy.samplers.CFGGuider(blended(patcher_of(model)))
    guider.set_conds(family.conditioning(1), family.conditioning(2))
    sampler = comfy.samplers.sampler_object("euler")
    with pytest.raises(ValueError, match="the LATENT contains audio and video; a LATENT with video only"):
        guider.sample(latents, latents, sampler, torch.tensor([1.0, 0.0]), seed=0, disable_pbar=True)


def test_applied_twice_the_last_one_counts(family):
    """Memory is budgeted for one chunk, once."""
    import comfy.patcher_extension

    family, model = family
    noise, prepared = family.noise(15), comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
    twice = blended(blended(model, 5, 1, 2.0, 0.5, 9), seed=3)
    assert torch.equal(sample(family, twice, noise), sample(family, blended(model, seed=3), noise))
    assert len(twice.get_all_wrappers(prepared)) == 1
    assert "context_handler" not in model.model_options


def refined(model, steps=30, start=599, scaled=True):
    from storyreel.nodes.blending import StoryReelRefineSigmas

    return StoryReelRefineSigmas.execute(model, steps, start, scaled).result


def test_the_noise_levels_of_the_refinement(host):
    from harness.dynamicrafter import random
    from harness.streaming import SIZES
    from storyreel.core.diffusion import refinement
    from storyreel.core.networks.modelscope.unet import UNet
    from storyreel.host.streaming import loader

    model = loader.build_modelscope(random(UNet(SIZES), 1), refines=True, precision=torch.float32)
    patched, sigmas = refined(model)
    assert len(sigmas) == 31 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    times = [model.get_model_object("model_sampling").timestep(sigma).item() for sigma in sigmas[:-1]]
    assert times[0] == 599 and times == [round(time) for time in refinement.refine_timesteps(30)]
    family = FAMILIES["modelscope"]
    noise, scale = family.noise(15), start_scale()
    inputs = {}
    for name, one in (("scaled", patched), ("whole", refined(model, scaled=False)[0])):
        one.set_model_unet_function_wrapper(
            lambda run, args, name=name: (
                inputs.setdefault(name, args["input"]) is not None and run(args["input"], args["timestep"], **args["c"])
            )
        )
        assert sample(family, blended(one, rescale=0.2), noise, sigmas=sigmas[[0, 20, 30]]).isfinite().all()
    close(inputs["scaled"], scale * inputs["whole"])
    assert inputs["whole"].shape[0] == 2 * LENGTH
    with pytest.raises(ValueError, match="MODEL is a ModelScope; MS-Vid2Vid is expected"):
        refined(family.make())
    with pytest.raises(ValueError, match="steps is 700; 1 to 500 is expected"):
        refined(model, 700)
    assert (refined(model, 5, 5)[1].diff() < 0).all()


def test_every_input_and_output_has_a_tooltip(host):
    from storyreel.nodes.blending import NODES

    for node in NODES:
        schema = node.GET_SCHEMA()
        assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])


def test_a_refinement_in_a_prompt(host):
    """Loaded, noised, sampled by the host's nodes; a file that is named for the refiner is one."""
    from comfy_api.latest import io
    from harness import streaming

    family = FAMILIES["modelscope"]
    path = streaming.write(host.base / "models" / "checkpoints" / "my_vid2vid.safetensors", streaming.tiny_modelscope())

    class Inputs(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            kinds = [io.Conditioning, io.Conditioning, io.Latent]
            return io.Schema(node_id="Inputs", inputs=[], outputs=[kind.Output() for kind in kinds])

        @classmethod
        def execute(cls):
            return io.NodeOutput(family.conditioning(1), family.conditioning(2), {"samples": family.noise(17)})

    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    prompt = {
        "load": node("StoryReelStreamingLoader", checkpoint=path.name, model_type="auto", precision="fp32"),
        "inputs": node("Inputs"),
        "levels": node("StoryReelRefineSigmas", model=["load", 0], steps=3, start_timestep=599, scale_start=True),
        "blend": node(
            "StoryReelRandomizedBlending",
            model=["levels", 0],
            chunk_length=LENGTH,
            overlap=OVERLAP,
            cfg=7.5,
            cfg_rescale=0.2,
            seed=4,
        ),
        "sampler": node("KSamplerSelect", sampler_name="dpmpp_2m_sde"),
        "sample": node(
            "SamplerCustom",
            model=["blend", 0],
            add_noise=True,
            noise_seed=0,
            cfg=1.0,
            positive=["inputs", 0],
            negative=["inputs", 1],
            sampler=["sampler", 0],
            sigmas=["levels", 1],
            latent_image=["inputs", 2],
        ),
        "keep": node("SaveLatent", samples=["sample", 0], filename_prefix="refined"),
    }
    with host.node(Inputs):
        run = host.run(prompt)
        assert run.values["sample"][0]["samples"].isfinite().all()
        assert "MS-Vid2Vid" in run.outputs["load"]["text"][0]
        prompt["blend"]["inputs"]["overlap"] = LENGTH
        with pytest.raises(RuntimeError, match="chunks of 6 frames overlap by 6; 1 to 5 is expected"):
            host.run(prompt)
    path.unlink()
