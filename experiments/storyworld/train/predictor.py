"""Stage 11: a Semantic Motion Predictor (arXiv 2405.01434, section 3.2) on the tokens of clips, trained as its users
train theirs: it learns the frames between the first and the last, and is compared with interpolation."""

from __future__ import annotations  # of the host's modules, which come after the host

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from storyreel.core.motion.training_plot import draw
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.ops import Ops
from storyreel.core.networks.semantic_motion import training
from storyreel.core.networks.semantic_motion.config import PredictorConfig
from storyreel.core.training import TrainConfig
from storyreel.core.video.files import to_bytes
from torch import Tensor, nn

from .attention import attend
from .clips import RATES, place_of
from .motion import PROJECTION, TOKENS
from .motion_clips import Motions
from .trainer import PRINT_SECONDS, Stopped, device

PLAN = TrainConfig(steps=3000, batch_size=16, learning_rate=1e-3, ema=0.998, warmup=200)
HELD_OUT = 0.05
CONFIG = PredictorConfig(
    token_space="ip-plus", tokens=TOKENS, token_width=PROJECTION.output_dim, width=192, depth=3, heads=6, frames=16
)


@torch.no_grad()
def token_files(
    clips: Motions, vision: nn.Module, adapter: dict[str, Tensor], folder: Path
) -> list[training.TokenClip]:
    """The tokens of every clip in a file of its own in `folder`, made once. adapter: weights of the IP-Adapter."""
    from storyreel.host.motion.clips import write

    resampler = Resampler(PROJECTION, Ops(attention=attend))
    prefix = "image_proj."
    resampler.load_state_dict({k.removeprefix(prefix): t for k, t in adapter.items() if k.startswith(prefix)})
    resampler.to(device()).eval()
    place = folder / place_of("tokens", clips.recipe, (asdict(clips.recipe), RATES), vision, resampler)
    files = [place / f"{index:06}.safetensors" for index in range(len(clips))]
    for seen, file in zip(clips.seen, files, strict=True):
        if not file.exists():
            write(file, {training.TOKENS: resampler(seen.float().to(device())).half()}, {})
    return [training.TokenClip(file, clips.recipe.frames) for file in files]


def run_of(clips: Sequence[training.TokenClip], plan: TrainConfig) -> str:
    """A name for a training on these very tokens by this plan."""
    from storyreel.host.motion.clips import digest

    return digest([asdict(plan), asdict(CONFIG), clips[0].path.parent.name])


def train_predictor(
    folder: Path,
    name: str,
    clips: Sequence[training.TokenClip],
    plan: TrainConfig = PLAN,
    stop_after: int | None = None,
) -> tuple[dict[str, Tensor], training.ValidationResult, list[dict]]:
    """(its weights in half precision, what it reaches on clips that it never saw, the log)

    Stopped, it goes on from folder/name_RUN.state, see `run_of`.
    """
    from storyreel.host.motion.job import DataConfig, TrainingJob
    from storyreel.host.motion.training import learn

    state, printed = folder / f"{name}_{run_of(clips, plan)[:8]}.state", 0.0

    def tell(_, done: int, total: int) -> None:
        nonlocal printed
        if done == stop_after and done < total:
            raise Stopped(f"{name}: stopped after step {done} of {total}")
        if time.monotonic() - printed > PRINT_SECONDS or done == total:
            print(f"{name}: step {done} of {total}", flush=True)
            printed = time.monotonic()

    if state.exists():
        print(f"{name}: going on")
    split = training.split_clips(clips, HELD_OUT, plan.seed)
    job = TrainingJob(CONFIG, plan, DataConfig(CONFIG.frames))
    figures, log, weights = learn(job, *split, state, tell)
    print(f"{name}: {figures.summary}")
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    curve = draw(log, figures.mse_interpolation, f"Storyworld: {name}. {figures.summary}")
    Image.fromarray(to_bytes(curve)[0]).save(folder / f"{name}.png")
    state.unlink(missing_ok=True)
    return weights, figures, log
