"""Where a training works: its folder, its scale, and what earlier stages left."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from storyreel.core.networks.storyworld import Autoencoder
from storyreel.core.training import BuildOptimizer, TrainConfig
from torch import Tensor, nn

from . import export, trainer
from .tokenizer import Vocabulary
from .towers import Towers
from .trainer import Loss, device

LEAST_STEPS, LEAST_BATCH = 2, 2  # of a tried-out stage


class Workspace:
    """What all stages of a run share.

    folder: of data, states and results. seed concerns the UNets, twins the pictures' alone. scale: share of all steps,
    batches and data, to try the whole thing out. stop_after: raise `Stopped` after this step of a stage. shipped:
    folders of what ships, on which a stage builds where this run has not trained its own.
    """

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        twins: bool = True,
        scale: float = 1.0,
        stop_after: int | None = None,
        shipped: Sequence[Path] = (),
    ):
        self.folder, self.shipped, self.data = folder, shipped, folder / "data"
        self.seed, self.twins, self.scale, self.stop_after = seed, twins, scale, stop_after

    def config(self, config: TrainConfig) -> TrainConfig:
        """The settings of a training at this run's scale."""
        steps, batch = (round(count * self.scale) for count in (config.steps, config.batch_size))
        return replace(config, steps=max(LEAST_STEPS, steps), batch_size=max(LEAST_BATCH, batch))

    def recipe(self, recipe):
        """Which data, at this run's scale."""
        return replace(recipe, count=max(recipe.least, round(recipe.count * self.scale)))

    def numbered(self, name: str) -> str:
        """The name of a UNet of this run's seed."""
        return name if self.seed == 0 else f"{name}_{self.seed}"

    def image_model(self, name: str) -> str:
        """The same of a model of images, of this run's pictures."""
        return self.numbered(name) + ("" if self.twins else "_no_twins")

    def train(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        loss: Loss,
        config: TrainConfig,
        made_of: str = "",
        build_optimizer: BuildOptimizer | None = None,
    ) -> None:
        """See `trainer.train`. Trainings that a stage merely begins with call that: they are not stopped."""
        trainer.train(name, modules, loss, config, self.folder, made_of, self.stop_after, build_optimizer)

    def save(
        self,
        part: str,
        weights: Mapping[str, Tensor],
        config: TrainConfig | dict,
        recipe,
        results: Mapping[str, float] | None = None,
        network: dict | None = None,
        **metadata,
    ) -> None:
        """Leave a part's file. config, recipe: how and on what it was trained. results: on data that it never saw.
        network: of the host's network, where weights do not say it. metadata: for loaders that look for it."""
        plan = config if isinstance(config, dict) else asdict(config)
        recipe = {"plan": plan, "pictures": asdict(recipe)}
        export.save(export.own_file(part, self.folder), part, weights, network or {}, recipe, results or {}, **metadata)

    def file(self, part: str) -> Path:
        """Of an earlier stage. Raises FileNotFoundError."""
        return export.find(part, self.folder, *self.shipped)

    def weights(self, *parts: str) -> dict[str, Tensor]:
        return {name: weight for part in parts for name, weight in export.load(self.file(part))[0].items()}

    @cached_property
    def autoencoder(self) -> nn.Module:
        model = export.filled(Autoencoder(), self.file("autoencoder"))
        return model.to(device(), memory_format=torch.channels_last)

    @cached_property
    def latents(self) -> dict:
        """The units of the picture model: in those its latents may go into the video models."""
        config = export.load(self.file("unet"))[1]["config"]
        return {name: config[name] for name in ("spread", "rgb")}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        from comfy.sd1_clip import SDTokenizer

        return Vocabulary(SDTokenizer())

    @cached_property
    def towers(self) -> Towers:
        towers = Towers(self.vocabulary)
        towers.load_weights(self.weights("clip"))
        return towers.to(device()).eval()
