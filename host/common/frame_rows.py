"""Prompts by frame where fewer images are drawn than a story has: each image is drawn with its own frame's prompt.

A conditioning of a story says which frame each of its rows is (FRAMES). It carries a hook, which the host hands to the
guider of every MODEL that samples with it. Once sampling begins and images and rows are put side by side, the hook asks
which frames the images are and keeps their rows.
"""

from collections.abc import Sequence

import comfy.hooks
import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...core.story.frames import Frames, frames_in, mark_frames, plain
from .padded_texts import carry_own_tokens, leave_out_padding, without_padding

FRAMES = "storyreel_frames"  # of a cond: the `Frames` that its rows are
KEY = "storyreel_follow_frames"
HOOKS = "hooks"  # the host's


class FollowFrames(comfy.hooks.Hook):
    """Puts wrappers around the sampling of whatever MODEL meets the conditioning, and around its forward passes.

    It never counts as registered, so the host takes it from the conds again and batches them as if it had not been.
    """

    def __init__(self):
        super().__init__(hook_type=comfy.hooks.EnumHookType.TransformerOptions)

    def add_hook_patches(self, model, model_options, target_dict, registered) -> bool:
        wrappers = model_options["transformer_options"].setdefault("wrappers", {})
        wrappers.setdefault(WrappersMP.OUTER_SAMPLE, {})[KEY] = [follow_frames]
        wrappers.setdefault(WrappersMP.APPLY_MODEL, {})[KEY] = [leave_out_padding]
        return False


def mark_rows(*conditionings: list, count: int) -> list[list]:
    """Conditionings of a story's `count` frames, row by row, which follow the frames that are sampled.

    The first one is the positive; the others only carry the hook, so that the host finds equal hooks on all of them:
    their rows are one prompt, `count` times.
    """
    if count == 1:
        return list(conditionings)
    group = comfy.hooks.HookGroup()
    group.add(FollowFrames())
    cache = {}
    hooked = [comfy.hooks.set_hooks_for_conditioning(cond, group, cache=cache) for cond in conditionings]
    positive, *others = hooked
    return [[[cond, {**extras, FRAMES: Frames.all(count)}] for cond, extras in positive], *others]


def without_frames(extras: dict) -> dict:
    """The values of a cond as they are without our hook and its frames."""
    extras = {key: value for key, value in extras.items() if key != FRAMES}
    hooks = extras.get(HOOKS)
    if hooks is not None and any(isinstance(hook, FollowFrames) for hook in hooks.hooks):
        rest = comfy.hooks.HookGroup()
        for hook in hooks.hooks:
            if not isinstance(hook, FollowFrames):
                rest.add(hook)
        extras = {key: value for key, value in extras.items() if key != HOOKS}
        if len(rest):
            extras[HOOKS] = rest
    return extras


def frames_of_rows(conditioning: list) -> Frames | None:
    """Which frames the rows of a CONDITIONING are; None for one that is not by frames."""
    return next((extras[FRAMES] for _, extras in conditioning if FRAMES in extras), None)


def pick_frames(conditioning: list, numbers: Sequence[int]) -> list:
    """Rows `numbers` of a CONDITIONING, which stays one by frames if it is one. A row alone serves every image."""
    picked = []
    for cond, extras in conditioning:
        rows = len(cond)
        if rows == 1:
            picked.append([cond, extras])
            continue
        own = pick_values(extras, list(numbers), rows)
        if len(numbers) == 1:
            picked.append(without_padding(cond[list(numbers)], without_frames(own)))
            continue
        if FRAMES in own:
            own[FRAMES] = extras[FRAMES].pick(numbers)
        picked.append([cond[list(numbers)], own])
    return picked


def pick_latents(latent: dict, numbers: Sequence[int], frames: Frames | None = None) -> dict:
    """Samples `numbers` of a LATENT with their noises and masks, as the host's Latent From Batch takes them.

    frames: that the samples are if they do not know it themselves; None: of no story.
    """
    samples, numbers = latent["samples"], list(numbers)
    frames = frames_in(samples) or frames
    noises = latent.get("batch_index", range(len(samples)))
    picked = {**latent, "samples": samples[numbers]}
    if frames is not None:
        picked["samples"] = mark_frames(samples[numbers], frames.pick(numbers))
    picked["batch_index"] = [noises[number] for number in numbers]
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) > 1:
        picked["noise_mask"] = mask[[number % len(mask) for number in numbers]]
    return picked


def pick_images(images: Tensor | None, numbers: Sequence[int], count: int) -> Tensor | ExecutionBlocker:
    """IMAGE of frames `numbers` of a story of `count`; without images, what tells a node that reads it to connect them.

    Raises ValueError for another number of images.
    """
    if images is None:
        return ExecutionBlocker("connect images of Pick Frames to use its output images.")
    if len(images) != count:
        raise ValueError(
            f"images has {len(images)} images and positive {count} prompts; one image a prompt is expected."
        )
    return images[list(numbers)]


def sampled_frames(latent_image: Tensor, noise: Tensor, seed: int | None, frames: Frames) -> Frames | None:
    """Which of `frames` are sampled, image by image; None if nothing tells.

    Latents may know it themselves. Otherwise as many images as frames are all of them, and of fewer the noise tells:
    the host draws it from the seed, one image after the other, and a LATENT's batch_index names the noises that its
    images get. Noises of the first images tell nothing, for they are those of a batch without batch_index, too.
    """
    found = frames_in(latent_image)
    images = len(latent_image)
    if found is not None:
        return found
    if images == len(frames.numbers):
        return frames
    if images > len(frames.numbers) or seed is None or not noise.any():
        return None
    one, numbers = plain(latent_image)[:1], list(range(max(frames.numbers) + 1))
    drawn = comfy.sample.prepare_noise_inner(one, torch.Generator().manual_seed(seed), numbers)
    found = []
    for image in noise.to(drawn):
        found += [number for number in numbers if torch.equal(drawn[number], image)][:1]
    known = len(found) == images and found != numbers[:images]
    return Frames(tuple(found), frames.count) if known else None


def follow_frames(
    executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None,
    latent_shapes=None, **more,
):  # fmt: skip
    """Around a sampling run: of every cond by frames, the rows of the frames that are sampled, without their padding.

    The samples know their frames afterwards. Raises ValueError if another number of images than of frames is sampled
    and nothing tells which frames they are.
    """
    guider = executor.class_obj
    everything = [cond for side in guider.conds.values() for cond in side or ()]
    conds = [cond for cond in everything if _is_by_frames(cond)]
    if latent_shapes is not None and len(latent_shapes) > 1:
        conds = []  # video and sound, packed into one tensor
    sampled = None
    for cond in conds:
        rows = cond[FRAMES]
        sampled = sampled_frames(latent_image, noise, seed, rows)
        if sampled is None or sampled.count != rows.count or not set(sampled.numbers) <= set(rows.numbers):
            raise ValueError(_refusal(rows, sampled, len(noise)))
        if sampled.numbers != rows.numbers:
            places = [rows.numbers.index(number) for number in sampled.numbers]
            cond.update(pick_values(cond, places, len(rows.numbers)))
    for cond in everything:
        carry_own_tokens(cond, guider.model_patcher)
    rest = denoise_mask, callback, disable_pbar, seed
    out = executor(noise, plain(latent_image), sampler, sigmas, *rest, latent_shapes=latent_shapes, **more)
    return out if sampled is None else mark_frames(out, sampled)


def _is_by_frames(cond: dict) -> bool:
    """Whether a cond has a row for each of its frames; another pack's node may have left some of them alone."""
    text = cond.get("cross_attn")
    return FRAMES in cond and isinstance(text, Tensor) and len(text) == len(cond[FRAMES].numbers)


def pick_values(values: dict, numbers: list[int], rows: int) -> dict:
    """Every tensor that holds a value for each row, of the rows `numbers`, also in lists, as reference latents are; the
    rest as it is."""

    def pick(value):
        if isinstance(value, list):
            return [pick(entry) for entry in value]
        return value[numbers] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value

    return {key: pick(value) for key, value in values.items()}


def _refusal(rows: Frames, sampled: Frames | None, images: int) -> str:
    held = f"Encode Story: the CONDITIONING holds the prompts of {len(rows.numbers)} frames of a story"
    if sampled is None:
        return (
            f"{held} but the LATENT holds {images} image{'s'[: images != 1]}, and which frames they are is not known; "
            "sample all frames of an Empty Story Latent, take some out of it with Latent From Batch, or take prompts "
            "and latents out together with Pick Frames (StoryReel)."
        )
    if sampled.count != rows.count:
        return f"{held} of {rows.count} and the LATENT is of one of {sampled.count}; make both from the same STORY."
    missing = ", ".join(str(number + 1) for number in sorted(set(sampled.numbers) - set(rows.numbers)))
    return f"{held}, and none for frame {missing}, which the LATENT holds."
