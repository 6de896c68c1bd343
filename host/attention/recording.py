"""Recording a bank while any sampler samples a MODEL with Consistent Self-Attention."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention import draws
from ...core.attention.bank import DTYPES, Bank, BankImage, Origin, Recorder, Recording
from ...core.attention.bank_plan import Plan, anchors_of, plan_recording
from ...core.attention.bank_sets import describe
from ...core.attention.schedule import Phases
from ..common import messages
from .bank_model import model_id, network_of
from .bank_previews import preview
from .families import family_of
from .sampling_state import CONFIG, KEY, Misfit, PatchConfig, SamplingState
from .sampling_state import NODE as CSA
from .unet_blocks import Layer, layers_in, self_attention_layers
from .unet_call import UNetCall

RECORD = "storyreel_record"  # in transformer_options: the `RecordConfig`
NODE = "Record Characters"
GB = 10**9


@dataclass(frozen=True, eq=False)
class RecordConfig:
    """One application of the node.

    bank: filled when the MODEL is sampled. layers: of the network. model: see `model_id`. precision: one of DTYPES.
    device: "cpu" or "gpu". limit: bytes. step_stride: of so many steps, the first one is recorded.
    """

    bank: Bank
    layers: Sequence[Layer]
    model: str
    network: str
    precision: str
    device: str
    limit: int
    step_stride: int
    node: str | None


@dataclass(frozen=True, eq=False)
class Run:
    """A sampling run that records. places: {place in the batch: place in the recording}."""

    config: PatchConfig
    plan: Plan
    recorder: Recorder
    places: dict[int, int]


def record_characters(
    model: ModelPatcher, precision: str, device: str, limit: int, step_stride: int, node: str
) -> tuple[ModelPatcher, Bank]:
    """A clone of `model` that records a bank when it is sampled, and that bank, still empty.

    node: the id of the node that gives both. A second application replaces the first. Raises ValueError for a MODEL
    without Consistent Self-Attention.
    """
    check_recordable(model)
    layers, bank = self_attention_layers(model), Bank(finished=False, node=node)
    identity = model_id(model, layers), network_of(model)
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    options[RECORD] = RecordConfig(
        bank, layers, *identity, precision, device, limit, step_stride, messages.current_node()
    )
    RecordTokens.install(patched, layers)
    return patched, bank


def check_recordable(model: ModelPatcher) -> None:
    """Raise ValueError for a MODEL that cannot record: without Consistent Self-Attention, or no UNet."""
    if CONFIG not in model.model_options["transformer_options"]:
        raise ValueError(
            "MODEL has no Consistent Self-Attention, or its strength is 0; connect that node between the model and "
            "this one. It says which layers, steps and tokens are recorded."
        )
    if (family := family_of(model)) is not None:
        raise ValueError(f"MODEL is {family.name}; a UNet (SD1.5, SD2.x or SDXL) is expected.")


class RecordTokens:
    """An attn1_patch: it sees the tokens of every layer before their projection, and changes nothing."""

    def __init__(self, layers: dict[tuple[str, int, int], Layer]):
        self.layers = layers

    @classmethod
    def install(cls, model: ModelPatcher, layers: Sequence[Layer]) -> None:
        """Patch a clone of the model, in place of an earlier patch of this kind."""
        patches = model.model_options["transformer_options"].setdefault("patches", {})
        patches["attn1_patch"] = [patch for patch in patches.get("attn1_patch", []) if not isinstance(patch, cls)]
        model.set_model_attn1_patch(cls({layer.key: layer for layer in layers}))

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra_options: dict):
        state = extra_options.get(KEY)
        block = extra_options.get("block")
        layer = block and self.layers.get((*block, extra_options["block_index"]))
        if state is not None and state.recording is not None and layer:
            state.enter(extra_options)
            if state.recording.plan.includes(state.step, layer.number):
                try:
                    _record(state.recording, layer, context, state, extra_options)
                except Misfit as misfit:
                    state.warn_once(f"{misfit}, so no tokens are recorded there.")
        return n, context, value


def _record(run: Run, layer: Layer, tokens: Tensor, state: SamplingState, extra_options: dict) -> None:
    """Store what the plan says of the tokens [rows, N, channels] that a layer is called with. Raises Misfit."""
    call = UNetCall.read(layer, tokens, tokens, extra_options, state)
    if conflict := state.describe_area(*call.latent_size):
        raise Misfit(conflict)

    def draw(place: int, index: int) -> Tensor:
        origin, image = run.recorder.recording.origin, run.recorder.recording.images[place]
        rate = origin.rate_at(call.pixels)
        drawn = draws.sample_each(origin.seed, state.step, call.pixels, image.number, call.tokens, rate)
        size = (call.height, call.width)
        mask = state.token_mask(run.config, (index,), size, torch.device("cpu"))
        drawn = drawn if mask is None else drawn[mask[0, drawn]]
        region = None if state.regions is None else state.regions.source(image.characters, index, size)
        return drawn if region is None else drawn[region[drawn]]

    for chunk, cond in enumerate(call.conds):
        if not state.applies_to(run.config, cond):
            continue
        for row, index in enumerate(call.indices):
            if (place := run.places.get(index)) is not None:
                hidden, keep = tokens[chunk * call.images + row], partial(draw, place, index)
                run.recorder.add(place, state.step, call.pixels, layer.number, cond, hidden, keep)


@contextmanager
def recording(
    record: RecordConfig, config: PatchConfig, state: SamplingState, guider, noise: Tensor, sampler, sigmas: Tensor
) -> Iterator[list[Tensor]]:
    """The sampling run in the block is recorded. The block adds the samples that it gets to the list.

    A run that continues where another one ended, as of two advanced samplers, adds its steps to the same recording; if
    it fails, what the earlier one recorded stays. Raises ValueError for a run that records nothing, and for one that
    needs more memory than the node allows.
    """
    samples: list[Tensor] = []
    bank, schedule = record.bank, tuple(sigmas.tolist())
    frames = state.all_frames
    anchors = anchors_of(frames, config.cast, config.settings.rules.anchors, config.read_names)
    if not anchors:
        raise ValueError(f"{NODE}: no image of the LATENT shows a character, so there is nothing to record.")
    images = tuple(
        BankImage(names, frames[place], "" if config.story is None else config.story.frames[frames[place]].prompt)
        for place, names in anchors.items()
    )
    begun = Recording(origin_of(record, config, sampler, noise.shape[-2:]), images)
    before = bank.recordings[0] if bank.recordings else begun
    if not _continues(before, begun, schedule):
        messages.warn(f"{NODE}: the MODEL is sampled more than once; only its first run is recorded.", record.node)
        yield samples
        return
    earlier = before.origin.sigmas[:-1]
    plan = plan_run(record.layers, config, state.phases, schedule, noise.shape[-2:], record.step_stride, earlier)
    expected = plan.bytes(len(anchors), _conds(config, state, guider), DTYPES[record.precision])
    if not expected + bank.bytes and schedule[-1] == 0:
        raise ValueError(f"{NODE}: {_describe_nothing(config, plan)}")
    if message := describe_excess(record, expected + bank.bytes, f"anchors of {CSA}", "its sampling_rate"):
        raise ValueError(f"{NODE}: {message}")
    device = guider.model_patcher.load_device
    if record.device == "gpu":
        comfy.model_management.free_memory(expected, device)

    made = before.copy()
    made.origin = replace(made.origin, sigmas=(*earlier, *schedule))
    recorder = Recorder(made, DTYPES[record.precision], plan.layers_of, allocator_of(record, device))
    places = {index: place for place, index in enumerate(anchors)}
    state.recording = Run(config, plan, recorder, places)
    try:
        yield samples
    finally:
        state.recording = None
    recorder.finish()
    made.images = _with_previews(made.images, places, guider.model_patcher, samples)
    # Noise is left for a run that continues this one; readers wait for it.
    bank.recordings, bank.finished = [made], schedule[-1] == 0
    if record.node is not None:
        messages.show_progress(describe(bank), record.node)


def plan_run(
    layers: Sequence[Layer],
    config: PatchConfig,
    phases: Phases,
    sigmas: Sequence[float],
    size: Sequence[int],
    step_stride: int,
    earlier: Sequence[float] = (),
) -> Plan:
    """What a run records of images of this (height, width) in latent pixels. The others: see `plan_recording`."""
    levels = {layer.number: layer.measure(*size) for layer in layers_in(layers, config.patch_range)}
    return plan_recording(config.settings, phases, sigmas, levels, step_stride, earlier)


def _continues(before: Recording, begun: Recording, schedule: Sequence[float]) -> bool:
    """Whether a run goes on where the recorded one ended, with the same images, or is the first one."""
    if before is begun:
        return True
    origin, frames = before.origin, [(image.characters, image.number) for image in before.images]
    return (
        origin.sigmas[-1:] == schedule[:1]
        and (origin.height, origin.width) == (begun.origin.height, begun.origin.width)
        and frames == [(image.characters, image.number) for image in begun.images]
    )


def _conds(config: PatchConfig, state: SamplingState, guider) -> int:
    """How many conds of a run are recorded."""
    if state.every_cond:
        return len(guider.conds)
    skips_uncond = getattr(guider, "cfg", 0) == 1 and not guider.model_options.get("disable_cfg1_optimization", False)
    return sum(state.applies_to(config, cond) for cond in ((0,) if skips_uncond else (0, 1)))


def _describe_nothing(config: PatchConfig, plan: Plan) -> str:
    """Why a run would record nothing."""
    if plan.layers:
        return (
            f"apply_to of {CSA} is {config.patch_range.apply_to}, and this run does not compute it (cfg 1 skips "
            "uncond), so there is nothing to record; set apply_to to both."
        )
    return f"no step of this run shares tokens by the settings of {CSA}, so there is nothing to record."


def origin_of(
    record: RecordConfig, config: PatchConfig, sampler, size: Sequence[int], sigmas: tuple[float, ...] = ()
) -> Origin:
    settings = config.settings
    function = getattr(sampler, "sampler_function", sampler)
    return Origin(
        model=record.model,
        network=record.network,
        sampler=getattr(function, "__name__", type(function).__name__).removeprefix("sample_"),
        sigmas=sigmas,
        height=size[0],
        width=size[1],
        seed=settings.seed,
        sampling_rate=settings.sampling_rate,
        sampling_rate_fine=settings.sampling_rate_fine,
    )


def describe_excess(record: RecordConfig, expected: int, *lower: str) -> str | None:
    """Why a bank would be larger than the node allows; None if it is not. lower: what else makes it smaller."""
    if expected <= record.limit:
        return None
    ways = list(lower)
    if record.precision != "fp8":
        ways.insert(0, f"precision to fp8 ({_gigabytes(expected // DTYPES[record.precision].itemsize)})")
    return (
        f"the bank needs {_gigabytes(expected)} and max_gb is {record.limit / GB:g}. Raise step_stride (2 "
        f"halves it) or max_gb, or lower {', '.join(ways)}."
    )


def _gigabytes(size: int) -> str:
    return f"{size / GB:.3g} GB" if size < 100 * GB else f"{size / GB:.0f} GB"


def allocator_of(record: RecordConfig, device: torch.device):
    """Makes the tensors of a bank: on the GPU, or in memory that the GPU reads without a copy."""
    if record.device == "gpu":
        return lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device)
    pinned = device.type == "cuda"
    return lambda shape, dtype: torch.empty(shape, dtype=dtype, pin_memory=pinned)


def _with_previews(
    images: tuple[BankImage, ...], places: dict[int, int], model: ModelPatcher, samples: list[Tensor]
) -> tuple[BankImage, ...]:
    if not samples:
        return images
    pictures = {place: preview(model, samples[0][index]) for index, place in places.items()}
    return tuple(replace(image, preview=pictures[place]) for place, image in enumerate(images))
