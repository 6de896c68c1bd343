"""Trained parts go where the pack finds them, with the figures of what they make."""

from collections.abc import Sequence
from pathlib import Path

from ..evaluate import motion as motion_measure
from ..evaluate import pictures as measure
from ..evaluate import streaming as streaming_measure
from ..evaluate import video as video_measure
from . import export as shipping


def ship(stages: Sequence[str], folder: Path, weights: Path, judges: Path) -> None:
    """Copy what stages made in `folder` to where the pack finds it, a model card beside each. Without stages: all that
    the pack cannot do without, and of ONCE_TRAINED what there is. Raises FileNotFoundError where something is missing.
    """

    def made(part: str) -> Path:
        return folder / f"{part}.safetensors"

    parts = list(dict.fromkeys(part for stage in stages for part in shipping.MADE.get(stage, (stage,))))
    if not parts:
        every = *shipping.ABOUT, *shipping.JUDGES
        parts = [part for part in every if part not in shipping.ONCE_TRAINED or made(part).exists()]
    measured = [part for part in parts if part in MEASURES]
    for part in parts:
        shipping.find(part, folder, before="--ship")
    used = shipping.JUDGES if measured else ()
    readers = [shipping.find(judge, folder, judges, before="--ship") for judge in used]
    for part in measured:
        shipping.add_figures(made(part), MEASURES[part](folder, *readers))
    for part in parts:
        path = judges / f"{part}.safetensors" if part in shipping.JUDGES else weights / shipping.file_name(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made(part).read_bytes())
        if part not in shipping.JUDGES:
            path.with_suffix(".md").write_text(shipping.card(path, part), encoding="utf-8")


def drawing(folder: Path, reader: Path, _) -> dict[str, float]:
    """What the UNet draws: 64 stories, nothing shared."""
    studio = measure.open_studio(folder, reader, folder / "data")
    row = measure.measure(studio, measure.read_setting("plain"), stories=64, seed=0, frames=4)
    return {name: row[name] for name in ("named", "scene", "action", "vanished")}


def moving(folder: Path, reader: Path, video_reader: Path) -> dict[str, float]:
    """What the video model makes of 3 pictures and every gentle caption."""
    studio = video_measure.open_studio(folder / "video.safetensors", folder, reader, video_reader)
    row = video_measure.measure(studio, video_measure.read_setting("animate"), pictures=3, seed=0)
    return {name: row[name] for name in ("action", "path", "first", "colours", "still")}


def lasting(folder: Path, reader: Path, _) -> dict[str, float]:
    """What the streaming model keeps of 4 clips over 2 chunks."""
    studio = streaming_measure.open_studio(folder / "streaming.safetensors", None, folder, reader)
    row = streaming_measure.measure(studio, streaming_measure.read_setting("both-chunks-2"), videos=4, seed=0)
    return {name: row[name] for name in ("colours", "scene", "cuts", "hero_jump")}


def following(folder: Path, _, video_reader: Path) -> dict[str, float]:
    """How near the picture model comes to 10 clips by their own tokens, and by predicted ones once they can be had."""
    studio = motion_measure.open_studio(folder, None, video_reader)
    whose = motion_measure.TRUE, *{motion_measure.PREDICTED} & studio.predictors.keys()
    rows = {tokens: motion_measure.measure(studio, motion_measure.read_setting(tokens), 10, seed=0) for tokens in whose}
    return {f"{tokens} {figure}": row[figure] for tokens, row in rows.items() for figure in ("path", "pose")}


# {part: figures of what it makes, by the judges}, which its file has only once it ships.
MEASURES = {"unet": drawing, "video": moving, "streaming": lasting, "motion_module": following}
