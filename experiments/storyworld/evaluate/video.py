"""What the video model makes of clips that it never saw: the given picture kept, the caption obeyed, the scene still.

Every gentle action is asked of the SAME picture, so that nothing but the caption can tell them apart. The clips come
from the host's sampler through the nodes' own functions, and readers say what they show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pack
import torch
from torch.nn.functional import max_pool2d

pack.load_pack()
from storyreel.core.storyworld import attributes as words  # noqa: E402
from storyreel.core.storyworld import captions, world  # noqa: E402
from storyreel.core.storyworld.attributes import Clip  # noqa: E402

from ..train import export as shipping  # noqa: E402
from ..train.autoencoder import Autoencoder  # noqa: E402
from ..train.classifier import Reader  # noqa: E402
from ..train.video_classifier import ANSWERS, VideoReader, truth  # noqa: E402
from .pictures import interval, rounded  # noqa: E402

FRAMES, STEPS, SPACING = 16, 16, "uniform_trailing"
TEXT_SCALE, IMAGE_SCALE, RESCALE = 2.0, 2.0, 0.7
ETA = 1.0  # as published
AUTOENCODER = "autoencoder.safetensors"
COLOURS = ("colour", "hat colour", "scarf colour")
NEAR_HERO = 12  # pixels around it are not background: its shadow is there
STILL = 4.0  # of 255: mean difference of a background that does not move
ANIMATE, INTERPOLATE, LOOP = "animate", "interpolate", "loop"


@dataclass(frozen=True)
class Setting:
    """What the model is told, and how strongly. drawn: no model, the drawings themselves through the autoencoder."""

    name: str
    mode: str = ANIMATE
    actions: tuple[str, ...] = words.GENTLE_ACTIONS
    drawn: bool = False
    text: bool = True
    image: bool = True
    beside: bool = True
    cfg_text: float = TEXT_SCALE
    cfg_image: float = IMAGE_SCALE


def read_setting(name: str) -> Setting:
    """A setting from its name: animate, interpolate or loop, or drawn; then what differs, each after a dash: wide (the
    actions that cross the picture), no-text, no-image, no-beside, scales-3-1.5 (of text and image).
    Raises ValueError for a name that says something else."""
    match = re.fullmatch(
        r"(drawn|animate|interpolate|loop)(-wide)?((?:-no-(?:text|image|beside))*)(?:-scales-([\d.]+)-([\d.]+))?", name
    )
    if not match:
        raise ValueError(f'"{name}" is no setting; animate, loop, animate-no-text, animate-scales-3-1 would be some.')
    mode, wide, without, cfg_text, cfg_image = match.groups()
    return Setting(
        name,
        mode=ANIMATE if mode == "drawn" else mode,
        actions=words.WIDE_ACTIONS if wide else words.GENTLE_ACTIONS,
        drawn=mode == "drawn",
        **{part: part not in without for part in ("text", "image", "beside")},
        cfg_text=float(cfg_text or TEXT_SCALE),
        cfg_image=float(cfg_image or IMAGE_SCALE),
    )


@dataclass(frozen=True)
class Task:
    """A clip to be made: the truth, drawn, and the caption."""

    clip: Clip
    frames: np.ndarray  # uint8 [T, 128, 128, 3]
    background: np.ndarray  # bool [128, 128], where no hero comes near
    caption: str
    seed: int


def make_tasks(setting: Setting, seed: int, index: int) -> list[Task]:
    """One task for each action, all from one picture. In the other modes than animate a single action, by chance."""
    rng = Random(f"video measure/{seed}/{index}")
    start = replace(world.sample_clip(10_000 + seed, index, wide=0.0), tempo=1.0, pan="")
    looks = {name for name in (*COLOURS, "shape", "hat") if rng.random() < 1 / 3}
    actions = setting.actions if setting.mode == ANIMATE else [rng.choice(setting.actions)]
    tasks = []
    for action in actions:
        clip = replace(start, figures=(replace(start.figures[0], action=action),))
        drawn = world.render_clip(clip, FRAMES)
        heroes = torch.from_numpy(drawn.masks.any((0, 1)))[None].float()
        background = max_pool2d(heroes, 2 * NEAR_HERO + 1, 1, NEAR_HERO)[0].numpy() == 0
        text = captions.caption(clip, {"action", "scene", *looks})
        tasks.append(Task(clip, drawn.image, background, text, rng.randrange(2**32)))
    return tasks


class Maker:
    """The models in the host's hands."""

    def __init__(self, model, clip, vae, clip_vision):
        self.model, self.clip, self.vae, self.clip_vision = model, clip, vae, clip_vision

    @torch.no_grad()
    def make(self, setting: Setting, task: Task) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        if setting.drawn:
            return self.decode(self.vae.encode(as_input(task.frames)))
        positive, image_only, negative, latent = self.tell(setting, task)
        return self.decode(self.sample(setting, (positive, image_only, negative), latent["samples"], task.seed))

    def tell(self, setting: Setting, task: Task) -> tuple:
        from storyreel.host.dynamicrafter import conditioning as conditioning
        from storyreel.host.dynamicrafter import model as keys

        text = task.caption if setting.text else ""
        prompts = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt)) for prompt in (text, "")]
        start, end = as_input(task.frames[:1]), as_input(task.frames[-1:])
        size = world.SIZE
        told = conditioning.condition(
            *prompts,
            self.clip_vision,
            self.vae,
            start,
            end if setting.mode == INTERPOLATE else None,
            setting.mode,
            size,
            size,
            FRAMES,
            None,
        )
        for conds in told[:3]:
            for _, options in conds:
                if not setting.beside:
                    options[keys.CONCAT_LATENTS] = torch.zeros_like(options[keys.CONCAT_LATENTS])
                if not setting.image:
                    options[keys.VISION_TOKENS] = told[2][0][1][keys.VISION_TOKENS]
        return told

    def sample(self, setting: Setting, conds: tuple, empty: torch.Tensor, seed: int) -> torch.Tensor:
        import comfy.sample
        from storyreel.host.dynamicrafter import sampling as sampling

        guider = sampling.TextImageGuider(self.model)
        guider.set_conds(*conds)
        guider.set_scales(setting.cfg_text, setting.cfg_image, RESCALE)
        noise = comfy.sample.prepare_noise(empty, seed)
        sigmas = sampling.sigmas_of(self.model, SPACING, STEPS)
        return guider.sample(noise, empty, sampling.DDIM(ETA), sigmas, disable_pbar=True, seed=seed)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        return (self.vae.decode(latents) * 255).round().byte().numpy()


class Studio(Maker):
    """And the judges of what they make."""

    def __init__(self, *models, reader: Reader, video_reader: VideoReader, encoder: Autoencoder):
        super().__init__(*models)
        self.reader, self.video_reader, self.encoder = reader, video_reader, encoder


def as_input(images: np.ndarray) -> torch.Tensor:
    """The host's IMAGE."""
    return torch.from_numpy(images.copy()).float() / 255


def open_studio(video: Path, weights: Path | None, reader: Path, video_reader: Path) -> Studio:
    """The models that ship, or those of another folder. video: the video model's file."""
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import loader

    for folder in (weights, video.parent):
        if folder:
            folder_paths.add_model_folder_path(storyworld.FOLDER, str(folder), is_default=True)
    storyworld.register()
    judges = {
        "reader": shipping.filled(Reader(), reader),
        "video_reader": shipping.filled(VideoReader(), video_reader),
        "encoder": shipping.filled(Autoencoder(), Path(folder_paths.get_full_path(storyworld.FOLDER, AUTOENCODER))),
    }
    model = loader.load(video.name).model
    parts = storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision()
    return Studio(model, *parts, **judges)


def psnr(images: np.ndarray, others: np.ndarray, where: np.ndarray | None = None) -> float:
    """In dB, of uint8 pictures; where: of these pixels only."""
    error = (images.astype(np.float64) - others) ** 2
    error = error.mean() if where is None else error[where].mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def judge(studio: Studio, setting: Setting, tasks: list[Task], clips: list[np.ndarray]) -> dict[str, float]:
    """Means over clips that were made from one picture."""
    found: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, figure in figures.items():
            found.setdefault(name, []).append(float(figure))

    said = studio.video_reader.answer(studio.encoder, np.stack(clips))
    last = studio.reader.answer(np.stack([clip[-1] for clip in clips]))
    for number, (task, clip) in enumerate(zip(tasks, clips, strict=True)):
        right, look = truth(task.clip), words.attributes(task.clip)
        note(**{name: said[name][number] == right[name] for name in ANSWERS if name != "pan"})
        kept = [last[name][number] == look[name] for name in COLOURS]
        note(first=psnr(clip[0], task.frames[0]), every=psnr(clip, task.frames), colours=all(kept))
        moved = np.abs(clip.astype(np.int16) - clip[:1]).mean(-1)[:, task.background].mean(1)
        note(still=moved.max() <= STILL, scene=last["scene"][number] == look["scene"])
        if setting.mode == INTERPOLATE:
            middle = FRAMES // 2
            blend = np.linspace(0, 1, FRAMES)[middle] * (task.frames[-1].astype(np.float64) - task.frames[0])
            blend = blend + task.frames[0]
            moving = (np.abs(task.frames[middle].astype(np.int16) - task.frames[0]).max(-1) > 16) | (
                np.abs(task.frames[middle].astype(np.int16) - task.frames[-1]).max(-1) > 16
            )
            note(middle=psnr(clip[middle], task.frames[middle]), blend=psnr(blend, task.frames[middle]))
            if moving.any():
                note(middle_moving=psnr(clip[middle], task.frames[middle], moving))
                note(blend_moving=psnr(blend, task.frames[middle], moving))
            note(last=psnr(clip[-1], task.frames[-1]))
        if setting.mode == LOOP:
            seam, away = (psnr(clip[frame], clip[0]) for frame in (-1, FRAMES // 2))
            note(seam=seam, away=away)
    return {name: float(np.mean(figures)) for name, figures in found.items()}


def measure(studio: Studio, setting: Setting, pictures: int, seed: int, each=None) -> dict:
    """One row of the table. each(tasks, clips) is called with what was made from every picture."""
    judged = []
    for index in range(pictures):
        tasks = make_tasks(setting, seed, index)
        clips = [studio.make(setting, task) for task in tasks]
        judged.append(judge(studio, setting, tasks, clips))
        if each:
            each(tasks, clips)
    row = {"setting": setting.name, "stories": pictures, "seed": seed, "frames": FRAMES}
    for name in dict.fromkeys(name for one in judged for name in one):
        figures = interval([one.get(name, float("nan")) for one in judged])
        row |= zip((name, f"{name}_low", f"{name}_high"), map(rounded, figures), strict=True)
    return row
