"""Shell commands and webhooks that take several places of their process: which of their lanes are claimed, and how many
places they take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from delaybox.core.delivery import Delivery
from delaybox.core.lane import ANY_QUEUE, cost_of, lane_of, split
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import TaskType
from delaybox.engine.options import EngineOptions

CARRIED_OUT_LETTERS: Final = frozenset((TaskType.SHELL_CMD.value, TaskType.HTTP.value))
_LETTERS: Final = tuple(letter.encode() for letter in sorted(CARRIED_OUT_LETTERS))
MOST_LANES: Final = 500
"""Lanes with a cost that one process claims, of any queue; the one that was met first is forgotten for another."""


class Costs:
    """``lanes``: those that are claimed, with a cost those that were met. ``beyond``: places taken by what runs, beside
    one for each task."""

    def __init__(self, options: EngineOptions) -> None:
        self._plain = frozenset(options.lanes)
        self._places = options.places
        self._met: dict[bytes, None] = {}
        self.lanes = options.lanes
        self.beyond = 0

    def met(self, lanes: Iterable[bytes]) -> bool:
        """A claim met lanes with needs that it did not name. Whether one of them is claimed from now on."""
        found = [one for one in map(self._of_any_queue, lanes) if one]
        for lane in found:
            if lane not in self._met:
                if len(self._met) >= MOST_LANES:
                    del self._met[next(iter(self._met))]
                self._met[lane] = None
                self.lanes = (*self._plain, *self._met)
        return bool(found)

    def _of_any_queue(self, lane: bytes) -> bytes:
        """The lane in which a claim names it; b"" where this process cannot carry its tasks out."""
        try:
            task_type, _, name, needs = split(lane)
        except ValueError:
            return b""  # of a newer version
        plain = lane_of(task_type, ANY_QUEUE, name)
        if needs != WorkerNeeds(needs.cost) or needs.cost > self._places or plain not in self._plain:
            return b""
        return lane_of(task_type, ANY_QUEUE, name + needs.text())

    def begin(self, deliveries: Iterable[Delivery]) -> None:
        """These were claimed."""
        self.beyond += _beyond(deliveries)

    def end(self, deliveries: Sequence[Delivery]) -> None:
        """These have ended."""
        self.beyond -= _beyond(deliveries)


def _beyond(deliveries: Iterable[Delivery]) -> int:
    return sum(cost_of(d.lane) - 1 for d in deliveries if d.lane.startswith(_LETTERS))
