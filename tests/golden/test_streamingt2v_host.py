"""StreamingSVD's parts around the host's own Stable Video Diffusion, against the published whole."""

from types import SimpleNamespace

import pytest
import torch
from harness.golden import Golden, difference, files, part, procedural
from harness.streaming import Refiner, nearest_timestep

SYSTEM = "streamingt2v"
WHOLE, SAMPLED = 1e-4, 1e-3  # absolute: the data's README


class StreamingSVD:
    """The host's UNet with injectors as patches, and its encoder once more as CAM's feature extractor."""

    def __init__(self, golden: Golden):
        from storyreel.core.networks.streaming import keys
        from storyreel.core.networks.streaming.config import read_frame_encoder
        from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
        from storyreel.core.networks.streaming.injector import Injector

        weights = procedural(golden.manifest(), golden.value("seed"))
        spec, unet = golden.value("unet"), part(weights, "model.diffusion_model.")
        self.frames, self.memory_frames = golden.value("F"), golden.value("n_cond")
        self.unet = svd_unet(unet, spec["num_head_channels"])
        injectors = keys.read_injectors(unet)
        widths = [injectors[f"{number}.norm.weight"].shape[0] for number in range(len(self.unet.input_blocks) + 1)]
        self.injectors = torch.nn.ModuleList([Injector(width) for width in widths])
        self.injectors.load_state_dict(injectors)
        control = part(weights, "controlnet.")
        encoder = part(control, keys.FRAME_ENCODER)
        sizes = read_frame_encoder({name: tensor.shape for name, tensor in encoder.items()})
        self.frame_encoder = FrameEncoder(**sizes)
        self.frame_encoder.load_state_dict(encoder)
        self.extractor = svd_unet(unet | control, spec["num_head_channels"])
        self.extractor.output_blocks, self.extractor.out = torch.nn.ModuleList(), torch.nn.Identity()

    def features(self, frames, x, **conditioning) -> list[torch.Tensor]:
        """CAM's features. x and conditioning: of all frames of uncond and cond, of which the first of each are used."""
        clips = len(x) // self.frames

        def first(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.unflatten(0, (clips, -1))[:, : self.memory_frames].flatten(0, 1)

        frame_features = self.frame_encoder(frames.expand(clips, -1, -1, -1, -1).flatten(0, 1))
        left = []

        def add_frames(h, options):
            left.append(h + frame_features if options["block"] == ("input", 0) else h)
            return left[-1]

        conditioning = {name: first(tensor) for name, tensor in conditioning.items()}
        middle = call(self.extractor, first(x), self.memory_frames, {"input_block_patch": [add_frames]}, **conditioning)
        return [*left, middle]

    def __call__(self, x, memory=None, **conditioning) -> torch.Tensor:
        clips = len(x) // self.frames

        def behind_middle(state):
            return state | {"h": self.injectors[-1](state["h"], memory[-1], clips)}

        def after_output(h, skip, options):
            number = len(memory) - 2 - options["block"][1]
            return h, self.injectors[number](skip, memory[number], clips)

        patches = {"middle_block_after_patch": [behind_middle], "output_block_patch": [after_output]}
        return call(self.unet, x, self.frames, patches if memory else {}, **conditioning)


def svd_unet(weights: dict, head_channels: int):
    import comfy.model_detection
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = comfy.model_detection.detect_unet_config(weights, "")
    config |= dict(num_head_channels=head_channels, num_heads=-1, dtype=torch.float32)
    unet = UNetModel(**config, operations=comfy.ops.disable_weight_init).eval()
    missing, unexpected = unet.load_state_dict(weights, strict=False)
    assert not missing and all("merger" in name or "controlnet" in name for name in unexpected)
    return unet


def call(unet, x, frames, patches, *, c_noise, concat, crossattn, vector) -> torch.Tensor:
    indicator = torch.zeros(len(x) // frames, frames)
    options = {"patches": patches}
    arguments = dict(num_video_frames=frames, image_only_indicator=indicator, transformer_options=options)
    return unet(torch.cat([x, concat], dim=1), c_noise, crossattn, vector, **arguments)


@pytest.fixture(params=files(SYSTEM, "svd_unet_cam.safetensors"))
def streaming(request, host):
    golden = Golden(request.param)
    return golden, StreamingSVD(golden)


BLANK = ("concat", "crossattn")  # zeros in the unconditional input
CONDITIONING = ("c_noise", "concat", "crossattn", "vector")


@torch.no_grad()
def test_cam_with_the_hosts_own_unet(streaming):
    golden, model = streaming
    x, conditioning = golden["in.x"], {name: golden[f"in.{name}"] for name in CONDITIONING}
    assert difference(model(x, **conditioning), golden["out.v_nocam"]) <= WHOLE
    memory = model.features(golden["in.ctrl_frames"], x, **conditioning)
    assert difference(memory[0], golden["out.cam_0"]) <= WHOLE
    assert difference(memory[-2], golden["out.cam_last"]) <= WHOLE
    assert difference(memory[-1], golden["out.cam_mid"]) <= WHOLE
    assert difference(model(x, memory, **conditioning), golden["out.v"]) <= WHOLE


@torch.no_grad()
def test_a_whole_chunk_of_streamingsvd(streaming, host):
    """The host's Euler. Guidance grows evenly along the frames, as the host's VideoLinearCFGGuidance has it."""
    import comfy.k_diffusion.sampling
    import comfy.model_sampling

    golden, model = streaming
    conditioning = {name: golden[f"in.{name}"].chunk(2)[1] for name in CONDITIONING}
    uncond = {name: torch.zeros_like(t) if name in BLANK else t for name, t in conditioning.items()}
    conditioning = {name: torch.cat([uncond[name], t]) for name, t in conditioning.items()}
    sampling = comfy.model_sampling.V_PREDICTION()
    sampling.sigma_data = 1.0
    scales = golden["sample.guider_scale"].flatten()
    tables = golden.named(r"tables\.guider_(\d+)")
    assert all(len(table) == frames for (frames,), table in tables.items())
    for table in (scales, *tables.values()):
        assert difference(torch.linspace(table[0], table[-1], len(table)), table) <= 1e-6

    def denoise(x, sigma):
        conditioning["c_noise"] = (0.25 * sigma.log()).repeat(2)
        scaled = sampling.calculate_input(sigma, x).repeat(2, 1, 1, 1)
        v = model(scaled, model.features(golden["in.ctrl_frames"], scaled, **conditioning), **conditioning)
        uncond, cond = sampling.calculate_denoised(sigma.repeat(2), v, x.repeat(2, 1, 1, 1)).chunk(2)
        return uncond + scales[:, None, None, None] * (cond - uncond)

    sigmas = golden["sample.sigmas"]
    x = golden["sample.noise"] * (1 + sigmas[0] ** 2) ** 0.5
    sample = comfy.k_diffusion.sampling.sample_euler(denoise, x, sigmas, disable=True)
    assert difference(sample, golden["sample.out"]) <= SAMPLED


@pytest.mark.parametrize("path", files(SYSTEM, "randomized_blending_v2v.safetensors"))
@pytest.mark.parametrize("case", ["multi", "brownian"])
def test_blending_under_the_hosts_own_sampler(path, case, host):
    """DPM++ 2M SDE of the host around a blended model; one noise for the whole clip."""
    import comfy.k_diffusion.sampling
    import comfy.model_sampling

    golden = Golden(path)
    refiner = Refiner(golden)
    sigmas = golden["sigmas_k"]  # a Brownian path distinguishes levels that differ by rounding
    offsets = iter(golden[f"{case}.offsets"].tolist())

    class Model:
        inner_model = SimpleNamespace(
            model_patcher=SimpleNamespace(get_model_object=lambda name: comfy.model_sampling.EPS())
        )

        def __call__(self, x, sigma, **_):
            k = sigma[0].item()
            return refiner.denoised(x / (k**2 + 1) ** 0.5, nearest_timestep(k), next(offsets))

    noise = iter(golden[f"{case}.step_noise"]) if case == "multi" else None
    clip = refiner.noised() * sigmas[0]
    sampled = comfy.k_diffusion.sampling.sample_dpmpp_2m_sde(
        Model(),
        clip,
        sigmas,
        extra_args={"seed": 0},
        disable=True,
        noise_sampler=noise and (lambda sigma, sigma_next: next(noise)),
    )
    assert difference(sampled, golden[f"{case}.out"]) <= WHOLE
    assert next(offsets, None) is None


@pytest.mark.parametrize("path", files(SYSTEM, "svd_unet_cam.safetensors"))
def test_the_hosts_node_gives_the_noise_levels_of_streamingsvd(host, path):
    """*AlignYourStepsScheduler* goes from the second to last published level to 0, without the last one, 0.002."""
    from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler

    golden = Golden(path)
    tables = golden.named(r"tables\.ays_sigmas_(\d+)")
    assert all(len(table) == steps + 1 for (steps,), table in tables.items())
    for table in (*tables.values(), golden["sample.sigmas"]):
        (sigmas,) = AlignYourStepsScheduler.execute("SVD", len(table) - 2, 1.0).result
        torch.testing.assert_close(sigmas[:-1], table[:-2], rtol=1e-5, atol=0)
        assert sigmas[-1] == table[-1] == 0
