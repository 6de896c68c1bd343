"""StreamingT2V's denoiser (figure 3): ModelScope's UNet, told by CAM what came just before and by APM how all began."""

from functools import partial

from torch import Tensor, nn

from ..modelscope.unet import Encoder, UNet
from ..ops import TORCH, Ops
from ..unet import run
from .appearance import AppearanceAttention
from .config import StreamingConfig
from .frame_encoder import FrameEncoder
from .injector import Injector


class FeatureExtractor(Encoder):
    """CAM's feature extractor: a copy of the base's encoder, which is shown the frames before the chunk."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        super().__init__(config.unet, ops=ops)
        width = config.unet.model_channels
        self.frame_encoder = FrameEncoder(config.frame_widths, width, ops=ops)

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor, seen: Tensor) -> list[Tensor]:
        """What each input block leaves, and the middle's result, each [(B M), C, H, W].

        x: [B, in_channels, M, H, W], noisy latents of the frames that stand for those before. timesteps: [B].
        text: [B, tokens, D]. seen: the frames before, by `frame_encoder`, [(B M), model_channels, H, W].
        """
        emb = self.embed(timesteps, x)
        left = self.descend(x, emb, text, added=seen)
        return [*left, run(self.middle_block, left[-1], emb, len(x), text)]


class ConditionalUNet(UNet):
    """The base with APM in its spatial cross-attentions and CAM's injectors on its skips and behind its middle."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        looks = partial(AppearanceAttention, text_tokens=config.text_tokens, image_tokens=config.image_tokens)
        super().__init__(config.unet, looks, ops)
        widths = [*self.left, self.left[-1]]
        self.injectors = nn.ModuleList([Injector(width, ops=ops) for width in widths])

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        memory: list[Tensor] | None = None,
        cam_strength: float = 1.0,
        apm_strength: float = 1.0,
    ) -> Tensor:
        """The noise of a clip. image: APM's tokens, [B, tokens, D]. memory: of the feature extractor.

        Without image or memory, or at strength 0, it is ModelScope's network and nothing else.
        """

        def inject(number: int, h: Tensor, clips: int) -> Tensor:
            return self.injectors[number](h, memory[number], clips, cam_strength)

        return super().forward(x, timesteps, text, image, apm_strength, merge=None if memory is None else inject)


class StreamingT2V(ConditionalUNet):
    """Both networks as one. config: the base's sizes. streaming: all of them."""

    def __init__(self, config: StreamingConfig, ops: Ops = TORCH):
        super().__init__(config, ops)
        self.streaming = config
        self.extractor = FeatureExtractor(config, ops)

    def see(self, frames: Tensor) -> Tensor:
        """What CAM sees of frames [B, M, 3, 8 H, 8 W], -1 to 1, once a chunk: [(B M), model_channels, H, W]."""
        return self.extractor.frame_encoder(frames.flatten(0, 1))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        seen: Tensor | None = None,
        cam_strength: float = 1.0,
        apm_strength: float = 1.0,
    ) -> Tensor:
        """The noise of a chunk, [B, in_channels, T, H, W].

        timesteps: [B]. text: [B, tokens, D]. image: the anchor frame by the token expander, [B, tokens, D]; None: no
            APM. seen: by `see`, of M frames that the chunk's first M stand for; None: no CAM.

        Raises ValueError for a number of tokens that APM was not made for.
        """
        if image is not None and apm_strength:
            self._check(text, image)
        memory = None
        if seen is not None and cam_strength:
            frames = len(seen) // len(x)
            memory = self.extractor(x[:, :, :frames], timesteps, text, seen)
        return super().forward(x, timesteps, text, image, memory, cam_strength, apm_strength)

    def _check(self, text: Tensor, image: Tensor) -> None:
        wanted = self.streaming.text_tokens, self.streaming.image_tokens
        if (text.shape[1], image.shape[1]) != wanted:
            raise ValueError(
                f"APM was given {text.shape[1]} text and {image.shape[1]} image tokens; "
                f"this model mixes {wanted[0]} and {wanted[1]}."
            )
