"""A pack that lets Load CLIP build a language model with the layers, heads and MLP width of its file.

The host knows these models by their width and builds them with the published sizes: 4 and 7 billion parameters.
"""

import comfy.sd

HEAD = 128  # channels
load = comfy.sd.load_text_encoder_state_dicts


def sizes_of(weights: dict) -> dict[str, int]:
    """The sizes that the host does not read from a file."""
    first = "model.layers.0."
    return {
        "num_hidden_layers": sum(name.endswith(".input_layernorm.weight") for name in weights),
        "num_attention_heads": len(weights[f"{first}self_attn.q_proj.weight"]) // HEAD,
        "num_key_value_heads": len(weights[f"{first}self_attn.k_proj.weight"]) // HEAD,
        "intermediate_size": len(weights[f"{first}mlp.gate_proj.weight"]),
    }


def load_with_sizes(state_dicts, *arguments, model_options=None, **named):
    model_options = dict(model_options or {})
    for weights in state_dicts:
        if "model.layers.0.input_layernorm.weight" in weights:
            sizes = sizes_of(weights)
            model_options |= {f"{name}_model_config": sizes for name in ("qwen3_4b", "qwen25_7b")}
    return load(state_dicts, *arguments, model_options=model_options, **named)


comfy.sd.load_text_encoder_state_dicts = load_with_sizes
NODE_CLASS_MAPPINGS = {}
