"""The aesthetic score: how much people would like an image, from 1 to 10, by LAION's heads on CLIP ViT-L/14.

A head is a few linear layers on the embedding that CLIP ViT-L/14, as OpenAI trained it, gives of an image; between
them there is nothing but dropout, which only training knows. Version 1 (https://github.com/LAION-AI/aesthetic-predictor)
is one layer, version 2 (https://github.com/christophschuhmann/improved-aesthetic-predictor) is five.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import linear, normalize

WIDTH = 768  # of the embedding
HEADS = {  # {name: {prefix of a layer's weight and bias: (width out, width in)}}
    "LAION's aesthetic predictor V1": {"": (1, WIDTH)},
    "LAION's aesthetic predictor V2": {
        "layers.0.": (1024, WIDTH),
        "layers.2.": (128, 1024),
        "layers.4.": (64, 128),
        "layers.6.": (16, 64),
        "layers.7.": (1, 16),
    },
}


class AestheticHead:
    """name: what to call it. layers: (weight, bias) of each."""

    def __init__(self, name: str, layers: list[tuple[Tensor, Tensor]]):
        self.name, self._layers = name, layers

    def __call__(self, embeds: Tensor) -> Tensor:
        """The scores [B] of embeddings [B, 768], whatever their length."""
        x = normalize(embeds.float(), dim=-1)
        for weight, bias in self._layers:
            x = linear(x, weight, bias)
        return x[:, 0]


def read_head(weights: Mapping[str, Tensor]) -> AestheticHead | None:
    """The head whose weights these are, told by their names and shapes; None if they are of something else."""
    shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
    for name, layers in HEADS.items():
        sizes = {f"{layer}weight": size for layer, size in layers.items()}
        if shapes == sizes | {f"{layer}bias": size[:1] for layer, size in layers.items()}:
            return AestheticHead(
                name, [(weights[f"{layer}weight"].float(), weights[f"{layer}bias"].float()) for layer in layers]
            )
    return None
