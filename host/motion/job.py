"""The settings of one training of a motion predictor."""

from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.networks.semantic_motion.config import PredictorConfig
from ...core.training import TrainConfig
from .token_encoders import TokenEncoder


@dataclass(frozen=True)
class TokenSpec:
    """Where the tokens of the clips come from: a token encoder, and the image encoder whose features it reads."""

    encoder: TokenEncoder
    clip_vision: object

    def encode(self, images: Tensor) -> Tensor:
        """Images [T, H, W, 3] -> [T, N, D], or [T, S, N, D] if an image has different tokens for each of S frames."""
        return self.encoder.encode(self.clip_vision, images, self.encoder.frames_per_image)


@dataclass(frozen=True)
class DataConfig:
    """frames: of a window, at most. stride: every `stride`-th frame of a video is used. validation_split: share of the
    clips that are only evaluated."""

    frames: int = 16
    stride: int = 1
    validation_split: float = 0.1


@dataclass(frozen=True)
class DecoderConfig:
    """How SD1.5 becomes a video model that reads tokens, see `apply_to_sd15`."""

    module: str | None
    adapter: str | None
    strength: float = 1.0
    own_schedule: bool = True


@dataclass(frozen=True)
class VideoModelConfig:
    """A frozen video model whose error is added to the loss.

    positive: CONDITIONING for all clips. loss_weight: of the model's error; 0 trains without the model. resolution:
    side of the frames' center crops, in pixels. frames: so many consecutive frames of a window go through the model in
    each step.
    """

    model: ModelPatcher
    vae: Any  # comfy.sd.VAE, or None, which is refused
    positive: list
    decoder: DecoderConfig
    loss_weight: float = 1.0
    resolution: int = 256
    frames: int = 8


@dataclass(frozen=True)
class TrainingJob:
    """network: sizes of the predictor. cosine_loss_weight: of the tokens' cosine error, next to their squared error."""

    network: PredictorConfig
    train: TrainConfig
    data: DataConfig = field(default_factory=DataConfig)
    cosine_loss_weight: float = 1.0
    video_model: VideoModelConfig | None = None

    @property
    def active_video_model(self) -> VideoModelConfig | None:
        """None if its weight is 0."""
        return self.video_model if self.video_model is not None and self.video_model.loss_weight else None
