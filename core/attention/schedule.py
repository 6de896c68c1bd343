"""When tokens are shared: the phases of a run, the steps that share, and messages about settings without effect."""

from collections.abc import Sequence
from dataclasses import dataclass

from .consistent import Phase, Settings

SAME = 1e-5  # relative difference below which two sigmas are equal: model call and schedule may round differently


@dataclass(frozen=True)
class Percents:
    """Fractions of the sampling, 0 its start and 1 its end: sharing from `start` to `end`, early up to `switch`."""

    start: float = 0.0
    switch: float = 0.4
    end: float = 1.0


@dataclass(frozen=True)
class Phases:
    """The same as noise levels, which decrease during sampling."""

    start: float
    switch: float
    end: float

    def at(self, sigma: float) -> Phase:
        if sigma > self.start:
            return Phase.BEFORE
        if sigma < self.end:
            return Phase.AFTER
        return Phase.EARLY if sigma > self.switch else Phase.LATE


def phases_of(percents: Percents, percent_to_sigma, sigmas: Sequence[float]) -> Phases:
    """The phases of a run with the schedule `sigmas`: decreasing noise levels, the last one after the last step.

    The last step of a run that ends without noise is never before the start, so that a run of one step (turbo, LCM)
    shares tokens in it.
    """
    start, switch, end = map(percent_to_sigma, (percents.start, percents.switch, percents.end))
    if percents.start < percents.end and len(sigmas) > 1 and sigmas[-1] == 0:
        start = max(start, sigmas[-2])
    return Phases(start, switch, end)


def step_of(sigma: float, sigmas: Sequence[float]) -> float:
    """The step of a model call: the lowest noise level of the schedule that is not below `sigma`.

    A second-order sampler also calls between two levels; such a call belongs to the earlier one. Rounding to six digits
    gives a level the same value wherever it was computed, and in every part of a split run.
    """
    level = min((s for s in sigmas if s >= sigma * (1 - SAME)), default=max(sigmas, default=sigma))
    return float(f"{level:.6g}")


def shares(settings: Settings, phase: Phase) -> bool:
    """Whether any layer may share tokens in a phase."""
    if phase is Phase.BEFORE:
        return settings.dense_early_read and settings.rules.anchors > 0
    chance = {Phase.EARLY: settings.layer_prob_early, Phase.LATE: settings.layer_prob_late}.get(phase, 0)
    return chance > 0 and max(settings.sampling_rate, settings.sampling_rate_fine) > 0


def shared_fraction(settings: Settings, percents: Percents) -> float:
    """The fraction of the sampling in which tokens are shared, 0 to 1."""
    start, end = percents.start, percents.end
    switch = min(max(percents.switch, start), end)
    parts = {Phase.BEFORE: start, Phase.EARLY: switch - start, Phase.LATE: end - switch}
    return sum(max(0.0, length) for phase, length in parts.items() if shares(settings, phase))


def describe_idle(settings: Settings, percents: Percents) -> str | None:
    """Why these settings never share tokens; None if they do."""
    if settings.strength == 0:
        return "strength is 0, so this node has no effect; raise strength to share tokens."
    if shared_fraction(settings, percents) > 0:
        return None
    if max(settings.sampling_rate, settings.sampling_rate_fine) == 0:
        return "sampling_rate is 0, so no tokens are shared; raise it."
    if percents.start >= percents.end:
        return (
            f"start_percent {percents.start:g} is not less than end_percent {percents.end:g}, so no step shares "
            "tokens; lower start_percent or raise end_percent."
        )
    return "layer_prob_early or layer_prob_late is 0, so no step shares tokens; raise them."


def describe_steps(
    settings: Settings, percents: Percents, phases: Phases, sigmas: Sequence[float], every: bool = False
) -> str | None:
    """Why no step of a run shares tokens, or fewer than half as many as the percents suggest.

    every: also why a single step does not; for runs of few steps, in which a percent is coarse.
    None if enough steps share, and if `describe_idle` explains why none does.
    """
    steps = [phases.at(sigma) for sigma in sigmas[:-1]]
    sharing = sum(shares(settings, phase) for phase in steps)
    fraction = shared_fraction(settings, percents)
    enough = sharing > 0 and sharing >= fraction * len(steps) / 2
    if not steps or fraction == 0 or (enough and (not every or sharing == len(steps))):
        return None
    reasons = []
    if count := 0 if shares(settings, Phase.BEFORE) else steps.count(Phase.BEFORE):
        reasons.append((f"{_are(count)} before start_percent {percents.start:g}", "lower it to share there"))
    if count := steps.count(Phase.AFTER):
        reasons.append((f"{_are(count)} after end_percent {percents.end:g}", "raise it to share there"))
    for phase, name in ((Phase.EARLY, "layer_prob_early"), (Phase.LATE, "layer_prob_late")):
        if count := 0 if shares(settings, phase) else steps.count(phase):
            reasons.append((f"{_are(count)} where {name} is 0", "raise it to share there"))
    of = "1 step" if len(steps) == 1 else f"{len(steps)} steps"
    shown = f"{sharing} of {of} {'shares' if sharing == 1 else 'share'} tokens"
    if enough:  # nothing is wrong, so nothing is to be done
        return f"{shown}, as the settings ask: {'; '.join(where for where, _ in reasons)}."
    return f"{shown}: {'; '.join(f'{where}, {what}' for where, what in reasons)}."


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"
