"""Semantic motion, decoded: frames by predicted tokens, by interpolated ones, and by the true ones, against the truth.

Decoders are the picture model with motion modules, which reads the tokens through IP-Adapter or after the text, and the
video model, a DynamiCrafter, which has tokens of its own and gets both ends. The caption names a hero's looks and its
scene, and not what it does: that is in the tokens alone. The hero's place and pose are found by its colors, which
nothing else in the world has.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.motion.trajectory import Trajectory
from storyreel.core.storyworld import captions, world

from ..report.rows import Rows, markdown, table
from ..train import export
from ..train.classifier import truth
from .frames import centre_of, frame_similarity, heroes_in, is_hero
from .motion_tokens import DRAWN_CLIPS, FILMS, LEARNED, measure_tokens
from .pipeline import FRAMES, ClipTask, Pipeline, Setting, Show, as_input, psnr
from .video import INTERPOLATE, ClipSetting, Video

GUIDANCE, SAMPLER, SCHEDULER = 2.0, "euler", "normal"
DRAWN, TRUE, PREDICTED, INTERPOLATED = "drawn", "true", "predicted", "interpolated"
ADAPTER, TEXT, DYNAMICRAFTER = "adapter", "text", "dynamicrafter"
WIDE = 0.25  # share of clips that cross the picture, as in training


@dataclass(frozen=True, kw_only=True)
class TokenSetting(Setting):
    """Clips whose tokens alone are compared: of the world, or of films, of which there are as many as there are."""

    clips: str


@dataclass(frozen=True, kw_only=True)
class MotionSetting(Setting):
    """How a clip is made. tokens: DRAWN, which is no model's but the truth through the autoencoder, or whose tokens.
    decoder: what reads them: IP-Adapter's layers, those of the text, or the video model, which has tokens of its own
    and no predictor of them. modules: whether motion modules connect the frames."""

    count: int = 24
    tokens: str
    decoder: str = ADAPTER
    modules: bool = True


TOKENS = (
    TokenSetting(name="tokens", clips=DRAWN_CLIPS, count=200),
    TokenSetting(name="tokens-real", clips=FILMS),
    TokenSetting(name="tokens-real-learnt", clips=LEARNED),
)
WHOSE = (INTERPOLATED, PREDICTED, TRUE)
DECODED = (
    MotionSetting(name=DRAWN, tokens=DRAWN),
    *(MotionSetting(name=whose, tokens=whose) for whose in WHOSE),
    *(MotionSetting(name=f"{whose}-text", tokens=whose, decoder=TEXT) for whose in WHOSE),
    *(MotionSetting(name=f"{whose}-single", tokens=whose, modules=False) for whose in WHOSE),
    *(MotionSetting(name=f"{w}-dynamicrafter", tokens=w, decoder=DYNAMICRAFTER) for w in (INTERPOLATED, TRUE)),
)
COLUMNS = ("path", "pose", "action", "seen", "every")
SIMILARITY = ("patches_first", "patches_frames", "clip_first", "clip_frames")
ERRORS = ("clips", "error, predicted", "error, interpolated", "gain", "cosine, predicted", "cosine, interpolated")


def make_task(seed: int, index: int) -> ClipTask:
    rng = Random(f"motion measure/{seed}/{index}")
    clip = replace(world.sample_clip(30_000 + seed, index, wide=WIDE), tempo=1.0, pan="")
    text = captions.caption(clip, {"scene", *captions.CHARACTER})
    return ClipTask(clip, text, rng.randrange(2**32))


class Motion(Pipeline):
    """The picture model with IP-Adapter, motion modules and a predictor, and the video model."""

    name, parts = "motion", ("video", *export.FOLDERS)
    settings = (*TOKENS, *DECODED)
    file_name = "measured_motion.jsonl"
    steps = 16

    def __init__(self, weights: Path | None = None, steps: int | None = None):
        import comfy.sd
        import comfy.utils
        import folder_paths
        from storyreel.host import storyworld
        from storyreel.host.common import folders
        from storyreel.host.motion import ip_adapter

        super().__init__(weights, steps)
        self.training_steps = steps
        for folder in export.FOLDERS.values():
            folders.file_names(folder)  # from now on the host knows the folder
            if self.weights:
                folder_paths.add_model_folder_path(folder, str(self.weights), is_default=True)
        lora = comfy.utils.load_torch_file(str(self.file("domain_adapter")), safe_load=True)
        self.model = comfy.sd.load_lora_for_models(storyworld.load_model(), None, lora, 1.0, 0.0)[0]
        self.token_encoder = ip_adapter.load_token_encoder(self.file("ip_adapter").name)

    @cached_property
    def interpolation(self):
        from storyreel.host.motion import predict

        return predict.load_predictor(predict.UNTRAINED, self.token_encoder)

    @cached_property
    def predictor(self):
        from storyreel.host.motion import predict

        return predict.load_predictor(self.file("predictor").name, self.token_encoder)

    @cached_property
    def video(self) -> Video:
        return Video(self.weights, self.steps)

    def tokens(self, whose: str, frames: np.ndarray, token_encoder=None) -> Trajectory:
        """Those of a clip: of all of its frames, or from the first and the last alone. token_encoder: of the video
        model, whose tokens are interpolated."""
        from storyreel.host.motion import predict

        encoder, count = token_encoder or self.token_encoder, len(frames)
        if whose == TRUE:
            tokens = encoder.encode(self.clip_vision, as_input(frames), count).float()
            if encoder.frames_per_image > 1:  # of every image for each frame
                tokens = tokens[range(count), range(count)]
            return Trajectory(tokens, encoder.token_space, encoder.uncond(self.clip_vision), "of every frame")
        predictor = self.predictor if whose == PREDICTED else self.interpolation
        if token_encoder is not None:
            predictor = predict.Predictor(token_encoder)
        ends = as_input(frames[:1]), as_input(frames[-1:])
        return predict.predict(predictor, self.clip_vision, ends, (0, count - 1), count)

    @torch.no_grad()
    def make(self, setting: MotionSetting, task: ClipTask) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        import comfy.sample
        from storyreel.host.motion.apply import apply_to_sd15

        if setting.tokens == DRAWN:
            return self.reconstruct(task.frames)
        if setting.decoder == DYNAMICRAFTER:
            return self.make_by_video_model(setting.tokens, task)
        tokens = self.tokens(setting.tokens, task.frames)
        module = self.file("motion_module").name if setting.modules else None
        adapter = None if setting.decoder == TEXT else self.token_encoder.name
        model = apply_to_sd15(self.model, tokens, module, adapter, own_schedule=False)
        empty = torch.zeros(FRAMES, self.vae.latent_channels, world.SIZE // 8, world.SIZE // 8)
        noise = comfy.sample.prepare_noise(empty, task.seed)
        sampling = self.steps, GUIDANCE, SAMPLER, SCHEDULER, *self.prompts(task.caption), empty
        return self.decode(comfy.sample.sample(model, noise, *sampling, disable_pbar=True, seed=task.seed))

    def make_by_video_model(self, whose: str, task: ClipTask) -> np.ndarray:
        """From the first frame to the last."""
        from storyreel.host.motion.apply import apply_to_dynamicrafter
        from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

        tokens = self.tokens(whose, task.frames, DynamiCrafterTokenEncoder(self.video.model))
        video = copy.copy(self.video)
        video.model = apply_to_dynamicrafter(video.model, tokens)
        return video.make(ClipSetting(name=INTERPOLATE, mode=INTERPOLATE), task)

    def evaluate(self, setting: MotionSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        task = make_task(seed, index)
        clip = self.make(setting, task)
        if show:
            show(task.caption, clip)
        return self.compare(task, clip)

    def compare(self, task: ClipTask, clip: np.ndarray) -> dict[str, float]:
        """Of a clip and what was drawn. path: mean distance of the hero from its true place, in pixels. pose: mean
        overlap of its silhouette with the true one. seen: share of frames that show it. All of the frames between. The
        rest says how similar the clip's own frames are, see `frame_similarity`."""
        between = range(1, FRAMES - 1)
        pairs = [(heroes_in(clip[at]), heroes_in(task.frames[at])) for at in between]
        pairs = [pair for pair in pairs if all(map(is_hero, pair))]
        path = [np.linalg.norm(centre_of(mask) - centre_of(other)) for mask, other in pairs]
        answers = self.video_classifier.answer(self.encoder, clip[None])
        return {
            "path": float(np.mean(path)) if pairs else float("nan"),
            "pose": float(np.mean([overlap(*pair) for pair in pairs])) if pairs else float("nan"),
            "seen": len(pairs) / len(between),
            "action": float(answers["action"][0] == truth(task.clip)["action"]),
            "every": psnr(clip[1:-1], task.frames[1:-1]),
            **frame_similarity(self.clip_vision, as_input(clip)),
        }

    def measure(self, setting: Setting, count: int, seed: int, show: Show | None = None) -> dict:
        if isinstance(setting, MotionSetting):
            return super().measure(setting, count, seed, show)
        drawn = (as_input(make_task(seed, index).frames) for index in range(count))
        with torch.no_grad():
            clips, results = measure_tokens(setting.clips, self, drawn, self.training_steps)
        return {"setting": setting.name, "stories": clips, "seed": seed, "frames": setting.frames} | results

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        found = rows.of(weights)
        by_name = {row["setting"]: row for row in found.values()}
        errors = [[one.name, *_errors(by_name[one.name])] for one in TOKENS if one.name in by_name]

        def decoded(columns: tuple[str, ...]) -> list[str]:
            return table(found, DECODED, columns, ["setting"], lambda setting: [setting.name])

        return {
            "tokens": markdown(["setting", *ERRORS], errors),
            "motion": decoded(COLUMNS),
            "likeness": decoded(SIMILARITY),
        }


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two silhouettes that are moved onto each other's centre: of the pose alone."""
    x, y = np.rint(centre_of(other) - centre_of(mask)).astype(int)
    moved = np.roll(np.pad(mask, world.SIZE), (y, x), (0, 1))
    other = np.pad(other, world.SIZE)
    return float((moved & other).sum() / (moved | other).sum())


def _errors(row: dict) -> list[str]:
    """The cells of a row of tokens: squared errors, and the gain with its 95 % interval."""
    gain = f"{row['gain']:.1%} ({row['gain_low']:.1%} to {row['gain_high']:.1%})"
    cosines = [f"{row[name]:.4f}" for name in ("cosine", "cosine_interpolation")]
    return [str(row["stories"]), f"{row['mse']:.4g}", f"{row['mse_interpolation']:.4g}", gain, *cosines]
