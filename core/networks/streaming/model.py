"""StreamingT2V's denoiser (figure 3): ModelScope's UNet with the frames before (CAM) and an anchor frame (APM)."""

from functools import partial

from einops import rearrange
from torch import Tensor, nn

from ..modelscope.unet import UNet, UNetEncoder
from ..ops import TORCH, Ops
from ..unet import run_block
from .appearance import AppearanceAttention
from .config import StreamingConfig
from .frame_encoder import FrameEncoder
from .injector import Injector


class FeatureExtractor(UNetEncoder):
    """CAM's feature extractor: a copy of the base's encoder that also reads the frames before the chunk."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        super().__init__(config.unet, ops=ops)
        width = config.unet.model_channels
        self.frame_encoder = FrameEncoder(config.frame_widths, width, ops=ops)

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor, frame_features: Tensor) -> list[Tensor]:
        """Features of each input block and of the middle block, each [(B M), C, H, W].

        x: [B, in_channels, M, H, W], noisy latents of the chunk's first M frames. timesteps: [B].
        text: [B, tokens, D]. frame_features: of the frames before, from `frame_encoder`, [(B M), model_channels, H, W].
        """
        emb = self.embed(timesteps, x)
        skips = self.encode(x, emb, text, added=frame_features)
        return [*skips, run_block(self.middle_block, skips[-1], emb, len(x), text)]


class ConditionalUNet(UNet):
    """The base with APM in its spatial cross-attentions and CAM's injectors on the skip connections and the middle."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        attention = partial(AppearanceAttention, text_tokens=config.text_tokens, image_tokens=config.image_tokens)
        super().__init__(config.unet, attention, ops)
        widths = [*self.skips, self.skips[-1]]
        self.injectors = nn.ModuleList([Injector(width, ops=ops) for width in widths])

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        cam_features: list[Tensor] | None = None,
        cam_strength: float = 1.0,
        apm_strength: float = 1.0,
    ) -> Tensor:
        """The noise of a clip. image: APM's tokens, [B, tokens, D]. cam_features: from the feature extractor.

        Without both, or at strength 0, it is ModelScope's network.
        """

        features = cam_features or []

        def inject(number: int, h: Tensor, clips: int) -> Tensor:
            return self.injectors[number](h, features[number], clips, cam_strength)

        return super().forward(x, timesteps, text, image, apm_strength, merge=inject if features else None)


class StreamingT2V(ConditionalUNet):
    """Both networks as one. config: the base's sizes. streaming: all of them."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        super().__init__(config, ops)
        self.streaming = config
        self.extractor = FeatureExtractor(config, ops)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """CAM's features of frames [B, M, 3, 8 H, 8 W], -1 to 1, once a chunk: [(B M), model_channels, H, W]."""
        return self.extractor.frame_encoder(rearrange(frames, "b m c h w -> (b m) c h w"))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        frame_features: Tensor | None = None,
        cam_strength: float = 1.0,
        apm_strength: float = 1.0,
    ) -> Tensor:
        """The noise of a chunk, [B, in_channels, T, H, W].

        timesteps: [B]. text: [B, tokens, D]. image: the anchor frame's tokens from the token expander, [B, tokens, D];
            None: no APM. frame_features: from `encode_frames`, of M frames before the chunk; None: no CAM.

        Raises ValueError for a number of tokens that APM was not trained with.
        """
        if image is not None and apm_strength:
            self._check(text, image)
        cam_features = None
        if frame_features is not None and cam_strength:
            frames = len(frame_features) // len(x)
            cam_features = self.extractor(x[:, :, :frames], timesteps, text, frame_features)
        return super().forward(x, timesteps, text, image, cam_features, cam_strength, apm_strength)

    def _check(self, text: Tensor, image: Tensor) -> None:
        wanted = self.streaming.text_tokens, self.streaming.image_tokens
        if (text.shape[1], image.shape[1]) != wanted:
            raise ValueError(
                f"APM was given {text.shape[1]} text and {image.shape[1]} image tokens; "
                f"this model mixes {wanted[0]} and {wanted[1]}."
            )
