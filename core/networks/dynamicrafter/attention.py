"""The spatial transformer that looks at text and at image tokens: the dual stream of DynamiCrafter, section 3.2."""

import torch
from torch import Tensor, nn

from ...attention.extended import attend_plain
from ..blocks import GROUPS, TRANSFORMER_EPS, Attend, FeedForward, SelfAttention, attend_together


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

    def forward(self, x: Tensor, text: Tensor, image: Tensor, image_strength: float) -> Tensor:
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


class SpatialBlock(nn.Module):
    """Self-attention, cross-attention to text and image, feed-forward."""

    def __init__(self, dim: int, heads: int, context_dim: int, learned_gate: bool, operations, attend, **made):
        super().__init__()
        self.attn1 = SelfAttention(dim, heads, operations, attend, **made)
        self.attn2 = TextImageAttention(dim, context_dim, heads, learned_gate, operations, attend, **made)
        self.ff = FeedForward(dim, operations, **made)
        self.norm1, self.norm2, self.norm3 = (operations.LayerNorm(dim, **made) for _ in range(3))

    def forward(self, x: Tensor, text: Tensor, image: Tensor, image_strength: float) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text, image, image_strength)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the places of each frame, [(B T), C, H, W]."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        learned_gate: bool = False,
        operations=nn,
        attend: Attend = attend_plain,
        **made,
    ):
        super().__init__()
        self.norm = operations.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS, **made)
        self.proj_in = operations.Linear(channels, channels, **made)
        block = SpatialBlock(channels, heads, context_dim, learned_gate, operations, attend, **made)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = operations.Linear(channels, channels, **made)

    def forward(self, x: Tensor, text: Tensor, image: Tensor, image_strength: float = 1.0) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).mT)
        for block in self.transformer_blocks:
            h = block(h, text, image, image_strength)
        return x + self.proj_out(h).mT.unflatten(2, x.shape[2:])
