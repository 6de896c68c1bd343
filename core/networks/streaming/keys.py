"""The published key layout of StreamingT2V and StreamingSVD, read into ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..modelscope import keys

# Prefixes of a published file: the base with APM and injectors, CAM's feature extractor, the token expander.
UNET, EXTRACTOR, EXPANDER = "base_model.", "unet.", "resampler."
FRAME_ENCODER = "controlnet_cond_embedding."
INJECTOR = re.compile(r"cross_attention_merger_(?:(?:down|input)_blocks\.(\d+)|mid_block)\.temporal_transformer\.(.+)")


def read_unet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `ConditionalUNet`, from what stood under UNET."""
    rest = {key: weight for key, weight in weights.items() if INJECTOR.fullmatch(key) is None}
    injectors = {f"injectors.{key}": weight for key, weight in read_injectors(weights).items()}
    return keys.read_weights(rest) | injectors


def read_extractor(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `FeatureExtractor`, from what stood under EXTRACTOR."""
    return {
        f"frame_encoder.{key.removeprefix(FRAME_ENCODER)}" if key.startswith(FRAME_ENCODER) else key: weight
        for key, weight in keys.read_weights(weights).items()
    }


def read_injectors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a list of injectors, one for each skip and the middle's last, from among those of a UNet."""
    found = {key: match for key in weights if (match := INJECTOR.fullmatch(key))}
    middle = len({match[1] for match in found.values() if match[1]})
    return {f"{match[1] or middle}.{match[2]}": weights[key] for key, match in found.items()}
