"""The cross-attention to text and to image tokens: the dual stream of DynamiCrafter, section 3.2."""

import torch
from torch import Tensor, nn

from ..blocks import attend_shared
from ..ops import TORCH, Ops


class TextImageAttention(nn.Module):
    """Attn(q, K_text, V_text) + g Attn(q, K_image, V_image), g = 1, or 1 + tanh(alpha) with a learned alpha."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        learned_gate: bool,
        ops: Ops = TORCH,
    ):
        super().__init__()
        self.heads, self.attend = heads, ops.attention

        def from_context():
            return ops.Linear(context_dim, dim, bias=False)

        self.to_q = ops.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = from_context(), from_context()
        self.to_out = nn.Sequential(ops.Linear(dim, dim))
        self.to_k_ip, self.to_v_ip = from_context(), from_context()
        self.alpha = ops.zeros() if learned_gate else None

    def forward(self, x: Tensor, text: Tensor, image: Tensor, image_strength: float = 1.0) -> Tensor:
        """x [(B T), N, C]; text and image [B or (B T), tokens, D], one row a clip or one row a frame."""
        q = self.to_q(x)
        out = attend_shared(self.attend, q, self.to_k(text), self.to_v(text), self.heads)
        if image_strength:
            gate = image_strength
            if self.alpha is not None:
                gate = gate * (1 + torch.tanh(self.alpha.to(q)))
            image_out = attend_shared(self.attend, q, self.to_k_ip(image), self.to_v_ip(image), self.heads)
            out = out + gate * image_out
        return self.to_out(out)
