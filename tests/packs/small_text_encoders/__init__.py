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


def umt5_sizes_of(weights: dict) -> dict[str, int]:
    first = "encoder.block.0.layer"
    return {
        "num_layers": sum(name.endswith(".SelfAttention.q.weight") for name in weights),
        "num_heads": len(weights[f"{first}.0.SelfAttention.q.weight"]) // 64,
        "d_ff": len(weights[f"{first}.1.DenseReluDense.wi_0.weight"]),
        "vocab_size": len(weights["shared.weight"]),
    }


def load_with_sizes(state_dicts, *arguments, model_options=None, **named):
    model_options = dict(model_options or {})
    for weights in state_dicts:
        if "model.layers.0.input_layernorm.weight" in weights:
            sizes = sizes_of(weights)
            model_options |= {f"{name}_model_config": sizes for name in ("qwen3_4b", "qwen25_7b")}
        if "spiece_model" in weights:
            model_options["umt5xxl_model_config"] = umt5_sizes_of(weights)
    return load(state_dicts, *arguments, model_options=model_options, **named)


comfy.sd.load_text_encoder_state_dicts = load_with_sizes
NODE_CLASS_MAPPINGS = {}
