"""Tiny models of the host's diffusion transformers, in the host's own classes, and their attention by brute force.

Each entry states for itself where the image stands in the sequence of an attention call, as the network's class has it;
nothing here is read from `host/attention`.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from storyreel.core.attention import draws

from . import brute

TEXT = 5  # tokens of a prompt
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Tiny:
    """One family.

    config: name of the class in comfy.supported_models. sizes: of the network. channels, patch: of its latents, and how
    many of their pixels a token is wide. blocks: [(block_type, count)]. padded: text and image are padded to multiples
    of this. times: latent frames, for models that have them.
    rope: channels of a head by axis, and the theta of each; None = no rotary positions. halves: pairs are half a head
    apart. reference: how far away on the first axis editing models see a reference image.
    """

    config: str
    sizes: dict
    rope: tuple[tuple[int, ...], tuple[float, ...]] | None
    channels: int = 16
    patch: int = 2
    blocks: tuple[tuple[str | None, int], ...] = (("double", 2),)
    padded: int = 1
    times: tuple[int, ...] = ()
    halves: bool = False
    reference: float | None = None


FLUX = dict(
    image_model="flux", in_channels=16, out_channels=16, vec_in_dim=8, context_in_dim=12, hidden_size=32, mlp_ratio=2.0,
    num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[4, 6, 6], theta=10000, patch_size=2, qkv_bias=True,
    guidance_embed=True, txt_ids_dims=[],
)  # fmt: skip
FLUX2 = FLUX | dict(
    image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, axes_dim=[4, 4, 4, 4], theta=2000,
    patch_size=1, qkv_bias=False, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
    default_ref_method="index", ref_index_scale=10.0, guidance_embed=False,
)  # fmt: skip
CHROMA = dict(
    image_model="chroma", in_channels=64, out_channels=64, context_in_dim=12, hidden_size=32, mlp_ratio=2.0,
    num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[4, 6, 6], theta=10000, patch_size=2, qkv_bias=True,
    in_dim=64, out_dim=32, hidden_dim=32, n_layers=1, txt_ids_dims=[], vec_in_dim=None,
)  # fmt: skip
LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
    n_kv_heads=1, qk_norm=True, cap_feat_dim=12, axes_dims=[4, 6, 6], axes_lens=[300, 512, 512], rope_theta=10000.0,
    ffn_dim_multiplier=1.0, multiple_of=8,
)  # fmt: skip
Z_IMAGE = LUMINA | dict(
    z_image_modulation=True, pad_tokens_multiple=32, rope_theta=256.0, dim=256, n_heads=16, n_kv_heads=16
)  # its timesteps are 256 wide
SD3 = dict(
    in_channels=16, patch_size=2, depth=2, input_size=None, adm_in_channels=8, context_embedder_config={
        "target": "torch.nn.Linear", "params": {"in_features": 12, "out_features": 128}
    }, num_blocks=2, pos_embed_max_size=16, pos_embed_scaling_factor=None, qk_norm="rms",
)  # fmt: skip
COSMOS = dict(
    image_model="cosmos_predict2", max_img_h=64, max_img_w=64, max_frames=8, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=32, num_blocks=2, num_heads=2,
    mlp_ratio=2.0, crossattn_emb_channels=12, pos_emb_cls="rope3d", pos_emb_learnable=False,
    pos_emb_interpolation="crop",
    min_fps=1, max_fps=30, use_adaln_lora=True, adaln_lora_dim=8, rope_h_extrapolation_ratio=4.0,
    rope_w_extrapolation_ratio=4.0, rope_t_extrapolation_ratio=1.0, extra_per_block_abs_pos_emb=False,
    rope_enable_fps_modulation=False,
)  # fmt: skip
WAN = dict(
    image_model="wan2.1", model_type="t2v", patch_size=(1, 2, 2), in_dim=16, dim=32, ffn_dim=32, freq_dim=32,
    text_dim=12, out_dim=16, num_heads=2, num_layers=2,
)  # fmt: skip
QWEN = dict(
    image_model="qwen_image", in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16,
    num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
KREA2 = dict(
    image_model="krea2", features=32, tdim=32, txtdim=6, heads=2, kvheads=1, multiplier=2, layers=3, patch=2,
    channels=16, txtlayers=2, txtheads=1, txtkvheads=1,
)  # fmt: skip

DOUBLE_SINGLE = (("double", 2), ("single", 2))
THREE = (4, 6, 6), (10000.0,) * 3
FAMILIES = {
    "flux": Tiny("Flux", FLUX, THREE, blocks=DOUBLE_SINGLE, reference=1.0),
    "flux2": Tiny("Flux2", FLUX2, ((4, 4, 4, 4), (2000.0,) * 4), channels=128, patch=1, blocks=DOUBLE_SINGLE,
                  reference=10.0),
    "chroma": Tiny("Chroma", CHROMA, THREE, blocks=DOUBLE_SINGLE),
    "qwen": Tiny("QwenImage", QWEN, THREE, times=(1,), reference=1.0),
    "zimage": Tiny("ZImage", Z_IMAGE, ((4, 6, 6), (256.0,) * 3), padded=32),
    "lumina2": Tiny("Lumina2", LUMINA, THREE),
    "sd3": Tiny("SD3", SD3, None, blocks=((None, 2),)),
    "krea2": Tiny("Krea2", KREA2, ((4, 6, 6), (1000.0,) * 3), blocks=(("single", 3),), times=(1,),
                  reference=1.0),
    "cosmos": Tiny("CosmosT2IPredict2", COSMOS, ((8, 4, 4), (10000.0, 160000.0, 160000.0)), blocks=((None, 2),),
                   times=(1,), halves=True),
    "anima": Tiny("Anima", COSMOS | {"image_model": "anima"}, ((8, 4, 4), (10000.0, 160000.0, 160000.0)),
                  blocks=((None, 2),), times=(1,), halves=True),
    "wan": Tiny("WAN21_T2V", WAN, ((8, 4, 4), (10000.0,) * 3), times=(1,)),
    "vace": Tiny("WAN21_Vace", WAN | dict(model_type="vace", vace_layers=1, vace_in_dim=96),
                 ((8, 4, 4), (10000.0,) * 3), times=(1,)),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, **changed):
    """The MODEL of a family, on random weights; skips the test where the host lacks its class."""
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    if not hasattr(comfy.supported_models, FAMILIES[name].config):
        pytest.skip(f"this ComfyUI has no {FAMILIES[name].config}")
    tiny = FAMILIES[name]
    config = getattr(comfy.supported_models, tiny.config)(tiny.sizes | changed)
    set_precision(config, 0, dtype)
    model = config.get_model({})
    if hasattr(model.diffusion_model, "llm_adapter"):
        model.diffusion_model.llm_adapter = None  # makes texts of token ids, and is a thousand times as large
    fill(model.diffusion_model, 7)
    return patcher_of(model)


def fill(network: torch.nn.Module, seed: int) -> None:
    """Random weights: matrices keep the scale of what they multiply, vectors lie around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = math.prod(parameter.shape[1:])
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.1 + 1 if parameter.ndim < 2 else noise * fan_in**-0.5)


ENCODER_WIDTH = 64
LANGUAGE_MODEL = dict(hidden_size=64, num_attention_heads=1, num_key_value_heads=1, intermediate_size=64)
T5 = dict(d_model=64, d_ff=64, d_kv=32, num_heads=2, num_layers=2)
CLIP_L = dict(
    hidden_size=64, intermediate_size=64, num_attention_heads=1, num_hidden_layers=2, projection_dim=64
)  # fmt: skip
ENCODERS = {  # module, tokenizer, what makes the model, and the sizes of its parts
    "qwen": ("qwen_image", "QwenImageTokenizer", "te", {"qwen25_7b": LANGUAGE_MODEL | {"num_hidden_layers": 3}}),
    "zimage": ("z_image", "ZImageTokenizer", "te", {"qwen3_4b": LANGUAGE_MODEL | {"num_hidden_layers": 3}}),
    "flux2": ("flux", "KleinTokenizer", "klein_te", {"qwen3_4b": LANGUAGE_MODEL | {"num_hidden_layers": 28}}),
    "flux2 dev": ("flux", "Flux2Tokenizer", "flux2_te",
                  {"mistral3_24b": LANGUAGE_MODEL | {"num_hidden_layers": 31, "vocab_size": 200}}),
    "krea2": ("krea2", "Krea2Tokenizer", "te", {"qwen3vl_4b": LANGUAGE_MODEL | {"num_hidden_layers": 36}}),
    "anima": ("anima", "AnimaTokenizer", "te", {"qwen3_06b": LANGUAGE_MODEL | {"num_hidden_layers": 3}}),
    "chroma": ("pixart_t5", "PixArtTokenizer", "pixart_te", {"t5xxl": T5}),
    "flux": ("flux", "FluxTokenizer", "flux_clip", {"t5xxl": T5, "clip_l": CLIP_L}),
}  # fmt: skip
WIDTHS = {  # of networks that read these texts
    "qwen": {"joint_attention_dim": ENCODER_WIDTH},
    "zimage": {"cap_feat_dim": ENCODER_WIDTH},
    "lumina2": {"cap_feat_dim": ENCODER_WIDTH},
    "flux2": {"context_in_dim": 3 * ENCODER_WIDTH},
    "krea2": {"txtdim": ENCODER_WIDTH, "txtlayers": 12},
    "chroma": {"context_in_dim": ENCODER_WIDTH},
    "flux": {"context_in_dim": ENCODER_WIDTH, "vec_in_dim": ENCODER_WIDTH},
}


class Letters:
    """For Flux.2 dev, whose own vocabulary is in the checkpoint: one token a letter, and no padding."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text, return_word_ids=False, **options):
        return {"mistral3_24b": [[(1, 1.0), *((20 + ord(letter) % 90, 1.0) for letter in text)]]}


def text_encoder(name: str):
    """The CLIP of a family with its own tokenizer, in the host's own class, on random weights."""
    import comfy.sd
    import comfy.supported_models_base

    file, tokenizer, build, sizes = ENCODERS[name]
    module = pytest.importorskip(f"comfy.text_encoders.{file}")
    tokenizer = Letters if name == "flux2 dev" else getattr(module, tokenizer)
    target = comfy.supported_models_base.ClipTarget(tokenizer, getattr(module, build)())
    clip = comfy.sd.CLIP(target, model_options={f"{key}_model_config": config for key, config in sizes.items()})
    for key in sizes:
        network = getattr(clip.cond_stage_model, key).transformer
        if hasattr(network, "visual"):
            network.visual = None  # sees images, and is a hundred times as large
        fill(network, 8)
    return clip


def conditioning(images: int, seed: int, tokens: int = TEXT, **options) -> list:
    generator = torch.Generator().manual_seed(seed)
    options.setdefault("pooled_output", torch.randn(images, 8, generator=generator))
    return [[torch.randn(images, tokens, 12, generator=generator), options]]


def latent(name: str, images: int = 3, height: int = 8, width: int = 6, times: int | None = None) -> dict:
    """Latents whose image is height / patch x width / patch tokens."""
    tiny = FAMILIES[name]
    shape = ((times or 1,) if tiny.times else ()) + (height, width)
    return {"samples": torch.zeros(images, tiny.channels, *shape)}


def sample(model, positive, negative, latent, *, steps=2, cfg=3.0, sampler="euler", seed=1):
    """What the KSampler node returns."""
    import nodes

    with torch.no_grad():
        return nodes.common_ksampler(model, seed, steps, cfg, sampler, "simple", positive, negative, latent)[0][
            "samples"
        ]


def with_override(model, override):
    """The model with an override of its attention, as other packs set it."""
    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


class Override:
    """Stands in the place of a family's self-attention over the image; subclasses say what it gives.

    Blocks are told apart by their order in a forward pass, which begins with new sigmas or other conds.
    """

    def __init__(self, name: str, grid: tuple[int, ...], references: int = 0):
        self.tiny, self.grid, self.references = FAMILIES[name], grid, references
        self.tokens = math.prod(grid)
        self.sigmas, self.conds_run, self.seen, self.calls = None, None, set(), 0

    def __call__(self, func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        forward = options["sigmas"], options["cond_or_uncond"]
        if forward[0] is not self.sigmas or forward[1] != self.conds_run:
            (self.sigmas, self.conds_run), self.seen, self.calls = forward, set(), 0
        block = self.block(options)
        if block is None:
            return func(q, k, v, heads, *args, **kwargs)
        mask = args[0] if args else kwargs.get("mask")
        if kwargs.get("skip_reshape"):
            q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        else:
            q, k, v = (tensor.reshape(*tensor.shape[:2], heads, -1) for tensor in (q, k, v))
        padding = -self.tokens % self.tiny.padded
        behind = padding + (self.references if self.tiny.config != "ZImage" else 0)
        first = k.shape[1] - self.tokens - behind
        return self.attend(q, k, v, first, mask, options, block).flatten(2).to(q.dtype)

    def block(self, options):
        if self.tiny.config == "SD3":  # its calls do not say which block they are of
            self.calls += 1
            return self.calls - 1
        if self.tiny.halves:  # Cosmos: self-attention, then cross-attention; old hosts do not name the block
            self.calls += 1
            return None if self.calls % 2 == 0 else self.calls // 2
        key = options.get("block_type"), options.get("block_index")
        numbers = {(kind, i) for kind, count in self.tiny.blocks for i in range(count)}
        if key not in numbers or key in self.seen:
            return None
        self.seen.add(key)
        before = 0 if key[0] == self.tiny.blocks[0][0] else self.tiny.blocks[0][1]
        return before + key[1]


class BruteForce(Override):
    """Consistent Self-Attention in float64: every query's softmax over the keys that the definition names.

    drawn(frame, step): indices of the image tokens that a frame shares. sources(frame): the frames that it reads.
    """

    def __init__(self, name, grid, drawn, sources, *, references=0, strength=1.0, positions="same", blocks=None,
                 borrows=None, conds=(0, 1)):  # fmt: skip
        super().__init__(name, grid, references)
        self.drawn, self.sources, self.strength, self.positions = drawn, sources, strength, positions
        self.blocks = set(range(99)) if blocks is None else blocks
        self.borrows, self.conds = borrows, conds

    def attend(self, q, k, v, first, mask, options, block):
        kinds = options["cond_or_uncond"]
        images, heads = len(q) // len(kinds), q.shape[2]
        step = float(f"{min(s for s in options['sample_sigmas'].tolist() if s >= float(self.sigmas[0]) * 0.99999):.6g}")
        moved = k.double() if self.positions == "same" else self.move(k)
        out = []
        for row in range(len(q)):
            frame, chunk = row % images, row // images
            kept = torch.ones(k.shape[1]) if mask is None else (mask[min(row, len(mask) - 1)].flatten() == 0).double()
            keys, values, counts = [k[row].double()], [v[row].double()], [kept]
            if block in self.blocks and kinds[chunk] in self.conds:
                for other in self.sources(frame):
                    drawn = self.drawn(other, step) + first
                    source = chunk * images + other
                    keys.append(moved[source, drawn])
                    values.append(v[source, drawn].double())
                    counts.append(torch.full((len(drawn),), self.strength))
            everything = [torch.cat(parts) for parts in (keys, values)]
            flat = [part.flatten(1)[None] for part in everything]
            shared = brute.attention(q[row].flatten(1), *flat, heads, torch.cat(counts)[None])
            plain = brute.attention(
                q[row].flatten(1), k[row].flatten(1)[None], v[row].flatten(1)[None], heads, kept[None]
            )
            image = torch.zeros(q.shape[1], 1, dtype=torch.bool)
            image[first : first + self.tokens] = True if self.borrows is None else self.borrows[frame][:, None]
            out.append(torch.where(image, shared, plain))
        return torch.stack(out).unflatten(-1, (heads, -1))

    def move(self, keys):
        """The keys at their new positions, by complex numbers."""
        channels, thetas = self.tiny.rope
        shift = [0.0] * len(channels)
        if self.positions == "beside":
            shift[2] = self.grid[-1]
        elif self.positions == "reference":
            shift[0] = self.tiny.reference
        factors = []
        for size, theta, distance in zip(channels, thetas, shift, strict=True):
            pairs = size // 2
            for i in range(pairs):
                scale = 0.5 + 0.5 * i / max(1, pairs - 1) if self.positions == "dimmed" else 1.0
                angle = distance * theta ** (-2 * i / size)
                factors.append(complex(scale * math.cos(angle), scale * math.sin(angle)))
        factors = torch.tensor(factors, dtype=torch.complex128)
        keys = keys.double()
        if self.tiny.halves:
            turned = torch.complex(*keys.chunk(2, -1)) * factors
            return torch.cat((turned.real, turned.imag), -1)
        turned = torch.complex(keys[..., 0::2], keys[..., 1::2]) * factors
        return torch.stack((turned.real, turned.imag), -1).flatten(-2)


class OneSequence(Override):
    """The host's own attention over the tokens of all images as one sequence, under a mask: text and padding of a row
    are for that row alone, image tokens are read by all images."""

    def attend(self, q, k, v, first, mask, options, block):
        from comfy.ldm.modules.attention import optimized_attention

        assert mask is None
        kinds, heads = options["cond_or_uncond"], q.shape[2]
        rows, tokens = len(q), q.shape[1]
        images = rows // len(kinds)
        row = torch.arange(rows).repeat_interleave(tokens)
        place = torch.arange(tokens).repeat(rows)
        image = (place >= first) & (place < first + self.tokens)
        same_cond = (row // images)[:, None] == (row // images)
        allowed = (row[:, None] == row) | (image[:, None] & image & same_cond)
        bias = torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf)
        together = (tensor.flatten(0, 1).flatten(1)[None] for tensor in (q, k, v))
        out = optimized_attention(*together, heads, mask=bias)
        return out.view(rows, tokens, heads, -1)


def conds(images=3, **options):
    """(positive, negative) of so many prompts and one."""
    return conditioning(images, 1, **options), conditioning(1, 2, **options)


def grid_of(name, latents) -> tuple[int, ...]:
    """The image in tokens."""
    patch = FAMILIES[name].patch
    *times, height, width = latents["samples"].shape[2:]
    return (*times, -(-height // patch), -(-width // patch))


def brute_force(name, latents, *, rate=0.5, seed=0, kind=BruteForce, **options) -> BruteForce:
    """The definition for a run of these latents. Everybody reads everybody, unless `sources` says otherwise."""
    grid, images = grid_of(name, latents), len(latents["samples"])
    tokens = math.prod(grid)
    options.setdefault("sources", lambda frame: [other for other in range(images) if other != frame])
    options.setdefault("drawn", lambda frame, step: draws.sample_each(seed, step, 16, frame, tokens, rate))
    return kind(name, grid, **options)


def assert_close(ours, reference, tolerance=TOLERANCE):
    difference = (ours - reference).abs().max() / reference.abs().max()
    assert difference <= tolerance, f"differs by {difference:.2g} of the largest value"
