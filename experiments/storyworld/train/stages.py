"""The stages of the training in their order, each building on the files of those before."""

from __future__ import annotations  # a stage is called like the module that its annotations name

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from . import autoencoder, clip, export, motion, predictor, streaming, unet, video
from . import classifier as reader
from . import clips as clips_data
from . import motion_clips as motion_data
from . import pictures as data
from . import video_classifier as video_reader
from .tokenizer import Vocabulary
from .trainer import Plan, device

LEAST_PICTURES, LEAST_CLIPS, LEAST_BATCH = 32, 8, 2  # of a tried-out stage


class Training:
    """One run: `folder` holds data, states and results. seed concerns the UNets, twins the pictures' alone. scale:
    share of the recipe's steps, batches and pictures, to try the whole thing out. stop_after: raise `Stopped` after
    this step of a stage. shipped: folders of what ships, on which a stage builds where this run has not trained its
    own."""

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        twins: bool = True,
        scale: float = 1.0,
        stop_after: int | None = None,
        shipped: Sequence[Path] = (),
    ):
        self.shipped = shipped
        self.folder, self.scale, self.stop_after = folder, scale, stop_after
        self.seed, self.twins = seed, twins
        self.picture_data = self._fewer(clip.DATA)
        if not twins:
            self.picture_data = replace(self.picture_data, twins=0.0, triplets=0.0)
        numbered = "" if seed == 0 else f"_{seed}"
        self.unet_name = "unet" + numbered + ("" if twins else "_no_twins")
        self.video_name, self.streaming_name = "video" + numbered, "streaming" + numbered

    def autoencoder(self) -> None:
        plan, recipe = self._shorter(autoencoder.PLAN), self._fewer(autoencoder.DATA)
        model, figures = autoencoder.train_autoencoder(self.folder, plan, recipe, self._fewer(autoencoder.HELD_OUT))
        self._save("autoencoder", model.state_dict(), {}, plan, recipe, figures)

    def clip(self) -> None:
        plan, recipe = self._shorter(clip.PLAN), self._fewer(clip.DATA)
        vocabulary = self._vocabulary
        towers, figures = clip.train_clip(
            self.folder,
            vocabulary,
            plan,
            self._shorter(clip.SIGHT_PLAN),
            recipe,
            self._fewer(clip.HELD_OUT),
        )
        config = {
            "text": {name: value for name, value in clip.TEXT_CONFIG.items() if value is not None},
            "vision": clip.VISION_CONFIG,
            "token_ids": vocabulary.token_ids,
        }
        self._save("clip", towers.weights(), config, plan, recipe, figures)

    def classifier(self) -> None:
        plan = self._shorter(reader.PLAN)
        pictures = data.draw(self._fewer(clip.DATA), self.folder / "data")
        model, figures = reader.train_reader(
            self.folder, self._autoencoder(), pictures, plan, self._fewer(reader.HELD_OUT)
        )
        self._save("classifier", model.state_dict(), {"answers": reader.ANSWERS}, plan, pictures.recipe, figures)

    def pictures(self) -> None:
        plan = replace(self._shorter(unet.PLAN), seed=self.seed)
        pictures = data.draw(self.picture_data, self.folder / "data")
        vocabulary = self._vocabulary
        towers = self._towers(vocabulary)
        encoder = self._autoencoder()
        model, latents = unet.train_unet(self.folder, self.unet_name, encoder, towers, vocabulary, pictures, plan)
        config = {"unet": unet.CONFIG, **latents, "rgb": preview_factors(encoder, pictures, latents["spread"])}
        self._save(self.unet_name, model.state_dict(), config, plan, pictures.recipe, {})

    def video(self) -> None:
        frames_plan, plan = (replace(self._shorter(each), seed=self.seed) for each in (video.FRAMES_PLAN, video.PLAN))
        vocabulary = self._vocabulary
        latents = self._latents()
        model, clips = video.train_video(
            self.folder,
            self.video_name,
            self._autoencoder(),
            self._towers(vocabulary),
            vocabulary,
            latents["spread"],
            export.load(self._known("unet"))[0],
            frames_plan,
            plan,
            self._fewer(video.DATA),
        )
        kind = video.metadata(**latents)
        told = _as_dict(plan) | {"before, on single frames": f"{frames_plan.steps} x {frames_plan.batch}"}
        self._save(self.video_name, model.state_dict(), {}, told, clips.recipe, {}, storyreel_dynamicrafter=kind)

    def streaming_base(self) -> None:
        self._streaming(streaming.BASE, export.load(self._known("unet"))[0])

    def streaming_cam(self) -> None:
        self._streaming(streaming.CAM, self._streaming_parts(streaming.BASE))

    def streaming_apm(self) -> None:
        """And the whole model in one file."""
        self._streaming(streaming.APM, self._streaming_parts(streaming.BASE, streaming.CAM))

    def _streaming_parts(self, *parts: str) -> dict[str, Tensor]:
        known = {}
        for part in parts:
            known |= export.load(self._known(f"{self.streaming_name}_{part}"))[0]
        return known

    def _streaming(self, part: str, known: dict[str, Tensor]) -> None:
        name = f"{self.streaming_name}_{part}"
        plan = replace(self._shorter(streaming.PLANS[part]), seed=self.seed)
        vocabulary, latents = self._vocabulary, self._latents()
        model, clips = streaming.train_part(
            part,
            self.folder,
            name,
            self._autoencoder(),
            self._towers(vocabulary),
            vocabulary,
            latents["spread"],
            known,
            plan,
            self._fewer(streaming.DATA),
        )
        self._save(name, model.weights_of(part), {}, plan, clips.recipe, {})
        if part == streaming.APM:
            plans = self._streaming_plans()
            told = {"storyreel_streaming": streaming.metadata(**latents)}
            self._save(self.streaming_name, model.published(), {}, plans, clips.recipe, {}, **told)

    def _streaming_plans(self) -> dict:
        """Of all three parts."""
        plans = {}
        for part in streaming.PLANS:
            recipe = export.load(self._known(f"{self.streaming_name}_{part}"))[1]["recipe"]
            plans |= {f"{part} {name}": value for name, value in recipe["plan"].items()}
        return plans

    def video_classifier(self) -> None:
        plan, encoder = self._shorter(video_reader.PLAN), self._autoencoder()
        vision, folder = self._towers(self._vocabulary).vision, self.folder / "data"
        clips = clips_data.draw_clips(self._fewer(video.DATA), encoder, vision, folder)
        held_out = clips_data.draw_clips(self._fewer(video_reader.HELD_OUT), encoder, vision, folder)
        model = video_reader.train_video_reader(self.folder, clips, plan)
        figures = video_reader.measure(model, encoder, held_out)
        config = {"answers": video_reader.ANSWERS}
        self._save("video_classifier", model.state_dict(), config, plan, clips.recipe, figures)

    def ip_adapter(self) -> None:
        plan, lessons = self._shorter(motion.ADAPTER_PLAN), self._lessons()
        model, domain = motion.train_adapter(self.folder, "ip_adapter", lessons, plan)
        self._save("ip_adapter", model.state_dict(), {}, plan, lessons.clips.recipe, {})
        self._save("domain_adapter", domain.weights(), {}, plan, lessons.clips.recipe, {})

    def motion_module(self) -> None:
        plan, lessons = self._shorter(motion.MODULES_PLAN), self._lessons()
        adapters = [export.load(self._known(part))[0] for part in ("ip_adapter", "domain_adapter")]
        model = motion.train_modules(self.folder, "motion_module", lessons, *adapters, plan)
        self._save("motion_module", model.state_dict(), {}, plan, lessons.clips.recipe, {})

    def predictor(self) -> None:
        from storyreel.core.networks.semantic_motion.config import METADATA, TRAINING, read_training
        from storyreel.host.motion.training import result_metadata

        plan, path = self._shorter(predictor.PLAN), self._path("predictor")
        vision = self._towers(self._vocabulary).vision
        recipe, folder = self._fewer(motion_data.DATA), self.folder / "data"
        clips = motion_data.draw_motions(recipe, self._autoencoder(), vision, folder)
        adapter = export.load(self._known("ip_adapter"))[0]
        tokens = predictor.token_files(clips, vision, adapter, folder)
        run = predictor.run_of(tokens, plan)
        if path.exists() and read_training(export.load(path)[1]).get("run") == run:
            print(f"predictor: {path.name} is there")
            return
        weights, figures, log = predictor.train_predictor(self.folder, "predictor", tokens, plan, self.stop_after)
        told = {METADATA: asdict(predictor.CONFIG), TRAINING: {"run": run, **result_metadata(figures, log)}}
        self._save("predictor", weights, {}, plan, recipe, asdict(figures), **told)

    def _lessons(self) -> motion.Lessons:
        vocabulary = self._vocabulary
        pictures, spread = export.load(self._known("unet"))[0], self._latents()["spread"]
        towers, recipe = self._towers(vocabulary), self._fewer(motion_data.DATA)
        return motion.Lessons(self.folder, self._autoencoder(), towers, vocabulary, pictures, spread, recipe)

    def _known(self, part: str) -> Path:
        """The file of an earlier stage."""
        return export.find(part, self.folder, *self.shipped)

    def _path(self, part: str) -> Path:
        """Where a stage leaves its file."""
        return self.folder / f"{part}.safetensors"

    def _save(
        self,
        part: str,
        weights: dict[str, Tensor],
        config: dict,
        plan: Plan | dict,
        recipe,
        figures: dict,
        **told: dict,
    ) -> None:
        trained = {"plan": plan if isinstance(plan, dict) else _as_dict(plan), "pictures": asdict(recipe)}
        export.save(self._path(part), part, weights, config, trained, figures, **told)

    def _autoencoder(self) -> nn.Module:
        model = export.filled(autoencoder.Autoencoder(), self._known("autoencoder"))
        return model.to(device(), memory_format=torch.channels_last)

    def _latents(self) -> dict:
        """The units of the picture model: in those its latents may go into the video models."""
        config = export.load(self._known("unet"))[1]["config"]
        return {name: config[name] for name in ("spread", "rgb")}

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        from comfy.sd1_clip import SDTokenizer

        return Vocabulary(SDTokenizer())

    def _towers(self, vocabulary: Vocabulary) -> clip.Towers:
        towers = clip.Towers(vocabulary)
        towers.load_weights(export.load(self._known("clip"))[0])
        return towers.to(device()).eval()

    def _shorter(self, plan):
        """A plan of either trainer."""
        name, more = ("batch", {"stop_after": self.stop_after}) if isinstance(plan, Plan) else ("batch_size", {})
        more[name] = max(LEAST_BATCH, round(getattr(plan, name) * self.scale))
        return replace(plan, steps=max(2, round(plan.steps * self.scale)), **more)

    def _fewer(self, recipe):
        least = LEAST_PICTURES if isinstance(recipe, data.Recipe) else LEAST_CLIPS
        return replace(recipe, count=max(least, round(recipe.count * self.scale)))


def _as_dict(plan: Plan) -> dict:
    return {name: value for name, value in asdict(plan).items() if name != "stop_after"}


@torch.no_grad()
def preview_factors(encoder: nn.Module, pictures: data.Pictures, spread: float) -> list[list[float]]:
    """Least squares from latents to colours [13, 3], the last row a constant: what the host's quick previews use."""
    images = autoencoder.to_tensor(pictures.images[:256])
    latents = (encoder.encode(images) / spread).permute(0, 2, 3, 1).flatten(0, 2)
    colours = nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1).flatten(0, 2)
    design = torch.cat([latents, torch.ones(len(latents), 1, device=latents.device)], 1)
    return torch.linalg.lstsq(design.double().cpu(), colours.double().cpu()).solution.tolist()
