"""What Draw Story says of its retakes: sentences on the node, and the report."""

from ..core.story.retakes import FrameReport, in_words
from ..core.text import joined, numbered
from ..host.story.drawn_frames import Index
from .frame_batch import FrameRun


def unscored(run: FrameRun) -> list[str]:
    """Sentences about inputs without effect, and about frames that cannot be scored."""
    inputs = run.inputs
    if not inputs.retakes:
        return [] if inputs.clip_vision is None else ["clip_vision has no effect, since retakes is 0."]
    if not inputs.strength and inputs.records:
        return ["retakes has no effect, since strength is 0."]
    stored = [number for number in range(inputs.count) if _from_bank(run, number) and number not in inputs.table]
    if stored:
        names = sorted(frozenset().union(*(inputs.cast[number] for number in stored)))
        has, are = "has" if len(names) == 1 else "have", "is" if len(stored) == 1 else "are"
        return [
            f"{numbered('frame', [number + 1 for number in stored])} {are} never drawn again, since {_shown(names)} "
            f"{has} no anchor frames to compare with."
        ]
    if run.scores is None:
        return [
            "retakes has no effect: no frame shows a character and is neither an anchor frame nor in the table frames."
        ]
    return []


def report(run: FrameRun, index: Index) -> str:
    """The report of the frames that are on disk."""
    inputs, scores = run.inputs, run.scores
    head = "Seeds of the frames; none was scored"
    if scores is not None:
        times = "once" if inputs.retakes == 1 else f"{inputs.retakes} times"
        head = (
            f"Cosines of {scores.encoder} to the anchor frames of the same characters; a frame below "
            f"{scores.threshold:g} was drawn again, {times} at most"
        )
    return in_words(head, [_frame(run, number, index) for number in range(inputs.count)])


def _frame(run: FrameRun, number: int, index: Index) -> FrameReport:
    plan, scores = run.plan, run.scores
    if scores is None or not scores.covers(number) or number in run.locked:
        return FrameReport([run.kept(number, index).seed], note=_note(run, number))
    tries, found = plan.tries[number], [score for score in scores.of(number, index) if score is not None]
    kept, _ = scores.next(number, index)
    against = plan.anchors_of(number, run.inputs.cast)
    return FrameReport([one.seed for one in tries], found, tries.index(kept), against)


def _note(run: FrameRun, number: int) -> str:
    inputs = run.inputs
    if number in run.locked:
        return "locked"
    if (group := run.plan.group_of(number)) is not None:
        return f"anchor frame of {_shown(sorted(inputs.cast[number] & run.plan.groups[group].characters))}"
    if number in inputs.table:
        return "from the table"
    if _from_bank(run, number):
        return f"{_shown(sorted(inputs.cast[number]))} from {'the bank' if inputs.records else 'references'}"
    return "" if inputs.story.cast[number] else "no character"


def _from_bank(run: FrameRun, number: int) -> bool:
    """Whether a frame shows characters, and all of them come from a bank."""
    return bool(run.inputs.cast[number]) and not run.plan.anchors_of(number, run.inputs.cast)


def _shown(names: list[str]) -> str:
    return joined([name or "the character" for name in names])
