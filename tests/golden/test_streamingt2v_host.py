"""StreamingSVD's parts around the host's own Stable Video Diffusion, against the published whole."""

import pytest
import torch
from harness.golden import Golden, difference, files, part, procedural

SYSTEM = "streamingt2v"
WHOLE, SAMPLED = 1e-4, 1e-3  # absolute: the data's README


class StreamingSVD:
    """The host's UNet with injectors as patches, and its encoder once more as CAM's feature extractor."""

    def __init__(self, golden: Golden):
        from storyreel.core.networks.streaming import keys
        from storyreel.core.networks.streaming.config import read_frame_encoder
        from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
        from storyreel.core.networks.streaming.injector import Injector

        weights = procedural(golden.manifest(), golden.said("seed"))
        said, unet = golden.said("unet"), part(weights, "model.diffusion_model.")
        self.frames, self.memory_frames = golden.said("F"), golden.said("n_cond")
        self.unet = svd_unet(unet, said["num_head_channels"])
        injectors = keys.read_injectors(unet)
        widths = [injectors[f"{number}.norm.weight"].shape[0] for number in range(len(self.unet.input_blocks) + 1)]
        self.injectors = torch.nn.ModuleList([Injector(width) for width in widths])
        self.injectors.load_state_dict(injectors)
        control = part(weights, "controlnet.")
        encoder = part(control, keys.FRAME_ENCODER)
        sizes = read_frame_encoder({name: tensor.shape for name, tensor in encoder.items()})
        self.frame_encoder = FrameEncoder(**sizes)
        self.frame_encoder.load_state_dict(encoder)
        self.extractor = svd_unet(unet | control, said["num_head_channels"])
        self.extractor.output_blocks, self.extractor.out = torch.nn.ModuleList(), torch.nn.Identity()

    def features(self, frames, x, **told) -> list[torch.Tensor]:
        """x and what is told: of all frames of both halves of the guidance, of which each half's first see."""
        clips = len(x) // self.frames

        def first(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.unflatten(0, (clips, -1))[:, : self.memory_frames].flatten(0, 1)

        seen = self.frame_encoder(frames.expand(clips, -1, -1, -1, -1).flatten(0, 1))
        left = []

        def look(h, options):
            left.append(h + seen if options["block"] == ("input", 0) else h)
            return left[-1]

        told = {name: first(tensor) for name, tensor in told.items()}
        middle = call(self.extractor, first(x), self.memory_frames, {"input_block_patch": [look]}, **told)
        return [*left, middle]

    def __call__(self, x, memory=None, **told) -> torch.Tensor:
        clips = len(x) // self.frames

        def behind_middle(state):
            return state | {"h": self.injectors[-1](state["h"], memory[-1], clips)}

        def beside_output(h, skip, options):
            number = len(memory) - 2 - options["block"][1]
            return h, self.injectors[number](skip, memory[number], clips)

        patches = {"middle_block_after_patch": [behind_middle], "output_block_patch": [beside_output]}
        return call(self.unet, x, self.frames, patches if memory else {}, **told)


def svd_unet(weights: dict, head_channels: int):
    import comfy.model_detection
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = comfy.model_detection.detect_unet_config(weights, "")
    config |= dict(num_head_channels=head_channels, num_heads=-1, dtype=torch.float32)
    unet = UNetModel(**config, operations=comfy.ops.disable_weight_init).eval()
    _, unexpected = unet.load_state_dict(weights, strict=False)
    assert all("merger" in name or "controlnet" in name for name in unexpected)
    return unet


def call(unet, x, frames, patches, *, c_noise, concat, crossattn, vector) -> torch.Tensor:
    indicator = torch.zeros(len(x) // frames, frames)
    options = {"patches": patches}
    told = dict(num_video_frames=frames, image_only_indicator=indicator, transformer_options=options)
    return unet(torch.cat([x, concat], dim=1), c_noise, crossattn, vector, **told)


@pytest.fixture(params=files(SYSTEM, "svd_unet_cam.safetensors"))
def streaming(request, host):
    golden = Golden(request.param)
    return golden, StreamingSVD(golden)


TOLD = ("c_noise", "concat", "crossattn", "vector")


@torch.no_grad()
def test_cam_beside_the_hosts_own_unet(streaming):
    golden, model = streaming
    x, told = golden["in.x"], {name: golden[f"in.{name}"] for name in TOLD}
    assert difference(model(x, **told), golden["out.v_nocam"]) <= WHOLE
    memory = model.features(golden["in.ctrl_frames"], x, **told)
    assert difference(memory[0], golden["out.cam_0"]) <= WHOLE
    assert difference(memory[-2], golden["out.cam_last"]) <= WHOLE
    assert difference(memory[-1], golden["out.cam_mid"]) <= WHOLE
    assert difference(model(x, memory, **told), golden["out.v"]) <= WHOLE
