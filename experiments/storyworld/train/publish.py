"""Trained parts go where the pack finds them, with results of what they make."""

from collections.abc import Sequence
from pathlib import Path

from ..evaluate.motion import DECODED, PREDICTED, TRUE, Motion
from ..evaluate.pictures import Pictures
from ..evaluate.story_settings import PLAIN
from ..evaluate.streaming import BOTH, Streaming, chunks
from ..evaluate.video import PLAIN as ANIMATE
from ..evaluate.video import Video
from . import export

BEFORE = "--publish"


def publish(stages: Sequence[str], folder: Path, weights: Path, classifiers: Path) -> None:
    """Copy what stages made in `folder` to where the pack finds it, a model card with each. Without stages: all that
    the pack cannot do without, and of OPTIONAL what there is. Raises FileNotFoundError where something is missing."""
    parts = list(dict.fromkeys(part for stage in stages for part in export.MADE.get(stage, (stage,))))
    if not parts:
        every = *export.ABOUT, *export.CLASSIFIERS
        parts = [part for part in every if part not in export.OPTIONAL or export.own_file(part, folder).exists()]
    files = {part: export.find(part, folder, before=BEFORE) for part in parts}
    measured = [part for part in parts if part in RESULTS]
    for classifier in export.CLASSIFIERS if measured else ():
        export.find(classifier, folder, classifiers, before=BEFORE)
    for part in measured:
        export.add_results(files[part], RESULTS[part](folder))
    for part, file in files.items():
        published = export.own_file(part, classifiers) if part in export.CLASSIFIERS else weights / export.name_of(part)
        published.parent.mkdir(parents=True, exist_ok=True)
        published.write_bytes(file.read_bytes())
        if part not in export.CLASSIFIERS:
            published.with_suffix(".md").write_text(export.card(published, part), encoding="utf-8")


def of_images(folder: Path, part: str = "unet") -> dict[str, float]:
    """64 stories, nothing shared."""
    row = Pictures(folder, network=part, data=folder / "data").measure(PLAIN, 64, seed=0)
    return {name: row[name] for name in ("named", "scene", "action", "vanished")}


def of_video(folder: Path) -> dict[str, float]:
    """3 pictures and every gentle caption."""
    row = Video(folder).measure(ANIMATE, 3, seed=0)
    return {name: row[name] for name in ("action", "path", "first", "colors", "still")}


def of_streaming(folder: Path) -> dict[str, float]:
    """4 clips and 2 chunks of each."""
    row = Streaming(folder).measure(chunks(BOTH, 2, 4), 4, seed=0)
    return {name: row[name] for name in ("colors", "scene", "cuts", "hero_jump")}


def of_motion_module(folder: Path) -> dict[str, float]:
    """10 clips by their own tokens, and by predicted ones once there is a predictor."""
    pipeline, settings = Motion(folder), {setting.name: setting for setting in DECODED}
    whose = TRUE, *([PREDICTED] if export.own_file("predictor", folder).exists() else [])
    rows = {tokens: pipeline.measure(settings[tokens], 10, seed=0) for tokens in whose}
    return {f"{tokens} {name}": row[name] for tokens, row in rows.items() for name in ("path", "pose")}


# {part: results of what it makes}, which its file has only once it ships.
RESULTS = {
    "unet": of_images,
    "transformer": lambda folder: of_images(folder, "transformer"),
    "video": of_video,
    "streaming": of_streaming,
    "motion_module": of_motion_module,
}
