"""StreamingT2V's networks in the tests, from the published keys, and the linear network of its blending data."""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from storyreel.core.diffusion import blending, guidance, prediction, refinement
from storyreel.core.networks.modelscope.config import UNetConfig
from storyreel.core.networks.modelscope.unet import UNet
from storyreel.core.networks.streaming import keys
from storyreel.core.networks.streaming.appearance import TokenExpander
from storyreel.core.networks.streaming.config import StreamingConfig, read_config
from storyreel.core.networks.streaming.model import ConditionalUNet, FeatureExtractor, StreamingT2V

from . import tiny
from .dynamicrafter import random
from .golden import Golden, part, procedural


def shapes(weights: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict(weights)
    return network.eval()


def streaming_model(listed: dict, seed: int) -> StreamingT2V:
    weights = procedural(listed, seed)
    unet = keys.read_unet(part(weights, keys.UNET))
    extractor = keys.read_extractor(part(weights, keys.EXTRACTOR))
    model = StreamingT2V(read_config(shapes(unet), shapes(extractor)))
    return load(model, unet | {f"extractor.{key}": weight for key, weight in extractor.items()})


class LinearNetwork:
    """The data's linear network, which predicts velocity, and the starts of its chunks."""

    def __init__(self, golden: Golden):
        self.golden = golden
        self.length, self.overlap, self.frames = (golden.value(name) for name in ("chunk", "ov", "total_frames"))
        self.starts = blending.chunk_starts(self.frames, self.length, self.overlap)
        assert len(self.starts) == golden.value("n")

    def parts(self, clip: torch.Tensor) -> list[torch.Tensor]:
        return [clip[:, :, start : start + self.length] for start in self.starts]

    def net(self, x: torch.Tensor, timestep: float, y: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("fg,bcghw->bcfhw", self.golden["toy.M"], x)
        return mixed * (1 - 0.5 * timestep / 1000) + y[:, None, None, None] * self.golden["toy.bias"]

    def guided(self, x: torch.Tensor, timestep: float, scale: float, added=0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """(guided, conditional). added: to the conditioning."""
        cond, uncond = (self.net(x, timestep, self.golden[name] + added) for name in ("toy.y", "toy.y_neg"))
        return uncond + scale * (cond - uncond), cond


class Refiner(LinearNetwork):
    """MS-Vid2Vid's denoised clip, blended."""

    def __init__(self, golden: Golden):
        super().__init__(golden)
        self.signal, self.noise = refinement.signal_and_noise()

    def noised(self) -> torch.Tensor:
        start = self.golden.value("tnl") - 1
        return (self.signal[start] * self.golden["in.x0"] + self.noise[start] * self.golden["in.noise"]).float()

    def denoised(self, x: torch.Tensor, timestep: int, offsets: list[int]) -> torch.Tensor:
        chunks = []
        for chunk in self.parts(x):
            v, cond = self.guided(chunk, timestep, self.golden.value("cfg"))
            v = guidance.rescale_guidance(v, cond, self.golden.value("resc"))
            chunks.append(prediction.x0_of_v(chunk, v, self.signal[timestep], self.noise[timestep]).float())
        return blending.blend(chunks, self.starts, [0, *offsets])


MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
SIZES = UNetConfig(
    model_channels=64, channel_mult=(1, 2), num_res_blocks=1, attention=(True, False), head_channels=16, context_dim=64
)
STREAMING = StreamingConfig(SIZES, frame_widths=(8, 12, 16, 24), image_tokens=4)
STORYWORLD = StreamingConfig(  # between Storyworld's encoders and its autoencoder
    replace(SIZES, in_channels=12, out_channels=12, context_dim=96), frame_widths=(8, 12, 16, 24), image_tokens=4
)
MERGER = "cross_attention_merger_"


def tiny_modelscope(sizes: UNetConfig = SIZES) -> dict[str, torch.Tensor]:
    """Weights of ModelScope's network, tiny, in the original layout."""
    weights = random(UNet(sizes), 1)
    temporal = (".2.proj_in.weight", ".2.proj_out.weight", "input_blocks.0.1.proj_in.weight")
    return {key: t[..., None] if key.endswith(temporal) else t for key, t in weights.items()}


def tiny_streaming(sizes: StreamingConfig = STREAMING) -> dict[str, torch.Tensor]:
    """Weights of StreamingT2V, tiny: published prefixes and merger names, and the original layout within."""
    network, extractor = ConditionalUNet(sizes), FeatureExtractor(sizes)
    expander = TokenExpander(sizes.unet.context_dim, 16, sizes.image_tokens)
    return {
        **{keys.UNET + merger_name(key, len(network.injectors)): t for key, t in random(network, 1).items()},
        **{keys.EXTRACTOR + encoder_name(key): t for key, t in random(extractor, 2).items()},
        **{keys.EXPANDER + key: t for key, t in random(expander, 3).items()},
    }


def encoder_name(key: str) -> str:
    """The published name of a frame encoder's weight; of any other, its own."""
    return key.replace("frame_encoder.", keys.FRAME_ENCODER)


def merger_name(key: str, count: int, blocks: str = "down_blocks") -> str:
    """The published name of an injector's weight; of any other, its own."""
    if not key.startswith("injectors."):
        return key
    _, number, rest = key.split(".", 2)
    place = "mid_block" if int(number) == count - 1 else f"{blocks}.{number}"
    return f"{MERGER}{place}.temporal_transformer.{rest}"


def write(path: Path, weights: dict[str, torch.Tensor], metadata: dict | None = None) -> Path:
    """A file of the host's: safetensors, or a pickle by its name. metadata: of a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: tensor.contiguous() for key, tensor in weights.items()}
    if path.suffix == ".safetensors":
        save_file(weights, path, metadata and {"storyreel_streaming": json.dumps(metadata)})
    else:
        torch.save({"state_dict": weights}, path)
    return path


def write_storyworld(path: Path) -> Path:
    """A tiny StreamingT2V between Storyworld's encoders and its autoencoder."""
    latents = {"spread": 1.0, "rgb": [[0.1, 0.2, 0.3]] * (STORYWORLD.unet.in_channels + 1)}
    return write(path, tiny_streaming(STORYWORLD), {"latents": latents, "v_prediction": True})


def write_for_workflows(name: str, folder: Path) -> Path:
    """The stand-in of a published checkpoint, unless it is there: a tiny network, between encoders of full width if a
    file of this `name` carries them. The autoencoder is the small one of the other stand-ins."""
    path = folder / f"{name}.ckpt"
    if path.exists():
        return path
    if "vid2vid" in name:
        weights = tiny_modelscope(replace(SIZES, context_dim=768))
    elif "svd" in name:
        visual = encoder_shapes("streaming_svd", "conditioner.embedders.0.open_clip.model.visual.")
        weights = tiny_svd(1024) | tiny.random_weights([*visual, *tiny.vae()])
    else:
        encoders = encoder_shapes("streaming_t2v", "text_encoder.", "image_encoder.")
        vae = [(f"vae.{key}", shape) for key, shape in tiny.plain_vae()]
        weights = tiny_streaming(replace(STREAMING, unet=replace(SIZES, context_dim=1024), image_tokens=16))
        weights |= tiny.random_weights([*encoders, *vae])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights}, path)
    return path


def encoder_shapes(file: str, *prefixes: str) -> list[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of the encoders of a published checkpoint."""
    listed = json.loads((MANIFESTS / f"{file}.json").read_text())
    return [(key, tuple(shape)) for key, shape in listed.items() if key.startswith(prefixes)]


def tiny_svd(context: int = 64) -> dict[str, torch.Tensor]:
    """Weights of StreamingSVD, tiny, in the published layout, without encoders."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
    from storyreel.core.networks.streaming.injector import Injector

    sizes = dict(image_size=32, in_channels=8, out_channels=4, model_channels=64, num_res_blocks=[1, 1])
    sizes |= dict(channel_mult=[1, 2], transformer_depth=[1, 0], transformer_depth_output=[1, 1, 0, 0])
    sizes |= dict(transformer_depth_middle=1, context_dim=context, adm_in_channels=768, num_classes="sequential")
    sizes |= dict(num_heads=-1, num_head_channels=64, use_linear_in_transformer=True, use_spatial_transformer=True)
    sizes |= dict(use_temporal_attention=True, use_temporal_resblock=True, video_kernel_size=[3, 1, 1], legacy=False)
    sizes |= dict(extra_ff_mix_layer=True, use_spatial_context=True, merge_strategy="learned_with_images")
    unet = UNetModel(**sizes, merge_factor=0.0, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    weights = random(unet, 1)
    down = {key: 0.9 * t for key, t in weights.items() if not key.startswith(("output_blocks.", "out."))}
    injectors = torch.nn.ModuleList([Injector(width) for width in (64, 64, 64, 128, 128)])
    injectors = {f"injectors.{key}": t for key, t in random(injectors, 2).items()}
    encoder = random(FrameEncoder((8, 12, 16, 24), 64, normalized=True), 3)
    return {
        **{f"model.diffusion_model.{key}": t for key, t in weights.items()},
        **{f"model.diffusion_model.{merger_name(key, 5, 'input_blocks')}": t for key, t in injectors.items()},
        **{f"controlnet.{key}": t for key, t in down.items()},
        **{f"controlnet.{keys.FRAME_ENCODER}{key}": t for key, t in encoder.items()},
    }


def start_scale(start: int = refinement.START) -> float:
    """The factor of x_0 + k noise at the start of the published sampler, sigma of `start`; 1 would be correct."""
    return refinement.signal_and_noise()[1][start].item()


def nearest_timestep(k: float) -> int:
    """The timestep that the published refiner gives the model for a noise level."""
    logs = (-refinement.log_snr() / 2).numpy()
    wanted = math.log(k)
    after = min(max(int((logs < wanted).sum()), 1), len(logs) - 1)
    share = (wanted - logs[after - 1]) / (logs[after] - logs[after - 1])
    return round(after - 1 + min(max(share, 0.0), 1.0))
