"""Applying a motion: each frame of a video model is conditioned on its own image tokens.

Motion modules turn SD1.5 into a video model. The tokens enter its cross-attention together with the text, as in
StoryDiffusion's paper (arXiv 2405.01434, equation 8), or through IP-Adapter's keys and values, which have public
weights. DynamiCrafter has image tokens for every frame, which the motion's tokens replace.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.motion.trajectory import Trajectory
from ...core.networks.ip_adapter.layers import ImageLayer
from ..attention.sampling_state import batch_indices
from ..common import messages
from ..common.attention_patches import keys_for, remove_patches, standing, warn_overwritten
from ..dynamicrafter.model import TEXT_TOKENS, parts_of
from . import animatediff, ip_adapter
from .animatediff import NODE

KEY = "storyreel_motion"
MODULES, LAYERS = "storyreel_motion_modules", "storyreel_motion_layers"  # additional models of a MODEL
SAMPLING = "model_sampling"
NEGATIVE = "negative"  # in a guider's names of the conds that get the uncond tokens
WRAPPERS = WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE, WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL
TOKEN_SPACES = {
    "ip-plus": "IP-Adapter-Plus",
    "ip": "IP-Adapter",
    "dynamicrafter": "DynamiCrafter",
    "clip": "a CLIP image encoder",
    "dinov2": "DINOv2",
}


@dataclass
class MotionState:
    """The state of one sampling run.

    names: {uuid of a cond: the guider's name for it, such as "negative"}, at the start. uncond: uuids of the conds that
    get the uncond tokens. cache: tokens by call.
    """

    motion: Trajectory
    names: dict = field(default_factory=dict)
    uncond: frozenset = frozenset()
    cache: dict[tuple, Tensor] = field(default_factory=dict)

    def tokens(self, options: dict, rows: int, like: Tensor) -> Tensor:
        """[rows, N, D] for the rows of a forward pass with these transformer_options: frames, cond after cond."""
        conds = options.get("uuids") or [None] * len(options["cond_or_uncond"])
        frames = batch_indices(options, rows // len(conds))
        key = (frames, tuple(conds), like.device, like.dtype)
        if key not in self.cache:
            cond_tokens = self.motion.tokens[list(frames)]
            uncond = self.motion.uncond
            uncond_tokens = cond_tokens if uncond is None else uncond.expand_as(cond_tokens)
            tokens = torch.cat([uncond_tokens if cond in self.uncond else cond_tokens for cond in conds])
            self.cache[key] = tokens.to(like.device, like.dtype)
        return self.cache[key]


class IPAdapterAttention:
    """The attn2 replacement of one block: adds IP-Adapter's attention to the tokens of each frame."""

    def __init__(self, motion: Trajectory, layers: dict[int, ImageLayer], strength: float, previous: Callable | None):
        self.motion, self.layers, self.strength, self.previous = motion, layers, strength, previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        heads = extra_options["n_heads"]
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        else:
            precision = extra_options["attn_precision"]
            out = optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)
        tokens = state_of(extra_options, self.motion).tokens(extra_options, len(q), q)
        layer = self.layers[extra_options["block_index"]]
        with layer.attend.use(extra_options):
            return out + self.strength * layer(q, tokens, heads)

    def add(self, *args, **kwargs):
        """IP-Adapter packs call this on the attention that stands where they put theirs."""
        raise ValueError(
            f"{NODE} comes before another node that changes the cross-attention of the MODEL, such as an IP-Adapter. "
            f"Place {NODE} behind it."
        )


def state_of(options: dict, motion: Trajectory) -> MotionState:
    """The state of the current run; without a sampler all conds get the motion's tokens."""
    return options.get(KEY) or MotionState(motion)


def apply_to_sd15(
    model: ModelPatcher,
    motion: Trajectory,
    module: str | None,
    adapter: str | None,
    strength: float = 1.0,
    own_schedule: bool = True,
) -> ModelPatcher:
    """A clone whose latent batch is one clip that follows the motion.

    module: file of the motion modules, None = frames are sampled independently. adapter: file of the IP-Adapter whose
    keys and values read the tokens, None = the tokens are appended to the text. own_schedule: use the noise schedule
    that AnimateDiff was trained with instead of the model's.

    A second application replaces the first. Raises ValueError for files, model and motion that do not match.
    """
    unet = animatediff.unet_of(model)
    if motion.token_space == "dynamicrafter":
        raise ValueError(
            "the STORYREEL_MOTION has tokens of DynamiCrafter, which do not fit SD1.5; choose IP-Adapter as "
            "token_space in Load Motion Predictor, or DynamiCrafter as decoder."
        )
    patched = model.clone()
    remove(patched)
    keys = []
    if adapter is None:
        _check_width(unet, motion)
    elif strength:
        keys = _patch_cross_attention(patched, unet, motion, adapter, strength)
    else:
        messages.warn("strength is 0, so the motion has no effect; raise it to follow the motion.")
    if module is not None:
        modules = animatediff.load(module)
        animatediff.check_fit(module, unet, modules.model.config)
        patched.set_additional_models(MODULES, [modules])
        sampling = patched.get_model_object(SAMPLING)
        if own_schedule and isinstance(sampling, ModelSamplingDiscrete):
            ours = animatediff_sampling(sampling)
            patched.set_attachments(KEY, (ours, patched.object_patches.get(SAMPLING)))
            patched.add_object_patch(SAMPLING, ours)
        elif own_schedule:
            messages.warn(f"noise_schedule has no effect on this MODEL, which samples by {type(sampling).__name__}.")
    if module is not None or adapter is None:
        network = None if module is None else modules.model
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _around_unet(motion, network, adapter is None))
    _track_runs(patched, motion, keys)
    return patched


def apply_to_dynamicrafter(model: ModelPatcher, motion: Trajectory) -> ModelPatcher:
    """A clone of a DynamiCrafter model whose image tokens are the motion's, except in the uncond.

    Raises ValueError for another model, and for a motion of another token space or another checkpoint.
    """
    sizes = parts_of(model).sizes
    if motion.token_space != "dynamicrafter":
        raise ValueError(
            f"the STORYREEL_MOTION has tokens of {TOKEN_SPACES[motion.token_space]}, which do not fit "
            "DynamiCrafter; choose DynamiCrafter as token_space in Load Motion Predictor."
        )
    found, expected = tuple(motion.tokens.shape[1:]), (sizes.image_tokens, sizes.context_dim)
    if found != expected:
        raise ValueError(
            f"the STORYREEL_MOTION has {found[0]} tokens of width {found[1]} per frame, and this DynamiCrafter "
            f"checkpoint expects {expected[0]} of width {expected[1]}; predict the motion with this model."
        )
    patched = model.clone()
    remove(patched)

    def around_model(
        executor, x, t, c_concat=None, c_crossattn: Any = None, control=None, transformer_options: Any = None, **kwargs
    ):
        state = state_of(transformer_options, motion)
        window, clips = transformer_options.get("context_window"), len(c_crossattn)
        frames = window.index_list if window is not None else range(len(x) // clips)
        tokens, slots = motion.tokens[list(frames)].flatten(0, 1), c_crossattn.shape[1] - TEXT_TOKENS
        if len(tokens) != slots:
            raise ValueError(
                f"{NODE}: {len(frames)} frames are sampled at once, and this DynamiCrafter checkpoint expects "
                f"{slots // sizes.image_tokens}; use that many frames, or Context Windows of that length."
            )
        c_crossattn = c_crossattn.clone()
        for number, cond in enumerate(transformer_options.get("uuids") or [None] * clips):
            if cond not in state.uncond:
                c_crossattn[number, TEXT_TOKENS:] = tokens
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around_model)
    _track_runs(patched, motion)
    return patched


def animatediff_sampling(sampling: ModelSamplingDiscrete) -> ModelSamplingDiscrete:
    """The same kind of sampling with AnimateDiff's schedule, linear betas, which the host calls "sqrt_linear"."""
    settings = {"beta_schedule": "sqrt_linear", "zsnr": sampling.zsnr}
    return type(sampling)(SimpleNamespace(sampling_settings=settings))


def remove(model: ModelPatcher) -> None:
    """Remove an earlier application, and restore what it wrapped."""
    remove_patches(model, "attn2", IPAdapterAttention)
    ours, previous = model.get_attachment(KEY) or (None, None)
    if ours is not None and model.object_patches.get(SAMPLING) is ours:
        model.object_patches.pop(SAMPLING)
        if previous is not None:
            model.add_object_patch(SAMPLING, previous)
    model.remove_attachments(KEY)
    for kind in WRAPPERS:
        model.remove_wrappers_with_key(kind, KEY)
    for key in (MODULES, LAYERS):
        model.remove_additional_models(key)


def _around_unet(motion: Trajectory, modules, append_to_text: bool):
    def around(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        if append_to_text:
            tokens = state_of(transformer_options, motion).tokens(transformer_options, len(x), context)
            context = torch.cat([context, tokens], dim=1)
        args = x, timesteps, context, y, control, transformer_options
        if modules is None:
            return executor(*args, **kwargs)
        with animatediff.inserted_modules(executor.class_obj, modules, len(x), transformer_options):
            return executor(*args, **kwargs)

    return around


def _track_runs(patched: ModelPatcher, motion: Trajectory, keys: Sequence[tuple] = ()) -> None:
    """Give every sampling run a `MotionState`. keys: of our attention patches, which later nodes may have replaced."""
    node = messages.current_node()

    def around(executor, noise, *args, **kwargs):
        guider = executor.class_obj
        if len(noise) != len(motion):
            raise ValueError(
                f"{NODE}: the STORYREEL_MOTION has {len(motion)} frames, and the LATENT has {len(noise)}; both must "
                "be equal."
            )
        warn_overwritten(NODE, guider.model_options, "attn2", IPAdapterAttention, keys, node)
        names = {cond["uuid"]: name for name, conds in guider.conds.items() for cond in conds or ()}
        guider.model_options["transformer_options"][KEY] = MotionState(motion, names)
        return executor(noise, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)


def _around_sampler(executor, guider, sigmas, extra_args, *args, **kwargs):
    state = extra_args["model_options"]["transformer_options"].get(KEY)
    if state is not None:
        state.uncond = _uncond_ids(guider.conds, state.names)
    return executor(guider, sigmas, extra_args, *args, **kwargs)


def _uncond_ids(conds_by_name: dict[str, list], names: dict) -> frozenset:
    """uuids of the negative conds. For a positive cond with an area, the host copies it with its uuid to the negative
    ones, and the other way around: such a copy gets a new uuid."""
    uncond = set()
    for name, conds in conds_by_name.items():
        for cond in conds or ():
            if names.get(cond["uuid"], name) != name:
                cond["uuid"] = uuid.uuid4()
            if NEGATIVE in name:
                uncond.add(cond["uuid"])
    return frozenset(uncond)


def _patch_cross_attention(patched: ModelPatcher, unet, motion: Trajectory, adapter: str, strength: float) -> list:
    """Returns the keys of the patches."""
    layers, token_space = ip_adapter.load_layers(adapter)
    if token_space != motion.token_space:
        raise ValueError(
            f"{adapter} is {TOKEN_SPACES[token_space]}, and the STORYREEL_MOTION has tokens of "
            f"{TOKEN_SPACES[motion.token_space]}."
        )
    ip_adapter.check_fit(adapter, unet, layers.model, motion.tokens.shape[-1])
    patched.set_additional_models(LAYERS, [layers])
    previous = dict(standing(patched.model_options, "attn2"))
    blocks: dict[tuple[str, int], dict[int, ImageLayer]] = {}
    for number, item in ip_adapter.cross_attention_layers(unet).items():
        blocks.setdefault(item.block, {})[item.index] = layers.model[number]
    keys = []
    for block, found in blocks.items():
        for key in keys_for(block, found, previous):
            patched.set_model_attn2_replace(IPAdapterAttention(motion, found, strength, previous.get(key)), *key)
            keys.append(key)
    return keys


def _check_width(unet, motion: Trajectory) -> None:
    widths = {item.layer.to_k.weight.shape[1] for item in ip_adapter.cross_attention_layers(unet).values()}
    if widths != {motion.tokens.shape[-1]}:
        raise ValueError(
            f"the STORYREEL_MOTION has tokens of width {motion.tokens.shape[-1]}, and this MODEL expects "
            f"width {', '.join(map(str, widths))}."
        )
