"""What a task needs of who carries it out: labels of its worker, and how many places. Pure.

Tasks with the same needs are a lane of their own: the needs stand in the lane's name, behind the function's, as
``!cost!requires!prefers`` without empty parts at the end. So a claim names what its workers can run, and never looks
through tasks that they cannot. SHELL_CMD and HTTP tasks need places alone, of the process that carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from delaybox.core.errors import InvalidTask
from delaybox.core.limits import LABEL, LABEL_FORM, MAX_COST, MAX_LANE_BYTES, MAX_NEED, MAX_NEEDS

MARK: Final = "!"
"""What stands between the parts of a lane's needs; no name of a queue, a function or a label holds it."""


class WorkerNeeds(NamedTuple):
    """``requires``: labels that a worker must have; ``prefers``: labels of those that are asked first. Sorted, each
    ``name`` or ``name=value``. ``cost``: places of a worker that a task takes."""

    cost: int = 1
    requires: tuple[str, ...] = ()
    prefers: tuple[str, ...] = ()

    def text(self) -> str:
        """What a lane's name has behind the function's; "" where nothing is needed."""
        return _text(self)

    def run_by(self, labels: Mapping[str, str], places: int) -> bool:
        """Whether a worker with these labels and so many places can run such a task."""
        return places >= self.cost and has(labels, self.requires)

    def liked_by(self, labels: Mapping[str, str]) -> bool:
        """Whether a worker that can run such a task is one of those that are asked first."""
        return has(labels, self.prefers)

    def describe(self) -> str:
        """For people: what a worker must have."""
        parts = [f"label {' and '.join(self.requires)}"] if self.requires else []
        if self.cost > 1:
            parts.append(f"{self.cost} places")
        return " and ".join(parts)


NO_NEEDS: Final = WorkerNeeds()


@lru_cache(maxsize=4096)
def _text(needs: WorkerNeeds) -> str:
    cost = str(needs.cost) if needs.cost > 1 else ""
    return MARK.join(("", cost, ",".join(needs.requires), ",".join(needs.prefers))).rstrip(MARK)


def needs_of(text: str) -> WorkerNeeds:
    """Reads what `WorkerNeeds.text` wrote, without the first mark. ValueError for what a newer version wrote."""
    cost, requires, prefers = [*text.split(MARK), "", ""][:3]
    if text.count(MARK) > 2:
        raise ValueError(f"needs {text!r} are of a newer version")
    return WorkerNeeds(int(cost or 1), _labels(requires), _labels(prefers))


def _labels(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def has(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether all that is wanted is among the labels: ``name`` with any value, ``name=value`` with just that one."""
    for one in wanted:
        name, given, value = one.partition("=")
        found = labels.get(name)
        if found is None or (given and found != value):
            return False
    return True


def wanted_labels(field: str, given: Sequence[str]) -> tuple[str, ...]:
    """The labels that a task requires or prefers, sorted, each once. InvalidTask."""
    found = tuple(sorted(set(given)))
    if len(found) > MAX_NEEDS:
        raise InvalidTask(field, f"{field} names {len(found)} labels; give at most {MAX_NEEDS}")
    for one in found:
        name, given_value, value = one.partition("=")
        good = LABEL.fullmatch(name) is not None and (not given_value or LABEL.fullmatch(value) is not None)
        if not good or len(one) > MAX_NEED:
            raise InvalidTask(
                field,
                f"{field} {one[:80]!r} is no label of workers; use name or name=value, each of {LABEL_FORM}, and at "
                f"most {MAX_NEED} characters together",
            )
    return found


def needs_asked(cost: int | None, requires: Sequence[str] | None, prefers: Sequence[str] | None) -> WorkerNeeds:
    """What a caller asks for; None: nothing. InvalidTask."""
    return WorkerNeeds(
        1 if cost is None else checked_cost("cost", cost),
        wanted_labels("requires", requires) if requires else (),
        wanted_labels("prefers", prefers) if prefers else (),
    )


def checked_cost(field: str, cost: int) -> int:
    """How many places a task takes. InvalidTask."""
    if not 1 <= cost <= MAX_COST:
        raise InvalidTask(field, f"{field} {cost} is out of range; give 1 to {MAX_COST} places (1 is usual)")
    return cost


def check_needs(needs: WorkerNeeds, *, of_worker: bool, takes_places: bool, type_name: str, lane_bytes: int) -> None:
    """InvalidTask for labels of a task that is not run by workers, for a cost of one that takes no places, and for
    needs that make its lane's name too long.

    ``lane_bytes``: of the lane's name, with the needs.
    """
    if not of_worker and (needs.requires or needs.prefers or not takes_places):
        field = "requires" if needs.requires else "prefers" if needs.prefers else "cost"
        raise InvalidTask(
            field, f"{field} says nothing to a {type_name} task, which no worker runs; use type worker, or leave it out"
        )
    if lane_bytes > MAX_LANE_BYTES:
        raise InvalidTask(
            "requires",
            f"requires and prefers have {lane_bytes - MAX_LANE_BYTES} characters too many beside the names of the "
            f"queue and the function ({MAX_LANE_BYTES} in all); name fewer or shorter labels",
        )
