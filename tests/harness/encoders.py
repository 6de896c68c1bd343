"""Image encoders of the host, real and tiny, and what reads their embeddings."""

import torch


def image_encoder(width: int, **sizes):
    """An encoder with embeddings of that width: two layers, patches of 16 pixels, or other `sizes`; random weights."""
    from storyreel.host.common.clip_vision import from_config

    torch.manual_seed(0)
    config = dict(model_type="clip_vision_model", hidden_act="quick_gelu", image_size=32, patch_size=16)
    config |= dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2, num_channels=3)
    config |= dict(projection_dim=width, layer_norm_eps=1e-5, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    encoder = from_config(config | sizes)
    for parameter in encoder.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def aesthetic_predictor() -> torch.nn.ModuleDict:
    """LAION's V2 as its authors write it, `layers` with dropout between them, random weights."""
    torch.manual_seed(0)
    widths = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    layers = [torch.nn.Linear(*widths[number]) if number in widths else torch.nn.Dropout(0.2) for number in range(8)]
    return torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers)}).eval()
