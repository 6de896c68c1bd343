"""Graphs that draw a story by Draw Story and the included demo model."""

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

CHARACTERS = "[Pim] a small blue hero\n[Pom] a big red hero"
STEPS = 2


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def story(scenes, characters: str = CHARACTERS, conditioning: bool = False, **changed) -> dict:
    """A prompt that draws the scenes at 64 x 64 pixels. changed: other inputs of the node, whose id is "draw"; None is
    without."""
    script = dict(characters=characters, scenes="\n".join(scenes), style="(No style)", negative="")
    inputs = dict(width=64, height=64, seed=3, steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="normal")
    inputs |= dict(anchors=1, frames_at_once=1, strength=1.0, sampling_rate=0.5, name="story", frames="")
    inputs |= dict(model=["world", 0], vae=["world", 2], story=["story", 0])
    inputs |= {"positive": ["text", 0], "negative": ["text", 1]} if conditioning else {"clip": ["world", 1]}
    inputs = {name: value for name, value in {**inputs, **changed}.items() if value is not None}
    prompt = {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "story": node("StoryReelScript", **script),
        "draw": node("StoryReelDrawStory", **inputs),
        "text": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "show": node("PreviewImage", images=["draw", 0]),
    }
    return prompt


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The host's output goes there."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(path))
    try:
        yield path
    finally:
        folder_paths.set_output_directory(before)


def images(output: Path, name: str = "story") -> dict[str, tuple[int, str]]:
    """{file: (time of change, hash)} of the images of a story."""
    files = sorted(output.glob(f"story/frames/{name}/*.png"))
    return {path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def new_images(before: dict, after: dict) -> list[int]:
    """The numbers in the names of the files that were written."""
    return sorted(int(name[6:9]) for name, entry in after.items() if before.get(name) != entry)


def texts(events: list) -> list[str]:
    """Every progress text of a run on the in-process host."""
    from server import BinaryEventTypes

    found = []
    for kind, data in events:
        if kind == BinaryEventTypes.TEXT:
            (length,) = struct.unpack(">I", data[:4])
            found.append(data[4 + length :].decode())
    return found


def sampled(events: list) -> int:
    """How many batches were sampled to their end."""
    return sum(text.endswith(f"step {STEPS} of {STEPS}") for text in texts(events))
