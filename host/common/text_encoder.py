"""CLIP: the text encoders of our own files, and whether any CLIP's text projection was in its file.

The checkpoints of SD1.5 and SDXL hold clip_l without its projection. The host leaves such a weight as uninitialized
memory and keeps no list of what was missing, and no test of the values is sure. So the files' tables of contents are
read again: the host keeps with each CLIP the function and the paths that it was loaded by. Our own loaders attach what
they found.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.utils
import folder_paths
from torch import Tensor

from .loading import read_with_metadata

ATTACHMENT = "storyreel_text_projections"  # on a CLIP's patcher: the text encoders in it that have a projection
PROJECTION = ".transformer.text_projection.weight"
OF_ONE_ENCODER = ("text_projection.weight", "text_projection")  # as the host reads it from a text encoder's own file
# The host's functions that load the CLIP of a checkpoint again: now, and before ComfyUI 0.24.
OF_A_CHECKPOINT = ("load_checkpoint_clip_patcher", "load_checkpoint_guess_config_clip_only")


def build_clip(target, text: dict[str, Tensor], filled: Mapping[str, Tensor] | None = None) -> comfy.sd.CLIP:
    """The CLIP of a text encoder's weights. target: its classes, as the host's `clip_target` gives them. filled:
    stand-ins for weights that its file may lack."""
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(text),
        state_dict={**(filled or {}), **text},
    )
    attach_projections(clip, text)
    return clip


def attach_projections(clip: comfy.sd.CLIP, keys: Iterable[str]) -> None:
    """Note which text encoders have a projection. keys: of the weights in the file, by their names in the CLIP."""
    found = frozenset(key.removesuffix(PROJECTION) for key in keys if key.endswith(PROJECTION))
    clip.patcher.set_attachments(ATTACHMENT, found)


def has_projection(clip: comfy.sd.CLIP, encoder: str) -> bool | None:
    """Whether the projection of a text encoder ("clip_l") was loaded; None if the CLIP's loader left no trace of it.

    A merged CLIP counts as the first of the two. Raises FileNotFoundError and ValueError for a file that is not there
    any more or is another one now.
    """
    if (found := clip.patcher.attachments.get(ATTACHMENT)) is not None:
        return encoder in found
    traced: Any = clip.patcher.cached_patcher_init or (None, ())
    load, arguments, *_ = traced
    if getattr(load, "__name__", "") in OF_A_CHECKPOINT:
        return f"{encoder}{PROJECTION}" in _text_weights(arguments[0])
    if load is comfy.sd.load_clip_model_patcher:
        width = getattr(clip.cond_stage_model, encoder).transformer.text_projection.weight.shape[0]
        files = [read_with_metadata(path)[0] for path in arguments[0]]
        return any(name in file and len(file[name]) == width for file in files for name in OF_ONE_ENCODER)
    return None


def _text_weights(checkpoint: str) -> dict[str, Tensor]:
    """What the host loads into the CLIP of a checkpoint, by the names in the CLIP."""
    weights, metadata = read_with_metadata(checkpoint)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    config = comfy.model_detection.model_config_from_unet(weights, prefix, metadata=metadata)
    return {} if config is None else config.process_clip_state_dict(weights)
