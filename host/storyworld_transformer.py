"""The included demo model's transformer: the host's own Flux in small, trained by rectified flow."""

from typing import Any

import comfy.model_base
import comfy.supported_models_base

from ..core.networks.storyworld import LATENT_CHANNELS
from ..core.weights.refusal import Unreadable
from ..core.weights.stated import Each, Fields, One, Real, Whole, switch

FLUX = {
    **dict.fromkeys(("in_channels", "out_channels"), One((LATENT_CHANNELS,))),
    "patch_size": Whole(1, 8),
    "vec_in_dim": One((None,)),
    **dict.fromkeys(("context_in_dim", "hidden_size"), Whole(1, 8192)),
    "mlp_ratio": Real(0.1, 16),
    "num_heads": Whole(1, 256),
    **dict.fromkeys(("depth", "depth_single_blocks"), Whole(0, 64)),
    "axes_dim": Each(Whole(2, 256), 3, 3, as_list=True),
    "theta": Whole(1, 1_000_000),
    **dict.fromkeys(("qkv_bias", "guidance_embed"), switch),
    "txt_ids_dims": One(([],)),
    "text_tokens": Whole(1, 1024),
}
STATED = Fields(FLUX, tuple(FLUX))  # in the file's metadata


class StoryworldTransformer(comfy.supported_models_base.BASE):
    """trained_size: sides in pixels."""

    unet_extra_config = {}
    sampling_settings = {"shift": 1.0, "multiplier": 1.0}
    trained_size = 128
    memory_usage_factor = 1.0


class StoryworldFlux(comfy.model_base.Flux):
    """A Flux that reads the first `text_tokens` tokens of a text: the text encoder fills it up to 77, and no caption of
    the training was that long."""

    def __init__(self, config: comfy.supported_models_base.BASE, text_tokens: int):
        super().__init__(config, comfy.model_base.ModelType.FLOW)
        self.text_tokens = text_tokens

    def extra_conds(self, **kwargs) -> dict[str, Any]:
        if (text := kwargs.get("cross_attn")) is not None:
            kwargs["cross_attn"] = text[:, : self.text_tokens]
        return super().extra_conds(**kwargs)


def split_config(config: dict) -> tuple[dict, int]:
    """(sizes of the host's Flux, text_tokens). Raises Unreadable for axes that are not a head's width."""
    sizes = {name: value for name, value in config.items() if name != "text_tokens"}
    head, rest = divmod(sizes["hidden_size"], sizes["num_heads"])
    if rest or sum(sizes["axes_dim"]) != head:
        raise Unreadable("states axes of positions that are not as wide as a head; a head's width was expected")
    return sizes, config["text_tokens"]
