"""Semantic motion, decoded: frames by predicted tokens, by interpolated ones, and by the true ones, beside the truth.

Decoders are the picture model with motion modules, which looks at the tokens through IP-Adapter or beside the text, and
the video model, a DynamiCrafter, which has tokens of its own and sees both ends. Each is told how a hero looks and in
which scene it is, and not what it does: that stands in the tokens alone. Where the hero is and how it holds itself are
seen by its colours, which nothing else in the world has.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pack
import torch
from torch import Tensor

pack.load_pack()
from storyreel.core.motion.trajectory import Trajectory  # noqa: E402
from storyreel.core.storyworld import captions, world  # noqa: E402
from storyreel.core.storyworld.attributes import Clip  # noqa: E402

from ..train import export as shipping  # noqa: E402
from ..train.autoencoder import Autoencoder  # noqa: E402
from ..train.video_classifier import VideoReader, truth  # noqa: E402
from . import video as video_measure  # noqa: E402
from .detection import centre_of, heroes_in, is_hero  # noqa: E402
from .pictures import interval, rounded  # noqa: E402
from .similarity import likeness  # noqa: E402
from .video import AUTOENCODER, as_input, psnr  # noqa: E402

FRAMES, STEPS, GUIDANCE, SAMPLER, SCHEDULER = 16, 16, 2.0, "euler", "normal"
DRAWN, TRUE, PREDICTED, INTERPOLATED = "drawn", "true", "predicted", "interpolated"
ADAPTER, TEXT, DYNAMICRAFTER = "", "text", "dynamicrafter"
WIDE = 0.25  # share of clips that cross the picture, as in training


@dataclass(frozen=True)
class Setting:
    """How a clip is made. tokens: DRAWN, which is no model's but the truth through the autoencoder, or whose tokens.
    decoder: what looks at them, IP-Adapter's layers, those of the text, or the video model, which has tokens of its own
    and no predictor of them. modules: whether frames know each other."""

    name: str
    tokens: str
    decoder: str = ADAPTER
    modules: bool = True


def read_setting(name: str) -> Setting:
    """A setting from its name: drawn, true, predicted or interpolated; behind a dash text, and single (no motion
    modules), or dynamicrafter. Raises ValueError for a name that says something else."""
    match = re.fullmatch(rf"({DRAWN}|{TRUE}|{PREDICTED}|{INTERPOLATED})(?:-({TEXT}))?(-single)?", name)
    match = match or re.fullmatch(rf"({TRUE}|{INTERPOLATED})-({DYNAMICRAFTER})()", name)
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
    token_encoder: object
    predictors: dict[str, object]
    module: str
    video_reader: VideoReader
    encoder: Autoencoder
    video: video_measure.Maker | None
    steps: int

    @torch.no_grad()
    def tokens(self, whose: str, frames: np.ndarray, token_encoder=None) -> Trajectory:
        """Those of a clip: of all of its frames, or from the first and the last alone. token_encoder: by default the
        predictors'."""
        from storyreel.host.motion import predict

        predictor = self.predictors.get(whose) if token_encoder is None else predict.Predictor(token_encoder)
        token_encoder, count = token_encoder or self.token_encoder, len(frames)
        if whose == TRUE:
            seen = token_encoder.encode(self.clip_vision, as_input(frames), count).float()
            if token_encoder.frames_per_image > 1:  # of every picture for each frame
                seen = seen[range(count), range(count)]
            return Trajectory(seen, token_encoder.token_space, token_encoder.uncond(self.clip_vision), "of every frame")
        ends = as_input(frames[:1]), as_input(frames[-1:])
        return predict.predict(predictor, self.clip_vision, ends, (0, count - 1), count)

    def make(self, setting: Setting, task: Task) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        import comfy.sample
        from storyreel.host.motion.apply import apply_to_sd15

        if setting.tokens == DRAWN:
            return self.decode(self.vae.encode(as_input(task.frames)))
        if setting.decoder == DYNAMICRAFTER:
            return self.film(setting.tokens, task)
        tokens = self.tokens(setting.tokens, task.frames)
        module = self.module if setting.modules else None
        adapter = None if setting.decoder == TEXT else self.token_encoder.name
        model = apply_to_sd15(self.model, tokens, module, adapter, own_schedule=False)
        conds = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (task.caption, "")]
        empty = torch.zeros(FRAMES, self.vae.latent_channels, world.SIZE // 8, world.SIZE // 8)
        noise = comfy.sample.prepare_noise(empty, task.seed)
        told = self.steps, GUIDANCE, SAMPLER, SCHEDULER, *conds, empty
        return self.decode(comfy.sample.sample(model, noise, *told, disable_pbar=True, seed=task.seed))

    def film(self, whose: str, task: Task) -> np.ndarray:
        """By the video model, from the first frame to the last."""
        from storyreel.host.motion.apply import apply_to_dynamicrafter
        from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

        tokens = self.tokens(whose, task.frames, DynamiCrafterTokenEncoder(self.video.model))
        maker = copy.copy(self.video)
        maker.model = apply_to_dynamicrafter(maker.model, tokens)
        return maker.make(video_measure.read_setting(video_measure.INTERPOLATE), task)

    def decode(self, latents: Tensor) -> np.ndarray:
        return (self.vae.decode(latents) * 255).round().byte().numpy()


def files(weights: Path | None) -> dict[str, Path]:
    """{part: file} of what ships, or of what a training left in a folder."""
    if weights:
        return {part: weights / f"{part}.safetensors" for part in shipping.FOLDERS}
    return {part: pack.ROOT / "models" / "storyworld" / shipping.file_name(part) for part in shipping.FOLDERS}


def open_studio(weights: Path | None, video: Path | None, video_reader: Path, steps: int | None = None) -> Studio:
    """The models that ship, or those that a training left in a folder. video: the video model's file, for settings that
    name it. steps: of sampling, if not STEPS."""
    import comfy.sd
    import comfy.utils
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.common import folders
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.motion import ip_adapter, predict

    storyworld.register()
    names = {part: file.name for part, file in files(weights).items()}
    for folder in shipping.FOLDERS.values():
        folders.file_names(folder)  # from now on the host knows of it
    for folder in (storyworld.FOLDER, *shipping.FOLDERS.values()) if weights else ():
        folder_paths.add_model_folder_path(folder, str(weights.resolve()), is_default=True)
    judge = shipping.filled(VideoReader(), video_reader)
    encoder = shipping.filled(Autoencoder(), Path(folder_paths.get_full_path(storyworld.FOLDER, AUTOENCODER)))
    token_encoder = ip_adapter.load_token_encoder(names["ip_adapter"])
    predictors = {INTERPOLATED: predict.UNTRAINED}
    if files(weights)["predictor"].exists():
        predictors[PREDICTED] = names["predictor"]
    lora = comfy.utils.load_torch_file(folders.path_of("loras", names["domain_adapter"]), safe_load=True)
    adapted = comfy.sd.load_lora_for_models(storyworld.load_model(), None, lora, 1.0, 0.0)[0]
    parts = adapted, storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision()
    loaded = {whose: predict.load_predictor(name, token_encoder) for whose, name in predictors.items()}
    film = None
    if video:
        folder_paths.add_model_folder_path(storyworld.FOLDER, str(video.resolve().parent))
        film = video_measure.Maker(loader.load(video.name).model, *parts[1:])
    return Studio(*parts, token_encoder, loaded, names["motion_module"], judge, encoder, film, steps or STEPS)


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two silhouettes that are moved onto each other's centre: of the pose alone."""
    x, y = np.rint(centre_of(other) - centre_of(mask)).astype(int)
    moved = np.roll(np.pad(mask, world.SIZE), (y, x), (0, 1))
    other = np.pad(other, world.SIZE)
    return float((moved & other).sum() / (moved | other).sum())


def judge(studio: Studio, task: Task, clip: np.ndarray) -> dict[str, float]:
    """Of a clip, beside what was drawn. path: mean distance of the hero from its true place, in pixels. pose: mean
    overlap of its silhouette with the true one. seen: share of frames that show it. All of the frames between. The rest
    says how alike the clip's own frames are, see `likeness`."""
    between = range(1, FRAMES - 1)
    pairs = [(heroes_in(clip[at]), heroes_in(task.frames[at])) for at in between]
    pairs = [pair for pair in pairs if all(map(is_hero, pair))]
    said, right = studio.video_reader.answer(studio.encoder, clip[None]), truth(task.clip)
    alike = likeness(studio.clip_vision, as_input(clip))
    figures = {
        "path": [np.linalg.norm(centre_of(mask) - centre_of(other)) for mask, other in pairs],
        "pose": [overlap(mask, other) for mask, other in pairs],
        "seen": [len(pairs) / len(between)],
        "action": [said["action"][0] == right["action"]],
        "every": [psnr(clip[1:-1], task.frames[1:-1])],
        **{name: [figure] for name, figure in alike.items()},
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
