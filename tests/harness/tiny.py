"""Tiny checkpoints that the host's stock loaders take for real ones: tensors of full shape in a small file.

A `.ckpt` keeps strides. So a weight W[i, j, ...] = s[start + i + flat(j, ...)] is a view of one short random vector s,
a matrix of full rank (a Hankel matrix) whose file holds only s. The weights are random: they paint noise.

    python tests/harness/tiny.py HOST_FOLDER OUT_FOLDER NAME...
"""

import math
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

NARROW = 64  # channels of `narrow_sd15`

Shapes = Iterator[tuple[str, tuple[int, ...]]]

# The widths are the published ones, except that every level of a UNet is as wide as the first; the host recognises a
# family by the keys below, by the input side's transformer depths and by nothing else.
UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, use_spatial_transformer=True, legacy=False
)
SD15 = dict(num_heads=8, num_head_channels=-1, context_dim=768, use_linear_in_transformer=False)
SD2 = dict(num_heads=-1, num_head_channels=64, context_dim=1024, use_linear_in_transformer=True)
SDXL = dict(
    num_heads=-1,
    num_head_channels=64,
    context_dim=2048,
    use_linear_in_transformer=True,
    adm_in_channels=2816,
    num_classes="sequential",
)
ONE_LEVEL = dict(
    num_res_blocks=[1],
    channel_mult=[1],
    transformer_depth=[1],
    transformer_depth_middle=1,
    transformer_depth_output=[1, 1],
)
FOUR_LEVELS = dict(
    num_res_blocks=[2] * 4,
    channel_mult=[1] * 4,
    transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
    transformer_depth_middle=1,
    transformer_depth_output=[1] * 9 + [0] * 3,
)
SLIM = dict(  # SDXL has 10 in the middle and 36 on the output side
    num_res_blocks=[2] * 3,
    channel_mult=[1] * 3,
    transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_middle=1,
    transformer_depth_output=[0, 0, 0, 1, 1, 1, 1, 1, 1],
)


def unet(**config) -> Shapes:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    operations = comfy.ops.disable_weight_init
    model = UNetModel(**UNET, **config, dtype=torch.float16, device="meta", operations=operations)
    for name, tensor in model.state_dict().items():
        yield f"model.diffusion_model.{name}", tuple(tensor.shape)


def narrow_sd15(dtype: torch.dtype = torch.float32):
    """A MODEL with SD1.5's own block layout and 16 transformers, a fifth as wide: for what does not depend on loading,
    in a tenth of the time. dtype: of its weights and of what it computes."""
    return _narrow("SD15", "BaseModel", SD15 | FOUR_LEVELS, dtype)


def narrow_sdxl(dtype: torch.dtype = torch.float32):
    """As `narrow_sd15`, with the prompts and the levels of SDXL."""
    return _narrow("SDXL", "SDXL", SDXL | SLIM, dtype)


def _narrow(family: str, network: str, sizes: dict, dtype: torch.dtype):
    import comfy.model_base
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    sizes = UNET | sizes | dict(model_channels=NARROW)
    config = getattr(comfy.supported_models, family)(dict(sizes))
    config.unet_config |= {name: sizes[name] for name in ("num_heads", "num_head_channels")}
    set_precision(config, 0, dtype)
    config.manual_cast_dtype = None
    model = getattr(comfy.model_base, network)(config)
    unet = model.diffusion_model
    shapes = [(name, tuple(tensor.shape)) for name, tensor in unet.state_dict().items()]
    unet.load_state_dict(random_weights(shapes))
    return patcher_of(model)


def sdxl_clip(layers: int = 3):
    """A CLIP of SDXL's two text towers at their published widths, a tenth as deep: 0.6 GB in place of 3.3."""
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base
    from storyreel.host.common.text_encoder import attach_projections

    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    shallow = {f"clip_{tower}_model_config": {"num_hidden_layers": layers} for tower in "lg"}
    clip = comfy.sd.CLIP(target, model_options=shallow)
    towers = clip.cond_stage_model
    towers.load_state_dict(random_weights((name, tuple(tensor.shape)) for name, tensor in towers.state_dict().items()))
    attach_projections(clip, towers.state_dict())
    return clip


def shallow_photomaker(layers: int = 2):
    """The host's PhotoMaker on random weights, with fewer layers than its 24."""
    import comfy_extras.nodes_photomaker as module

    published = module.VISION_CONFIG_DICT
    module.VISION_CONFIG_DICT = published | {"num_hidden_layers": layers}
    try:
        encoder = module.PhotoMakerIDEncoder()
    finally:
        module.VISION_CONFIG_DICT = published
    encoder.load_state_dict(random_weights(shapes_of(encoder)))
    return encoder.requires_grad_(False)


def vae(channels: int = 4, **config) -> Shapes:
    """The KL autoencoder; the encoder's width is fixed by the loader, the decoder is a quarter as wide."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    encoder = dict(double_z=True, z_channels=channels, resolution=256, in_channels=3, out_ch=3, ch=128)
    encoder |= dict(ch_mult=[1, 2, 4, 4], num_res_blocks=2, attn_resolutions=[], dropout=0.0, **config)
    with torch.device("meta"):
        model = AutoencoderKL(ddconfig=encoder, embed_dim=channels, decoder_ddconfig=dict(encoder, ch=32))
    for name, tensor in model.state_dict().items():
        yield f"first_stage_model.{name}", tuple(tensor.shape)


def clip_l(prefix: str) -> Shapes:
    """CLIP-L's text tower, 12 layers of 768, under the names that SD1.5 and SDXL files use."""
    width = 768
    yield f"{prefix}embeddings.token_embedding.weight", (49408, width)
    yield f"{prefix}embeddings.position_embedding.weight", (77, width)
    for layer in range(12):
        block = f"{prefix}encoder.layers.{layer}."
        for norm in ("layer_norm1", "layer_norm2"):
            yield from _affine(block + norm, (width,))
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _affine(f"{block}self_attn.{projection}", (width, width))
        yield from _affine(block + "mlp.fc1", (4 * width, width))
        yield from _affine(block + "mlp.fc2", (width, 4 * width))
    yield from _affine(f"{prefix}final_layer_norm", (width,))


def open_clip(prefix: str, width: int, layers: int) -> Shapes:
    """An OpenCLIP text tower (H: 1024 wide, 24 layers; G: 1280 wide, 32 layers) under OpenCLIP's own names."""
    yield f"{prefix}token_embedding.weight", (49408, width)
    yield f"{prefix}positional_embedding", (77, width)
    yield f"{prefix}text_projection", (width, width)
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}."
        yield from _affine(block + "ln_1", (width,))
        yield from _affine(block + "ln_2", (width,))
        yield f"{block}attn.in_proj_weight", (3 * width, width)
        yield f"{block}attn.in_proj_bias", (3 * width,)
        yield from _affine(block + "attn.out_proj", (width, width))
        yield from _affine(block + "mlp.c_fc", (4 * width, width))
        yield from _affine(block + "mlp.c_proj", (width, 4 * width))
    yield from _affine(f"{prefix}ln_final", (width,))


def _affine(name: str, shape: tuple[int, ...]) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _sd15(layout: dict) -> Shapes:
    yield from unet(**SD15, **layout)
    yield from clip_l("cond_stage_model.transformer.text_model.")
    yield from vae()


def _sd2(layout: dict) -> Shapes:
    yield from unet(**SD2, **layout)
    yield from open_clip("cond_stage_model.model.", 1024, 24)
    yield from vae()


def _sdxl(layout: dict, clip: bool) -> Shapes:
    yield from unet(**SDXL, **layout)
    if clip:
        yield from clip_l("conditioner.embedders.0.transformer.text_model.")
        yield from open_clip("conditioner.embedders.1.model.", 1280, 32)
    yield from vae()


def vision_l() -> Shapes:
    """CLIP ViT-L/14's image tower as transformers names it, 24 layers of 1024: half of ViT-H's work."""
    import json

    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops

    config = json.loads((Path(comfy.clip_vision.__file__).parent / "clip_vision_config_vitl.json").read_text())
    model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, "meta", comfy.ops.disable_weight_init)
    for name, tensor in model.state_dict().items():
        yield name, tuple(tensor.shape)


def photomaker() -> Shapes:
    """PhotoMaker's image encoder: vision_l, a second projection and what fuses an image with a word."""
    import comfy.ops
    import comfy_extras.nodes_photomaker as module

    yield from vision_l()
    yield "visual_projection_2.weight", (1280, 1024)
    with torch.device("meta"):
        yield from shapes_of(module.FuseModule(2048, comfy.ops.disable_weight_init), "fuse_module.")


def plain_vae(channels: int = 4, **config) -> Shapes:
    for name, shape in vae(channels, **config):
        yield name.removeprefix("first_stage_model."), shape


def motion_module() -> Shapes:
    """AnimateDiff v2 for `sd15`, which has one level."""
    from storyreel.core.networks.animatediff.config import MotionConfig
    from storyreel.core.networks.animatediff.module import MotionModules

    with torch.device("meta"):
        yield from shapes_of(MotionModules(MotionConfig(((320,),), ((320, 320),), 320, 32)))


def ip_adapter() -> Shapes:
    """IP-Adapter-Plus for `sd15` and ViT-L/14; its Resampler is narrow inside."""
    from storyreel.core.networks.dynamicrafter.config import ResamplerConfig
    from storyreel.core.networks.ip_adapter.layers import ImageLayers
    from storyreel.core.networks.ip_adapter.projection import build_projection

    with torch.device("meta"):
        yield from shapes_of(build_projection(ResamplerConfig(64, 1, 1, 64, 16, 1024, 768, 2)), "image_proj.")
        yield from shapes_of(ImageLayers({str(number): (768, 320) for number in (1, 3, 5, 7)}), "ip_adapter.")


def shapes_of(network: torch.nn.Module, prefix: str = "") -> Shapes:
    for name, tensor in network.state_dict().items():
        yield prefix + name, tuple(tensor.shape)


CHECKPOINTS = {
    "sd15": lambda: _sd15(ONE_LEVEL),  # one level: attention at input 1, middle 0, output 0 and 1
    "sd15_full": lambda: _sd15(FOUR_LEVELS),  # SD1.5's own block layout, 16 transformers
    "sd2": lambda: _sd2(ONE_LEVEL),
    "sd2_full": lambda: _sd2(FOUR_LEVELS),
    "sdxl": lambda: _sdxl(SLIM, clip=True),  # 1 G parameters once loaded
    "sdxl_slim": lambda: _sdxl(SLIM, clip=False),  # its CLIP output is None
    "vit_l": vision_l,  # for models/clip_vision
    "vae": plain_vae,  # for models/vae
    "mm_v2": motion_module,  # for models/animatediff_models
    "ip_plus": ip_adapter,  # for models/ipadapter
    "photomaker": photomaker,  # for models/photomaker; 0.3 G parameters once loaded
}


class Weights:
    """Random tensors of any shape, as views of one vector each for a standard deviation."""

    def __init__(self, shapes: list[tuple[str, tuple[int, ...]]]):
        generator = torch.Generator().manual_seed(0)
        self.offsets = 1009
        longest = max(sum(self._extent(shape)) for _, shape in shapes) + self.offsets
        self.noise = torch.randn(longest, generator=generator)
        self.vectors: dict[float, torch.Tensor] = {}

    @staticmethod
    def _extent(shape: tuple[int, ...]) -> tuple[int, int]:
        return (shape or (1,))[0], math.prod(shape[1:])

    def view(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if not shape:
            return torch.ones((), dtype=torch.float16)
        if len(shape) == 1:
            # A norm's gain and a variance lie around 1, a bias around 0.
            std, mean = 0.02, float(name.endswith(("weight", "running_var")))
        else:
            std, mean = (0.05 if "embedding" in name else self._extent(shape)[1] ** -0.5), 0.0
        key = (std, mean)
        if key not in self.vectors:
            self.vectors[key] = (self.noise * std + mean).half()
        strides = (1, *(math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))))
        start = zlib.crc32(name.encode()) % self.offsets  # so that two layers differ
        return self.vectors[key].as_strided(shape, strides, start)


def write(name: str, folder: Path, files: dict[str, Callable[[], Shapes]] = CHECKPOINTS) -> Path:
    """Write file `name` of `files` into `folder` unless it is there; the bytes are the same every time."""
    path = Path(folder) / f"{name}.ckpt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": random_weights(files[name]())}, path)
    return path


def random_weights(shapes: Shapes) -> dict[str, torch.Tensor]:
    shapes = list(shapes)
    weights = Weights(shapes)
    return {key: weights.view(key, shape) for key, shape in shapes}


if __name__ == "__main__":
    host, out, *names = sys.argv[1:]
    sys.path.insert(0, host)
    from comfy.cli_args import args

    args.cpu = True
    for name in names:
        print(write(name, Path(out)))
