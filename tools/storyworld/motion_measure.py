"""Semantic motion, decoded: frames by predicted tokens, by interpolated ones, and by the true ones, beside the truth.

The decoder is told how a hero looks and where it is, and not what it does: that stands in the tokens alone. Where the
hero is and how it holds itself are seen by its colours, which nothing else in the world has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pack
import torch
from torch import Tensor

pack.load_pack()
from storyreel.core.storyworld import captions, world  # noqa: E402
from storyreel.core.storyworld.attributes import Clip  # noqa: E402
from storyreel.core.video.trajectory import Trajectory  # noqa: E402

from . import shipping  # noqa: E402
from .autoencoder import Autoencoder  # noqa: E402
from .measure import interval, rounded  # noqa: E402
from .sighting import centre_of, heroes_in, is_hero  # noqa: E402
from .video_measure import AUTOENCODER, as_input, psnr  # noqa: E402
from .video_reader import VideoReader, truth  # noqa: E402

FRAMES, STEPS, GUIDANCE, SAMPLER, SCHEDULER = 16, 16, 2.0, "euler", "normal"
DRAWN, TRUE, PREDICTED, INTERPOLATED = "drawn", "true", "predicted", "interpolated"
ADAPTER, TEXT = "", "text"
WIDE = 0.25  # share of clips that cross the picture, as in training


@dataclass(frozen=True)
class Setting:
    """How a clip is made. tokens: DRAWN, which is no model's but the truth through the autoencoder, or whose tokens.
    decoder: what looks at them, IP-Adapter's layers or those of the text. modules: whether frames know each other."""

    name: str
    tokens: str
    decoder: str = ADAPTER
    modules: bool = True


def read_setting(name: str) -> Setting:
    """A setting from its name: drawn, true, predicted or interpolated; behind a dash text, and single (no motion
    modules). Raises ValueError for a name that says something else."""
    match = re.fullmatch(rf"({DRAWN}|{TRUE}|{PREDICTED}|{INTERPOLATED})(?:-({TEXT}))?(-single)?", name)
    if not match:
        raise ValueError(f'"{name}" is no setting; predicted, true-text, interpolated-single would be some.')
    tokens, decoder, single = match.groups()
    return Setting(name, tokens, decoder or ADAPTER, not single)


@dataclass(frozen=True)
class Task:
    """A clip to be made: the truth, drawn, and what the decoder is told in words."""

    clip: Clip
    frames: np.ndarray  # uint8 [T, 128, 128, 3]
    caption: str
    seed: int


def make_task(seed: int, index: int) -> Task:
    rng = Random(f"motion measure/{seed}/{index}")
    clip = replace(world.sample_clip(30_000 + seed, index, wide=WIDE), tempo=1.0, pan="")
    text = captions.caption(clip, {"scene", *captions.CHARACTER})
    return Task(clip, world.render_clip(clip, FRAMES).image, text, rng.randrange(2**32))


@dataclass(frozen=True)
class Studio:
    """The models in the host's hands, the names of the files that decode, and the judge of clips."""

    model: object
    clip: object
    vae: object
    clip_vision: object
    space: object
    predictors: dict[str, object]
    module: str
    video_reader: VideoReader
    encoder: Autoencoder
    steps: int

    @torch.no_grad()
    def tokens(self, whose: str, frames: np.ndarray) -> Trajectory:
        """Those of a clip: of all of its frames, or from the first and the last alone."""
        from storyreel.host import motion

        if whose == TRUE:
            nothing = self.space.nothing(self.clip_vision)
            seen = self.space.encode(self.clip_vision, as_input(frames), len(frames)).float()
            return Trajectory(seen, self.space.space, nothing, "of every frame")
        ends = as_input(frames[:1]), as_input(frames[-1:])
        knots = 0, len(frames) - 1
        return motion.predict(self.predictors[whose], self.clip_vision, ends, knots, len(frames))

    def make(self, setting: Setting, task: Task) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        import comfy.sample
        from storyreel.host.motion_apply import apply_to_sd15

        if setting.tokens == DRAWN:
            return self.decode(self.vae.encode(as_input(task.frames)))
        tokens = self.tokens(setting.tokens, task.frames)
        module = self.module if setting.modules else None
        adapter = None if setting.decoder == TEXT else self.space.name
        model = apply_to_sd15(self.model, tokens, module, adapter, own_schedule=False)
        conds = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (task.caption, "")]
        empty = torch.zeros(FRAMES, self.vae.latent_channels, world.SIZE // 8, world.SIZE // 8)
        noise = comfy.sample.prepare_noise(empty, task.seed)
        told = self.steps, GUIDANCE, SAMPLER, SCHEDULER, *conds, empty
        return self.decode(comfy.sample.sample(model, noise, *told, disable_pbar=True, seed=task.seed))

    def decode(self, latents: Tensor) -> np.ndarray:
        return (self.vae.decode(latents) * 255).round().byte().numpy()


def files(weights: Path | None) -> dict[str, Path]:
    """{part: file} of what ships, or of what a training left in a folder."""
    if weights:
        return {part: weights / f"{part}.safetensors" for part in shipping.FOLDERS}
    return {part: pack.ROOT / "models" / "storyworld" / shipping.file_name(part) for part in shipping.FOLDERS}


def open_studio(weights: Path | None, video_reader: Path, steps: int | None = None) -> Studio:
    """The models that ship, or those that a training left in a folder. steps: of sampling, if not STEPS."""
    import folder_paths
    from storyreel.host import folders, ip_adapter, motion, storyworld

    storyworld.register_folder()
    names = {part: file.name for part, file in files(weights).items()}
    for folder in shipping.FOLDERS.values():
        folders.file_names(folder)  # from now on the host knows of it
    for folder in (storyworld.FOLDER, *shipping.FOLDERS.values()) if weights else ():
        folder_paths.add_model_folder_path(folder, str(weights.resolve()), is_default=True)
    judge = shipping.filled(VideoReader(), video_reader)
    encoder = shipping.filled(Autoencoder(), Path(folder_paths.get_full_path(storyworld.FOLDER, AUTOENCODER)))
    space = ip_adapter.load_tokens(names["ip_adapter"])
    predictors = {INTERPOLATED: motion.UNTRAINED}
    if files(weights)["predictor"].exists():
        predictors[PREDICTED] = names["predictor"]
    parts = storyworld.load_model(), storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision()
    loaded = {whose: motion.load_predictor(name, space) for whose, name in predictors.items()}
    return Studio(*parts, space, loaded, names["motion_module"], judge, encoder, steps or STEPS)


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two silhouettes that are moved onto each other's centre: of the pose alone."""
    x, y = np.rint(centre_of(other) - centre_of(mask)).astype(int)
    moved = np.roll(np.pad(mask, world.SIZE), (y, x), (0, 1))
    other = np.pad(other, world.SIZE)
    return float((moved & other).sum() / (moved | other).sum())


def judge(studio: Studio, task: Task, clip: np.ndarray) -> dict[str, float]:
    """Of a clip, beside what was drawn. path: mean distance of the hero from its true place, in pixels. pose: mean
    overlap of its silhouette with the true one. seen: share of frames that show it. All of the frames between."""
    between = range(1, FRAMES - 1)
    pairs = [(heroes_in(clip[at]), heroes_in(task.frames[at])) for at in between]
    pairs = [pair for pair in pairs if all(map(is_hero, pair))]
    said, right = studio.video_reader.answer(studio.encoder, clip[None]), truth(task.clip)
    figures = {
        "path": [np.linalg.norm(centre_of(mask) - centre_of(other)) for mask, other in pairs],
        "pose": [overlap(mask, other) for mask, other in pairs],
        "seen": [len(pairs) / len(between)],
        "action": [said["action"][0] == right["action"]],
        "every": [psnr(clip[1:-1], task.frames[1:-1])],
    }
    return {name: float(np.mean(values)) if values else float("nan") for name, values in figures.items()}


def measure(studio: Studio, setting: Setting, clips: int, seed: int, each=None) -> dict:
    """One row of the table. each(task, clip) is called with everything that was made."""
    judged = []
    for index in range(clips):
        task = make_task(seed, index)
        made = studio.make(setting, task)
        judged.append(judge(studio, task, made))
        if each:
            each(task, made)
    row = {"setting": setting.name, "stories": clips, "seed": seed, "frames": FRAMES}
    for name in judged[0]:
        figures = interval([one[name] for one in judged])
        row |= zip((name, f"{name}_low", f"{name}_high"), map(rounded, figures), strict=True)
    return row
