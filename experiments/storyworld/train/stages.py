"""The stages of the training in their order, each building on the files of those before."""

from functools import partial

from .autoencoder import train_autoencoder
from .classifier import train_classifier, train_video_classifier
from .clip import train_clip
from .motion import train_adapter, train_modules
from .predictor import train_predictor
from .streaming import CONFIGS, train_part
from .transformer import train_transformer
from .unet import train_unet
from .video import train_video

STAGES = {  # {name: what trains it in a `Workspace`}
    "autoencoder": train_autoencoder,
    "clip": train_clip,
    "pictures": train_unet,
    "transformer": train_transformer,
    "classifier": train_classifier,
    "video_classifier": train_video_classifier,
    "video": train_video,
    **{f"streaming_{part}": partial(train_part, part) for part in CONFIGS},
    "ip_adapter": train_adapter,
    "motion_module": train_modules,
    "predictor": train_predictor,
}
