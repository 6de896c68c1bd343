"""Stage 11: a Semantic Motion Predictor (arXiv 2405.01434, section 3.2) on the tokens of clips, trained as its users
train theirs: it learns the frames between the first and the last, and is compared with interpolation."""

from dataclasses import asdict
from pathlib import Path

import torch
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.ops import Ops
from storyreel.core.networks.semantic_motion import training
from storyreel.core.networks.semantic_motion.config import METADATA, TRAINING, PredictorConfig, read_training
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from . import export
from .clips import Clips, draw_clips, place_of
from .layers import attend
from .motion import DATA, PROJECTION, TOKENS
from .trainer import Progress, device, write_log
from .workspace import Workspace

CONFIG = TrainConfig(steps=3000, batch_size=16, learning_rate=1e-3, ema=0.998, warmup=200)
VALIDATION_SPLIT = 0.05
NETWORK = PredictorConfig(
    token_space="ip-plus", tokens=TOKENS, token_width=PROJECTION.output_dim, width=192, depth=3, heads=6, frames=16
)


@torch.no_grad()
def token_files(clips: Clips, vision: nn.Module, adapter: dict[str, Tensor], folder: Path) -> list[training.TokenClip]:
    """The tokens of every clip in a file of its own in `folder`, made once. adapter: weights of the IP-Adapter."""
    from storyreel.host.motion.clips import write

    resampler = Resampler(PROJECTION, Ops(attention=attend))
    prefix = "image_proj."
    resampler.load_state_dict({k.removeprefix(prefix): t for k, t in adapter.items() if k.startswith(prefix)})
    resampler.to(device()).eval()
    place = folder / place_of("tokens", clips.recipe, clips.recipe.identity, vision, resampler)
    files = [place / f"{index:06}.safetensors" for index in range(len(clips))]
    for seen, file in zip(clips["seen"], files, strict=True):
        if not file.exists():
            write(file, {training.TOKENS: resampler(seen.float().to(device())).half()}, {})
    return [training.TokenClip(file, clips.recipe.frames) for file in files]


def train_predictor(work: Workspace) -> None:
    """Its file states what it reaches on clips that it never saw. A training whose file exists is not repeated."""
    from storyreel.host.motion.clips import digest
    from storyreel.host.motion.job import DataConfig, TrainingJob
    from storyreel.host.motion.training import learn, result_metadata

    name, config = "predictor", work.config(CONFIG)
    clips = draw_clips(work.recipe(DATA), work.autoencoder, work.towers.vision, work.data)
    tokens = token_files(clips, work.towers.vision, work.weights("ip_adapter"), work.data)
    run, file = (
        digest([asdict(config), asdict(NETWORK), tokens[0].path.parent.name]),
        export.own_file(name, work.folder),
    )
    if file.exists() and read_training(export.load(file)[1]).get("run") == run:
        print(f"{name}: {file.name} is there")
        return
    state, progress = work.folder / f"{name}_{run[:8]}.state", Progress(name, config.steps, work.stop_after)
    if state.exists():
        print(f"{name}: resuming")
    parts = training.split_clips(tokens, VALIDATION_SPLIT, config.seed)
    job = TrainingJob(NETWORK, config, DataConfig(NETWORK.frames))
    results, log, weights = learn(job, *parts, state, lambda _, step, __: progress(step))
    print(f"{name}: {results.summary}")
    write_log(name, log, work.folder)
    metadata = {METADATA: asdict(NETWORK), TRAINING: {"run": run, **result_metadata(results, log)}}
    work.save(name, weights, config, clips.recipe, asdict(results), **metadata)
    state.unlink(missing_ok=True)
