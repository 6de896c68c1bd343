"""The towers of Storyworld's CLIP, and the attributes that they are asked for while they learn."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from storyreel.core.storyworld import attributes as world
from storyreel.core.storyworld.attributes import Picture, attributes
from torch import Tensor, nn

from .layers import attend
from .tokenizer import Vocabulary

WIDTH, HEADS = 96, 4
TEXT_CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": None,  # a row of the vocabulary while training, the tokenizer's number afterwards
}
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "image_size": 128,
    "patch_size": 16,
    "num_channels": 3,
    "projection_dim": WIDTH,
}

# Every attribute that a caption may name, and its values; an action that differs between heroes is none of these.
VALUES = {
    "number": tuple(world.NUMBERS.values()),
    "shape": world.SHAPES,
    "color": tuple(world.COLORS),
    "hat": world.HATS,
    "hat color": tuple(world.COLORS),
    "scarf color": tuple(world.COLORS),
    "action": tuple(dict.fromkeys((*world.PICTURE_ACTIONS, *world.CLIP_ACTIONS))),
    "scene": world.SCENES,
    "size": tuple(world.SIZES),
    "place": tuple(world.PLACES),
    "facing": tuple(world.FACINGS),
    "pan": world.PANS,
}
NONE = -1


class Towers(nn.Module):
    """Both towers as the host builds them, so that what is trained is what loads, and questions to be thrown away."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        import comfy.ops
        from comfy.clip_model import CLIPTextModel, CLIPVisionModelProjection

        operations = comfy.ops.disable_weight_init
        config = {**TEXT_CONFIG, "eos_token_id": vocabulary.end}
        self.text = CLIPTextModel(config, torch.float32, "cpu", operations)
        self.text.set_input_embeddings(operations.Embedding(len(vocabulary), WIDTH, dtype=torch.float32))
        self.vision = CLIPVisionModelProjection(VISION_CONFIG, torch.float32, "cpu", operations)
        for encoder in (self.text.text_model.encoder, self.vision.vision_model.encoder):
            for layer in encoder.layers:
                layer.forward = partial(_forward, layer)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        self.asked_of_images = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in VALUES.items()})
        self.asked_of_texts = nn.ModuleDict(
            {name: nn.Linear(WIDTH, len(values) + 1) for name, values in VALUES.items()}
        )
        for name, weight in self.named_parameters():
            if "asked" in name or name == "logit_scale":
                continue
            if "norm" in name and name.endswith("weight"):
                nn.init.ones_(weight)
            elif weight.ndim > 1 or "class_embedding" in name:
                nn.init.normal_(weight, std=0.05)
            else:
                nn.init.zeros_(weight)
        # As loud as the patches (768 values of about 1 each), or where a thing stands would hardly be heard.
        nn.init.normal_(self.vision.vision_model.embeddings.patch_embedding.weight, std=0.02)
        nn.init.normal_(self.vision.vision_model.embeddings.position_embedding.weight, std=0.5)

    def read(self, tokens: Tensor) -> Tensor:
        """Rows of the vocabulary [B, n] -> embeddings [B, WIDTH]."""
        embedded = self.text.text_model.embeddings.token_embedding(tokens)
        x = embedded + self.text.text_model.embeddings.position_embedding.weight[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf, device=x.device).triu_(1)
        x, _ = self.text.text_model.encoder(x, mask=mask.to(x.dtype))
        x = self.text.text_model.final_layer_norm(x)
        ends = (tokens == self.text.text_model.eos_token_id).int().argmax(1)
        return self.text.text_projection(x[torch.arange(len(x)), ends])

    def see(self, images: Tensor) -> Tensor:
        """[B, 3, 128, 128], normalised -> embeddings [B, WIDTH]."""
        return self.vision(pixel_values=images)[2]

    def weights(self) -> dict[str, Tensor]:
        """What ships, under transformers' names: the questions stay behind."""
        towers = {**self.text.state_dict(keep_vars=True), **self.vision.state_dict(keep_vars=True)}
        return {**towers, "logit_scale": self.logit_scale}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self.weights().items():
            tensor.data.copy_(weights[name])


def _forward(layer: nn.Module, x: Tensor, mask=None, optimized_attention=None) -> Tensor:
    """The host's layer adds in place, which gradients do not survive."""
    x = x + layer.self_attn(layer.layer_norm1(x), mask, attend)
    return x + layer.mlp(layer.layer_norm2(x))


def codes(picture: Picture) -> np.ndarray:
    """The number of each attribute's value, NONE where a picture has none."""
    has = attributes(picture)
    return np.array([VALUES[name].index(has[name]) if has.get(name) in VALUES[name] else NONE for name in VALUES])


def mean_entropy(questions: nn.ModuleDict, embeddings: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy of the answers [B, attributes] to all questions; NONE is not asked."""
    losses = [
        F.cross_entropy(question(embeddings).float(), answers[:, i], ignore_index=NONE)
        for i, question in enumerate(questions.values())
        if (answers[:, i] != NONE).any()
    ]
    return torch.stack(losses).mean()
