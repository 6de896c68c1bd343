"""Decoding a motion: each frame of a video model looks at its own image tokens.

SD1.5 becomes a video model by motion modules. It looks at the tokens beside the text, as in StoryDiffusion's paper
(arXiv 2405.01434, equation 8), or through IP-Adapter's keys and values, for which public weights exist. DynamiCrafter
has image tokens for every frame, and these take their place.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.motion.trajectory import Trajectory
from ...core.networks.ip_adapter.layers import ImageLayer
from ..attention.shared import batch_indices
from ..common import messages
from ..common.attention_patches import keys_for, standing, take_out, warn_of_lost
from ..dynamicrafter.model import TEXT_TOKENS, parts_of
from . import animatediff, ip_adapter
from .animatediff import NODE

KEY = "storyreel_motion"
MODULES, LAYERS = "storyreel_motion_modules", "storyreel_motion_layers"  # additional models of a MODEL
SAMPLING = "model_sampling"
NEGATIVE = "negative"  # in guiders' names of the conds that are told of no picture
WRAPPERS = WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE, WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL
SPACES = {"ip-plus": "IP-Adapter-Plus", "ip": "IP-Adapter", "dynamicrafter": "DynamiCrafter"}


@dataclass
class Run:
    """What one sampling run remembers: which conds see no picture, and the tokens of the calls so far.

    sides: the guider's name of the conds that each was given as, by uuid.
    """

    motion: Trajectory
    sides: dict = field(default_factory=dict)
    blind: frozenset = frozenset()
    told: dict[tuple, Tensor] = field(default_factory=dict)

    def tokens(self, options: dict, rows: int, like: Tensor) -> Tensor:
        """[rows, N, D] for the rows of a forward pass under these transformer_options: frames, cond after cond."""
        conds = options.get("uuids") or [None] * len(options["cond_or_uncond"])
        frames = batch_indices(options, rows // len(conds))
        key = (frames, tuple(conds), like.device, like.dtype)
        if key not in self.told:
            seen = self.motion.tokens[list(frames)]
            nothing = seen if self.motion.nothing is None else self.motion.nothing.expand_as(seen)
            rows = torch.cat([nothing if cond in self.blind else seen for cond in conds])
            self.told[key] = rows.to(like.device, like.dtype)
        return self.told[key]


class LookAtFrame:
    """The attn2 replacement of one block: its layers also look at the tokens of their frame."""

    def __init__(self, motion: Trajectory, layers: dict[int, ImageLayer], strength: float, previous: Callable | None):
        self.motion, self.layers, self.strength, self.previous = motion, layers, strength, previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        heads = extra_options["n_heads"]
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        else:
            precision = extra_options["attn_precision"]
            out = optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)
        tokens = run_of(extra_options, self.motion).tokens(extra_options, len(q), q)
        layer = self.layers[extra_options["block_index"]]
        with layer.attend.under(extra_options):
            return out + self.strength * layer(q, tokens, heads)


def run_of(options: dict, motion: Trajectory) -> Run:
    """The run under way; outside of any sampler every cond sees the pictures."""
    return options.get(KEY) or Run(motion)


def apply_to_sd15(
    model: ModelPatcher,
    motion: Trajectory,
    module: str | None,
    adapter: str | None,
    strength: float = 1.0,
    own_schedule: bool = True,
) -> ModelPatcher:
    """A clone whose batch is a clip that follows the motion.

    module: file of the motion modules, None = frames know nothing of each other. adapter: file of IP-Adapter whose keys
    and values look at the tokens, None = they are appended to the text. own_schedule: the noise schedule that
    AnimateDiff was trained with, in place of the model's.

    Applied again, it takes the place of the earlier application. Raises ValueError for files, model and motion that do
    not go together.
    """
    unet = animatediff.unet_of(model)
    if motion.space == "dynamicrafter":
        raise ValueError(
            f"{NODE}: the STORYREEL_MOTION is of DynamiCrafter and feeds no SD1.5; predict it with IP-Adapter as the "
            "space of Load Motion Predictor, or choose DynamiCrafter as the decoder."
        )
    patched = model.clone()
    remove(patched)
    keys = []
    if adapter is None:
        _check_width(unet, motion)
    elif strength:
        keys = _look_through_adapter(patched, unet, motion, adapter, strength)
    else:
        messages.warn(f"{NODE}: strength is 0, so no frame looks at the motion; raise it to follow the motion.")
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
            messages.warn(
                f"{NODE}: noise_schedule has no effect on this MODEL, whose sampling is a {type(sampling).__name__}."
            )
    if module is not None or adapter is None:
        held = None if module is None else modules.model
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _around_unet(motion, held, adapter is None))
    _remember(patched, motion, keys)
    return patched


def apply_to_dynamicrafter(model: ModelPatcher, motion: Trajectory) -> ModelPatcher:
    """A clone of a DynamiCrafter model that follows the motion wherever it saw the start picture.

    Raises ValueError for another model, and for a motion of another space or another checkpoint.
    """
    sizes = parts_of(model).sizes
    if motion.space != "dynamicrafter":
        raise ValueError(
            f"{NODE}: the STORYREEL_MOTION is of {SPACES[motion.space]} and feeds no DynamiCrafter; predict it with "
            "DynamiCrafter as the space of Load Motion Predictor."
        )
    made, found = tuple(motion.tokens.shape[1:]), (sizes.image_tokens, sizes.context_dim)
    if made != found:
        raise ValueError(
            f"{NODE}: the STORYREEL_MOTION has {made[0]} tokens of width {made[1]} a frame, and this DynamiCrafter "
            f"checkpoint reads {found[0]} of width {found[1]}; predict it with this very model."
        )
    patched = model.clone()
    remove(patched)

    def around_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        run = run_of(transformer_options, motion)
        window, clips = transformer_options.get("context_window"), len(c_crossattn)
        frames = window.index_list if window is not None else range(len(x) // clips)
        tokens, slots = motion.tokens[list(frames)].flatten(0, 1), c_crossattn.shape[1] - TEXT_TOKENS
        if len(tokens) != slots:
            raise ValueError(
                f"{NODE}: {len(frames)} frames are sampled at once, and this DynamiCrafter checkpoint makes image "
                f"tokens for {slots // sizes.image_tokens}; take as many, or the host's Context Windows of that length."
            )
        c_crossattn = c_crossattn.clone()
        for number, cond in enumerate(transformer_options.get("uuids") or [None] * clips):
            if cond not in run.blind:
                c_crossattn[number, TEXT_TOKENS:] = tokens
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around_model)
    _remember(patched, motion)
    return patched


def animatediff_sampling(sampling: ModelSamplingDiscrete) -> ModelSamplingDiscrete:
    """The same kind of sampling under AnimateDiff's schedule: betas in even steps, the host's "sqrt_linear"."""
    settings = {"beta_schedule": "sqrt_linear", "zsnr": sampling.zsnr}
    return type(sampling)(SimpleNamespace(sampling_settings=settings))


def remove(model: ModelPatcher) -> None:
    """Take an earlier application out, and put back what it had wrapped."""
    take_out(model, "attn2", LookAtFrame)
    ours, before = model.get_attachment(KEY) or (None, None)
    if ours is not None and model.object_patches.get(SAMPLING) is ours:
        model.object_patches.pop(SAMPLING)
        if before is not None:
            model.add_object_patch(SAMPLING, before)
    model.remove_attachments(KEY)
    for kind in WRAPPERS:
        model.remove_wrappers_with_key(kind, KEY)
    for key in (MODULES, LAYERS):
        model.remove_additional_models(key)


def _around_unet(motion: Trajectory, modules, beside_text: bool):
    def around(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        if beside_text:
            tokens = run_of(transformer_options, motion).tokens(transformer_options, len(x), context)
            context = torch.cat([context, tokens], dim=1)
        told = x, timesteps, context, y, control, transformer_options
        if modules is None:
            return executor(*told, **kwargs)
        with animatediff.in_their_places(executor.class_obj, modules, len(x), transformer_options):
            return executor(*told, **kwargs)

    return around


def _remember(patched: ModelPatcher, motion: Trajectory, keys: Sequence[tuple] = ()) -> None:
    """Have every sampling run remember its own `Run`. keys: of the patches that must still stand then."""

    node = messages.current_node()

    def around(executor, noise, *args, **kwargs):
        guider = executor.class_obj
        if len(noise) != len(motion):
            raise ValueError(
                f"{NODE}: the STORYREEL_MOTION has {len(motion)} frames, and the LATENT holds {len(noise)}; both must "
                "have as many."
            )
        warn_of_lost(NODE, guider.model_options, "attn2", LookAtFrame, keys, node)
        sides = {cond["uuid"]: name for name, conds in guider.conds.items() for cond in conds or ()}
        guider.model_options["transformer_options"][KEY] = Run(motion, sides)
        return executor(noise, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)


def _around_sampler(executor, guider, sigmas, extra_args, *args, **kwargs):
    run = extra_args["model_options"]["transformer_options"].get(KEY)
    if run is not None:
        run.blind = _blind(guider.conds, run.sides)
    return executor(guider, sigmas, extra_args, *args, **kwargs)


def _blind(sides: dict[str, list], given: dict) -> frozenset:
    """The conds that are told of no picture. For an area of one side the host puts a copy of its cond among the other
    side's, its uuid too: that one gets a uuid of its own."""
    blind = set()
    for name, conds in sides.items():
        for cond in conds or ():
            if given.get(cond["uuid"], name) != name:
                cond["uuid"] = uuid.uuid4()
            if NEGATIVE in name:
                blind.add(cond["uuid"])
    return frozenset(blind)


def _look_through_adapter(patched: ModelPatcher, unet, motion: Trajectory, adapter: str, strength: float) -> list:
    """Returns the keys of the patches."""
    layers, space = ip_adapter.load_layers(adapter)
    if space != motion.space:
        raise ValueError(
            f"{NODE}: {adapter} is {SPACES[space]}, and the STORYREEL_MOTION was made with {SPACES[motion.space]}."
        )
    ip_adapter.check_fit(adapter, unet, layers.model, motion.tokens.shape[-1])
    patched.set_additional_models(LAYERS, [layers])
    before = dict(standing(patched.model_options, "attn2"))
    blocks: dict[tuple[str, int], dict[int, ImageLayer]] = {}
    for number, look in ip_adapter.looks_of(unet).items():
        blocks.setdefault(look.block, {})[look.index] = layers.model[number]
    keys = []
    for block, found in blocks.items():
        for key in keys_for(block, found, before):
            patched.set_model_attn2_replace(LookAtFrame(motion, found, strength, before.get(key)), *key)
            keys.append(key)
    return keys


def _check_width(unet, motion: Trajectory) -> None:
    widths = {look.layer.to_k.weight.shape[1] for look in ip_adapter.looks_of(unet).values()}
    if widths != {motion.tokens.shape[-1]}:
        raise ValueError(
            f"{NODE}: the STORYREEL_MOTION has tokens of width {motion.tokens.shape[-1]}, and this MODEL reads text of "
            f"width {', '.join(map(str, widths))}."
        )
