"""Patching a MODEL so that its runs find where the characters of a story stand."""

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..common import messages
from .families import family_of
from .found_regions import FIND, NODE, FindConfig, ObserveWords
from .sampling_state import CONFIG, KEY
from .unet_blocks import self_attention_layers


def find_characters(model: ModelPatcher, clip, dropout: float, start_percent: float) -> ModelPatcher:
    """A clone of `model` with regions that follow from the attention to the words of the characters.

    dropout, start_percent: see `FindConfig`. A second application replaces the first. Raises ValueError for a MODEL
    that is no UNet, and without a text encoder.
    """
    if (family := family_of(model)) is not None:
        raise ValueError(f"MODEL is {family.name}; a UNet (SD1.5, SD2.x or SDXL) is expected.")
    if clip is None:
        raise ValueError(
            "The clip input is empty: the checkpoint holds no text encoder. Load one with Load CLIP or DualCLIPLoader."
        )
    node = messages.current_node()
    patched = model.clone()
    config = FindConfig(clip, self_attention_layers(model), dropout, start_percent, node)
    patched.model_options["transformer_options"][FIND] = config
    ObserveWords.install(patched)

    def around_sampling(executor, *args, **kwargs):
        if not {CONFIG, KEY} & executor.class_obj.model_options["transformer_options"].keys():
            messages.warn(
                f"{NODE}: MODEL has no Consistent Self-Attention, or its strength is 0, so this node has no effect; "
                "connect that node, too.",
                node,
            )
        return executor(*args, **kwargs)

    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, FIND)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, FIND, around_sampling)
    return patched
