"""ComfyUI's layers and attention for the networks of core."""

from typing import Any

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention

from ...core.networks.attend import Attend
from ...core.networks.ops import Ops


def host_ops(
    layers: Any = comfy.ops.manual_cast, device=None, dtype=None, attention: Attend = optimized_attention
) -> Ops:
    """layers: by default those that keep weights in one number format and work in that of their input."""
    return Ops(layers, attention, device, dtype)
