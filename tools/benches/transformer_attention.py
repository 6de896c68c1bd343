"""One attention layer of a diffusion transformer at its published width, behind the node's own override."""

# heads, channels of a head, text tokens, side of a 1024 x 1024 image in tokens
FAMILIES = {
    "flux": (24, 128, 512, 64),
    "flux2": (48, 128, 512, 64),
    "qwen": (24, 128, 64, 64),
    "zimage": (30, 128, 96, 64),
    "sd3": (38, 64, 231, 64),
    "krea2": (48, 128, 64, 64),
    "anima": (16, 128, 0, 64),
    "wan": (40, 128, 0, 64),
}


class TransformerLayer:
    """Projections and attention over text and image, on a batch of cond or uncond, in three forms.

    plain: every row by itself. ours: through the node's override. dense_mask: all rows as one sequence under a boolean
    mask, in which text is for its own row.
    """

    forms = ("plain", "ours", "dense_mask")

    def __init__(self, family: str, batch: int, side: int, rate: float, memory: int, device: str, positions: str):
        import torch

        self.heads, width, self.text, _ = FAMILIES[family]
        self.batch, self.tokens, self.channels = batch, side * side, self.heads * width
        self.length = self.text + self.tokens
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16

        def random(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.hidden = random(batch, self.length, self.channels)
        self.weights = [random(self.channels, self.channels) / self.channels**0.5 for _ in range(4)]
        self.x, self.context = random(batch, 1, 2 * side, 2 * side), random(batch, self.text, 1)
        self.override = self.build(rate, memory, positions)
        self.options = {"block_type": "single", "block_index": 0, "cond_or_uncond": [0], "sigmas": torch.ones(1)}
        with torch.no_grad():
            self.ours()  # draws are made once a step

    def build(self, rate: float, memory: int, positions: str):
        """A maker of the override of one forward pass, for a Flux of this width whose weights take no memory."""
        import comfy.ldm.flux.model
        import comfy.ops
        from storyreel.core.attention.consistent import Settings
        from storyreel.host.attention.families import FAMILIES as ROWS
        from storyreel.host.attention.families import Forward
        from storyreel.host.attention.sampling_state import PatchConfig, PatchRange, SamplingState
        from storyreel.host.attention.transformer import TransformerSeam
        from storyreel.host.attention.transformer_attention import TransformerAttention

        width = self.channels // self.heads
        axes = [width // 8, width * 7 // 16, width * 7 // 16]
        sizes = dict(in_channels=1, out_channels=1, vec_in_dim=1, context_in_dim=1, mlp_ratio=1.0, depth=0)
        sizes |= dict(
            hidden_size=self.channels, num_heads=self.heads, depth_single_blocks=1, axes_dim=axes, theta=10000
        )
        sizes |= dict(patch_size=2, qkv_bias=False, guidance_embed=False, txt_ids_dims=[])
        operations = comfy.ops.disable_weight_init
        network = comfy.ldm.flux.model.Flux(device="meta", operations=operations, **sizes)
        config = PatchConfig(
            Settings(sampling_rate=rate), PatchRange(extra_bytes=memory, positions=positions), cast=None
        )
        sharing, state = TransformerSeam(ROWS[0], network, 8, config).sharing, SamplingState.without_sampler()
        return lambda: TransformerAttention(sharing, state, Forward(self.x, self.context, {}), None)

    def operations_ratio(self) -> float:
        """Floating-point operations that the formula needs, over those of plain attention."""
        images, length, width = self.batch, self.length, self.channels
        drawn = sum(map(len, self.samples))
        keys = sum(self.tokens * (length + drawn - len(own)) + self.text * length for own in self.samples)
        projections = 8 * images * length * width**2
        return (projections + 4 * width * keys) / (projections + 4 * width * images * length**2)

    @property
    def samples(self):
        (shared,) = self.override().state.shared_tokens.values()
        return shared.samples[0]

    def project(self):
        """q, k, v [B, heads, tokens, d]"""
        shape = self.batch, self.length, self.heads, -1
        return [(self.hidden @ weight).view(shape).transpose(1, 2) for weight in self.weights[:3]]

    def plain(self):
        from comfy.ldm.modules.attention import attention_pytorch

        return attention_pytorch(*self.project(), self.heads, skip_reshape=True) @ self.weights[3]

    def ours(self):
        from comfy.ldm.modules.attention import attention_pytorch

        arguments = dict(skip_reshape=True, transformer_options=self.options, _inside_attn_wrapper=True)
        return self.override()(attention_pytorch, *self.project(), self.heads, **arguments) @ self.weights[3]

    def mask(self):
        import torch

        device = self.hidden.device
        row = torch.arange(self.batch, device=device).repeat_interleave(self.length)
        image = torch.arange(self.length, device=device).repeat(self.batch) >= self.text
        drawn = torch.zeros(self.batch, self.length, dtype=torch.bool, device=device)
        for own, index in zip(drawn, self.samples, strict=True):
            own[index + self.text] = True
        return (row[:, None] == row) | (image[:, None] & drawn.flatten())

    def dense_mask(self, mask=None):
        from comfy.ldm.modules.attention import attention_pytorch

        mask = self.mask() if mask is None else mask
        q, k, v = (tensor.transpose(0, 1).flatten(1, 2)[None] for tensor in self.project())
        out = attention_pytorch(q, k, v, self.heads, mask=mask[None], skip_reshape=True)
        return out.view_as(self.hidden) @ self.weights[3]
