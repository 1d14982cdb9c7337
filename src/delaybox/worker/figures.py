"""What the attempts of one process came to, by function. Nothing here is shared, so counting costs next to nothing;
`worker_metrics` passes it on once a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["succeeded", "failed", "cancelled", "put_off", "handed_back", "lost"]

BOUNDS_S: Final[tuple[float, ...]] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0),
)
"""Upper bounds of the classes of durations."""
MOST_FUNCTIONS: Final = 50
"""Functions with figures of their own: the first ones by name."""
OTHERS: Final = "(others)"
"""The further ones, together."""


class OfFunction:
    """One function's figures. ``classes``: attempts by duration, the last for those past every bound. ``example``: the
    duration of one, and the ``traceparent`` of its firing."""

    __slots__ = ("classes", "example", "outcomes", "sum_s")

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.classes = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self.example: tuple[float, str] | None = None


class Figures:
    """Counts ends of attempts. Not for several threads: the worker's event loop reports every end."""

    __slots__ = ("_all", "_new")

    def __init__(self, functions: Iterable[str]) -> None:
        named = sorted(functions)
        self._all = {name: name for name in named[:MOST_FUNCTIONS]} | dict.fromkeys(named[MOST_FUNCTIONS:], OTHERS)
        self._new: dict[str, OfFunction] = {}

    def ended(self, function: str, outcome: Outcome, seconds: float | None, trace: str = "") -> None:
        """One attempt ended. ``seconds``: how long its code ran; None where it did not begin. ``trace``: the
        ``traceparent`` of its firing, where the node traces."""
        name = self._all.get(function, OTHERS)
        one = self._new.get(name)
        if one is None:
            one = self._new[name] = OfFunction()
        one.outcomes[outcome] += 1
        if seconds is not None:
            one.classes[bisect_left(BOUNDS_S, seconds)] += 1
            one.sum_s += seconds
            if trace:
                one.example = (seconds, trace)

    def take(self) -> Mapping[str, OfFunction]:
        """What was counted since it was last called, by function."""
        taken, self._new = self._new, {}
        return taken


@dataclass(frozen=True, slots=True)
class Places:
    """Places for functions of one kind, and how many are taken."""

    size: int
    taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A process of a worker at one moment. ``sessions``: by server, (connected, not connected). ``ready``: each kind of
    function has a session, and the process does not drain."""

    places: Mapping[str, Places]
    sessions: Mapping[str, tuple[int, int]]
    ready: bool
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCondition:
    """What the metrics show of a worker: of all its processes.

    ``processes``: those that show themselves. ``wrong``: why it takes no tasks; "": it does. ``stands``: why it needs a
    restart; "": it needs none.
    """

    processes: int = 0
    wrong: str = ""
    stands: str = ""
