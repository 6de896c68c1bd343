"""The cross-attention to text and to image tokens: the dual stream of DynamiCrafter, section 3.2."""

import torch
from torch import Tensor, nn

from ..attend import attend_plain
from ..blocks import attend_together


class TextImageAttention(nn.Module):
    """Attn(q, K_text, V_text) + g Attn(q, K_image, V_image), g = 1, or 1 + tanh(alpha) with a learned alpha."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, learned_gate: bool, operations=nn, attend=attend_plain, **made
    ):
        super().__init__()
        self.heads, self.attend = heads, attend

        def from_context():
            return operations.Linear(context_dim, dim, bias=False, **made)

        self.to_q = operations.Linear(dim, dim, bias=False, **made)
        self.to_k, self.to_v = from_context(), from_context()
        self.to_out = nn.Sequential(operations.Linear(dim, dim, **made))
        self.to_k_ip, self.to_v_ip = from_context(), from_context()
        self.alpha = nn.Parameter(torch.zeros((), **made)) if learned_gate else None

    def forward(self, x: Tensor, text: Tensor, image: Tensor, image_strength: float = 1.0) -> Tensor:
        """x [(B T), N, C]; text and image [B or (B T), tokens, D], a row for each clip or for each frame."""
        q = self.to_q(x)
        out = attend_together(self.attend, q, self.to_k(text), self.to_v(text), self.heads)
        if image_strength:
            gate = image_strength
            if self.alpha is not None:
                gate = gate * (1 + torch.tanh(self.alpha.to(q)))
            seen = attend_together(self.attend, q, self.to_k_ip(image), self.to_v_ip(image), self.heads)
            out = out + gate * seen
        return self.to_out(out)
