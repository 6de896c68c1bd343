"""The figures of a video in words, and in curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..plot import chart, new_figure, picture_of
from .borders import jump_ratio
from .drift import COLORS, SPAN
from .likeness import COSINES
from .metric import Metric
from .slices import Slice

JUMPS = {"change": "pixels", "motion": "motion", "warp_error": "warp error"}
PANELS = (  # what is drawn together: (its axis, {series: its label})
    ("gray levels", {"change": "change"}),
    ("pixels", {"motion": "motion"}),
    ("squared gray levels", {"warp_error": "warp error"}),
    ("% of the range", {name: name for name in COLORS}),
    ("% of the anchor's", {name: name for name in ("brightness", "contrast", "sharpness")}),
    (
        "cosine to",
        {"consistency": "the frame before", "anchor_likeness": "the anchor", "prompt_likeness": "the prompt"},
    ),
    ("cosine of", {"face_likeness": "faces"}),
    ("points", {"aesthetic": "aesthetic score"}),
    ("dB", {"psnr": "PSNR"}),
    ("SSIM", {"ssim": "SSIM"}),
)
NOT_DRAWN = {"faces"}  # series that are in the file alone
IN_WORDS = {"frames", "width", "height", "change", "drift", "slice", "cuts", "motion", "likeness", "faces", "fidelity"}
IN_WORDS |= {"sets", "borders", "not_computed", "series"}  # what `in_words` has sentences for, or leaves out
COLOR_OF = {"red": "tab:red", "green": "tab:green", "blue": "tab:blue"}


def collect(size: tuple[int, int, int], metrics: Sequence[Metric], not_computed: Mapping[str, str]) -> dict:
    """All that was found, fit for JSON. size: number of frames, height, width."""
    count, height, width = size
    found: dict[str, Any] = {"frames": count, "width": width, "height": height}
    figures = {metric: metric.results() for metric in metrics}
    found |= {metric.name: figures for metric, figures in figures.items() if not metric.not_computed}
    unfit = {measure: why for metric in metrics for measure, why in metric.not_computed.items()}
    series = {
        name: values for metric in metrics if not metric.not_computed for name, values in metric.per_frame.items()
    }
    if borders := found.get("borders"):
        jumps = {name: jump_ratio(series[name], borders["at"]) for name in JUMPS if name in series}
        borders["jump_ratio"] = jumps
    return found | {"not_computed": unfit | dict(not_computed), "series": series}


def in_words(found: dict) -> str:
    """One line a figure. Frames count from 0."""
    lines = [f"{found['frames']} frames of {found['width']} x {found['height']}, counted from 0"]
    if cuts := found.get("cuts"):
        lines += ["", f"Cuts by {cuts['by']}", f"  SCuts: {cuts['scuts']}{_places(cuts['at'])}"]
    if motion := found.get("motion"):
        lines += [
            "",
            f"Motion by {motion['flow']}, on squares of {motion['side']} pixels",
            f"  MAWE, the paper's definition (error / mean squared motion): {_shown(motion['mawe_paper'])}",
            f"  MAWE, the published code's (mean of error / 9.5 motion): {_shown(motion['mawe_code'])}",
            f"  mean motion: {_shown(motion['motion'])} pixels a frame",
            f"  flow deviation (of the motion, over the frames): {_shown(motion['flow_deviation'])} pixels",
        ]
    if borders := found.get("borders"):
        lines += ["", f"Jump at chunk borders{_places(borders['at'])}: change there / elsewhere, 1 = invisible"]
        lines += [f"  {JUMPS[name]}: {_shown(ratio)}" for name, ratio in borders["jump_ratio"].items()]
    lines += ["", f"Drift from the anchor: in {SPAN} frames, at the end"]
    for name, drift in found["drift"].items():
        unit = "% of the full range" if name in COLORS else "% of the anchor's"
        told = f"{drift[f'in_{SPAN}_frames']:+.2f}, {drift['at_the_end']:+.2f} {unit}" if drift else "-"
        lines.append(f"  {name}: {told}")
    if likeness := found.get("likeness"):
        lines += [
            "",
            f"Cosines of {likeness['encoder']}, middle squares of the frames",
            f"  CLIP text-image score: {_shown(likeness['prompt_likeness'])}",
            f"  frame consistency: {_shown(likeness['consistency'])}",
            f"  PIC with this encoder in place of DreamSim: {_shown(likeness['anchor_likeness'])}",
        ]
        if "aesthetic" in likeness:
            lines.append(f"  aesthetic score by {likeness['aesthetic_by']}: {_shown(likeness['aesthetic'])} of 10")
        lines += [f"  {name}: {_shown(likeness[name])}" for name in likeness if _is_other_score(name)]
    if faces := found.get("faces"):
        lines += [
            "",
            f"Faces by {faces['by']}, in {faces['frames_with_faces']} frames",
            f"  re-identification, {faces['pairs']} pairs of frames: {_shown(faces['reidentification'])} of 100",
        ]
    if fidelity := found.get("fidelity"):
        equal = fidelity["equal_frames"]
        lines += ["", "Against the reference", f"  PSNR: {_shown(fidelity['psnr'])} dB{_equal(equal)}"]
        lines.append(f"  SSIM: {_shown(fidelity['ssim'])}")
    if sets := found.get("sets"):
        ours, theirs = sets["windows"]
        lines += [
            "",
            f"Windows of {sets['window']} frames in features of {sets['by']}: {ours}, and {theirs} of the reference",
            f"  FVD: {_shown(sets['fvd'])}",
            f"  KVD: {_shown(sets['kvd'])}",
            "  Published figures are of thousands of clips: compare these with none but those of as many windows.",
        ]
    for name in (name for name in found if name not in IN_WORDS):
        lines += ["", name, *(f"  {key}: {_shown(value)}" for key, value in found[name].items())]
    lines += ["", "Not computed"]
    return "\n".join(lines + [f"  {name}: {why}" for name, why in found["not_computed"].items()])


def _shown(value) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_other_score(name: str) -> bool:
    """Of a key in the results of `Likeness`: whether it is a score that has no sentence."""
    return name not in (*COSINES, "aesthetic", "encoder") and not name.endswith("_by")


def _places(frames: Sequence[int]) -> str:
    return f" at {', '.join(map(str, frames))}" if frames else ""


def _equal(count: int) -> str:
    return f", without {count} equal frame{'s' * (count != 1)}" if count else ""


@chart
def draw(found: dict, slice: Slice) -> Tensor:
    """IMAGE [1, H, W, 3]: every series over the frames, and the X-T slice under them with time to the right.

    Dotted lines are chunk borders, dashed lines are cuts.
    """
    series = {name: values for name, values in found["series"].items() if any(v is not None for v in values)}
    drawn = {name for _, names in PANELS for name in names} | NOT_DRAWN
    others = [("", {name: name}) for name in series if name not in drawn]
    panels = [(axis, {k: label for k, label in names.items() if k in series}) for axis, names in (*PANELS, *others)]
    panels = [(axis, names) for axis, names in panels if names]
    figure = new_figure(9, 1.5 * len(panels) + 2.5)
    rows = figure.subplots(len(panels) + 1, sharex=True, height_ratios=[1] * len(panels) + [2])
    for axes, (axis, names) in zip(rows[:-1], panels, strict=True):
        for name, label in names.items():
            values = [float("nan") if value is None else value for value in series[name]]
            axes.plot(values, label=label, color=COLOR_OF.get(name), linewidth=1, marker=".", markersize=2)
        axes.set_ylabel(axis, fontsize=8)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.grid(alpha=0.3)
    for axes in rows:
        for frame in found.get("borders", {}).get("at", []):
            axes.axvline(frame - 0.5, color="tab:gray", linestyle=":", linewidth=1)
        for frame in found.get("cuts", {}).get("at", []):
            axes.axvline(frame - 0.5, color="black", linestyle="--", linewidth=1)
    rows[-1].imshow(slice.image()[0].transpose(0, 1).numpy(), aspect="auto", interpolation="nearest")
    rows[-1].set_ylabel("X-T slice, x", fontsize=8)
    rows[-1].set_xlabel("frame")
    return picture_of(figure)
