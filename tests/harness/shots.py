"""Animate Story on a tiny video model in the real host, and the same shot wired by hand from the host's nodes."""

from pathlib import Path

import torch
from storyreel.core.video.files import read_frames, to_bytes

from . import video_models

STEPS, SEED, CFG, FPS = 4, 5, 3.0, 16.0
NEGATIVE_ROWS = 1


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def keyframes(count: int, side: int) -> torch.Tensor:
    """Images of noise over a color each, twice as large as a shot: nodes must scale them down."""
    generator = torch.Generator().manual_seed(3)
    colors = torch.rand(count, 1, 1, 3, generator=generator)
    return (0.5 * colors + 0.5 * torch.rand(count, 2 * side, 2 * side, 3, generator=generator)).clamp(0, 1)


class Stage:
    """A graph with the parts of one family, made anew for each run so that no state passes between two.

    Node "parts" gives MODEL, VAE, CLIP_VISION, positive, negative, images, a second MODEL and a VAE of sound.
    """

    def __init__(self, host, name: str, shots: int = 2):
        self.host, self.name, self.family = host, name, video_models.FAMILIES[name]
        self.side = 64  # the least of the node
        vision = self.family.vision
        self.parts = {
            "MODEL": video_models.build(name),
            "VAE": self.family.vae(),
            "CLIP_VISION": vision() if vision else None,
            "positive": video_models.prompt(name, shots, 1),
            "negative": video_models.prompt(name, NEGATIVE_ROWS, 2),
            "images": keyframes(shots + 1, self.side),
            "low": video_models.build(name, seed=8),
            "audio": self.family.audio() if self.family.audio else None,
        }

    def provider(self):
        from comfy_api.latest import io

        parts = self.parts
        types = dict(VAE=io.Vae, CLIP_VISION=io.ClipVision, positive=io.Conditioning, negative=io.Conditioning)
        types = {"MODEL": io.Model} | types | dict(images=io.Image, low=io.Model, audio=io.Vae)

        class Parts(io.ComfyNode):
            @classmethod
            def define_schema(cls) -> io.Schema:
                outputs = [type.Output(display_name=name) for name, type in types.items()]
                version = io.Int.Input("version", default=0)
                return io.Schema(node_id="TestParts", inputs=[version], outputs=outputs)

            @classmethod
            def execute(cls, version) -> io.NodeOutput:
                return io.NodeOutput(*(parts[name] for name in types))

        return Parts

    def link(self, name: str) -> list:
        return ["parts", list(self.parts).index(name)]

    def prompt(self, **inputs) -> dict:
        """A graph whose Animate Story is node "shots"."""
        shot = dict(model=self.link("MODEL"), vae=self.link("VAE"), keyframes=self.link("images"))
        shot |= {name: self.link(name) for name in ("positive", "negative")}
        if self.family.vision:
            shot["clip_vision"] = self.link("CLIP_VISION")
        shot |= dict(mode="animate", width=self.side, height=self.side, frames=self.family.frames, fs=0)
        shot |= dict(cfg_text=CFG, cfg_image=7.5, cfg_rescale=0.7, seed=SEED, fps=FPS)
        shot |= dict(sampler=["sampler", 0], sigmas=["sigmas", 0])
        return self.sampling() | {
            "shots": node("StoryReelAnimateStory", **shot | inputs),
            "save": node("SaveVideo", video=["shots", 0], filename_prefix="shots", format="auto", codec="auto"),
        }

    def sampling(self) -> dict:
        schedule = dict(scheduler="simple", steps=STEPS, denoise=1.0)
        return {
            "parts": node("TestParts", version=0),
            "sampler": node("KSamplerSelect", sampler_name="euler"),
            "sigmas": node("BasicScheduler", model=self.link("MODEL"), **schedule),
        }

    def run(self, prompt: dict):
        with self.host.node(self.provider()):
            return self.host.run(prompt)

    def frames(self, nodes: dict, number: int, start: int, end: int | None = None) -> torch.Tensor:
        """The frames of node "decoded", see `values`."""
        return self.values(nodes, number, start, end)["decoded"][0]

    def values(self, nodes: dict, number: int, start: int, end: int | None = None) -> dict[str, tuple]:
        """{id: outputs} of nodes wired by hand, "decoded" among them, which link to node "shot": the prompts of shot
        `number`, positive and negative, then the keyframes of the numbers `start` and `end`."""
        from comfy_api.latest import io
        from storyreel.host.common.conditioning import pick_row

        images = [self.parts["images"][index][None] for index in (start, end) if index is not None]
        rows = [pick_row(self.parts[name], number) for name in ("positive", "negative")]

        class Shot(io.ComfyNode):
            @classmethod
            def define_schema(cls) -> io.Schema:
                outputs = [io.Conditioning.Output(), io.Conditioning.Output(), *(io.Image.Output() for _ in images)]
                return io.Schema(node_id="TestShot", inputs=[], outputs=outputs)

            @classmethod
            def execute(cls) -> io.NodeOutput:
                return io.NodeOutput(*rows, *images)

        prompt = self.sampling() | {"shot": node("TestShot")} | nodes
        prompt["shown"] = node("PreviewImage", images=["decoded", 0])
        with self.host.node(self.provider()), self.host.node(Shot):
            return self.host.run(prompt).values


def kept_shots(output: Path) -> list[Path]:
    """The files of the shots, in order."""
    return sorted(output.glob("story/shots/*/shot_*.avi"))


def assert_frames(path: Path, frames: torch.Tensor) -> None:
    """A shot on disk holds exactly these frames."""
    kept = list(read_frames(path))
    assert len(kept) == len(frames)
    for one, other in zip(kept, to_bytes(frames), strict=True):
        assert (one == other).all()
