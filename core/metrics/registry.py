"""A registry of metrics: each entry knows whether it can be computed from the inputs, and if not, why."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Inputs = TypeVar("Inputs")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Entry(Generic[Inputs, Result]):
    """One metric, or several that are always computed together.

    name: in reports. compute: from the inputs. needs: checked in their order; each returns None if it is met, else a
    sentence that follows the name and a colon: "needs an image encoder: connect clip_vision." parts: entries whose
    results `compute` puts into one; reports list them in its place.
    """

    name: str
    compute: Callable[[Inputs], Result]
    needs: tuple[Callable[[Inputs], str | None], ...] = ()
    parts: tuple["Entry", ...] = ()

    def unavailable(self, inputs: Inputs) -> str | None:
        """Why it cannot be computed from these inputs, or None."""
        return next((reason for need in self.needs if (reason := need(inputs)) is not None), None)

    def not_computed(self, inputs: Inputs) -> dict[str, str]:
        """{name: why it cannot be computed from these inputs}; of its parts, if it has some."""
        entries = self.parts or (self,)
        return {entry.name: reason for entry in entries if (reason := entry.unavailable(inputs)) is not None}


def compute_available(
    entries: Iterable[Entry[Inputs, Result]], inputs: Inputs
) -> tuple[dict[str, Result], dict[str, str]]:
    """({name of an entry: its result}, {name: why it was not computed}), both in the order of the entries."""
    results, not_computed = {}, {}
    for entry in entries:
        not_computed |= entry.not_computed(inputs)
        if entry.unavailable(inputs) is None:
            results[entry.name] = entry.compute(inputs)
    return results, not_computed


def given(attribute: str, otherwise: str) -> Callable[[object], str | None]:
    """The need of an attribute of the inputs that is neither None nor empty."""

    def need(inputs: object) -> str | None:
        value = getattr(inputs, attribute)
        return otherwise if value is None or isinstance(value, str) and not value else None

    return need


def found(value: Value | None) -> Value:
    """The value of an input that the entry's needs have found to be there."""
    if value is None:
        raise ValueError("an input is missing whose need is not among those of the metric's entry.")
    return value


def importable(check: Callable[[], object]) -> Callable[[object], str | None]:
    """The need of packages. check: raises ImportError, with the sentence, unless they work."""

    def need(_inputs) -> str | None:
        try:
            check()
        except ImportError as error:
            return str(error)
        return None

    return need
