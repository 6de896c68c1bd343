"""Prompts that extend a clip on Storyworld's encoders and a tiny StreamingT2V between them, in API form."""

from pathlib import Path

from .streaming import STORYWORLD, tiny_streaming, write

FILE = "streaming_storyworld_tiny.safetensors"
CHUNK, OVERLAP, STEPS, SIZE = 6, 3, 2, 64
SCENES = ("waving on a beach", "walking in a forest", "jumping at night", "waving in a room", "walking in a town")
CLIP = (0x3070C0, 0x4080D0, 0x5090E0)  # colours of its frames


def write_model(models: Path) -> Path:
    path = models / "checkpoints" / FILE
    return path if path.exists() else write(path, tiny_streaming(STORYWORLD))


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def pictures(colours) -> dict:
    """A clip of one-coloured frames, as node "clip"."""
    nodes = {
        f"f{i}": node("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=colour)
        for i, colour in enumerate(colours)
    }
    batch = {f"images.image{i}": [id, 0] for i, id in enumerate(nodes)}
    return nodes | {"clip": node("BatchImagesNode", **batch)}


def parts(file: str = FILE) -> dict:
    """All that a chunk is made with: nodes "world", "load", "sampler", "sigmas"."""
    return {
        "world": node("StoryReelLoadStoryworld", precision="fp32"),
        "load": node("StoryReelStreamingLoader", checkpoint=file, kind="auto", precision="fp32"),
        "sampler": node("StoryReelDDIMSampler", eta=1.0, keep_clean=False),
        "sigmas": node("StoryReelDDIMSigmas", model=["load", 0], spacing="leading", steps=STEPS),
    }


def extend(scenes=SCENES, colours=CLIP, **inputs) -> dict:
    """Nodes "extend", with one of `scenes` a chunk, all before it, and "save" behind it."""
    lines = "\n".join(f"[Hero] {scene}" for scene in scenes)
    story = dict(characters="[Hero] a big blue hero", scenes=lines, style="(No style)", negative="")
    told = dict(model=["load", 0], vae=["world", 2], clip_vision=["world", 3], sampler=["sampler", 0])
    told |= dict(sigmas=["sigmas", 0], frames=["clip", 0], positive=["rows", 0], negative=["rows", 1], anchor=0)
    told |= dict(chunks=len(scenes), chunk_frames=CHUNK, overlap=OVERLAP, guidance=2.0, cam_strength=1.0)
    told |= dict(apm_strength=1.0, colour_anchor=0.0, seed=3, fps=8.0, images=False)
    video = {"filename_prefix": "extended", "format": "auto", "codec": "auto"}
    return {
        **parts(),
        **pictures(colours),
        "story": node("StoryReelScript", **story),
        "rows": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "extend": node("StoryReelExtendVideo", **told | inputs),
        "save": node("SaveVideo", video=["extend", 0], **video),
    }
