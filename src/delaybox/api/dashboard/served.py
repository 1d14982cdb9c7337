"""Which functions are served: where, how fast, by what nodes report of themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from delaybox.core.lane import lane_of, split, without_needs
from delaybox.core.membership import LivingNode
from delaybox.core.task import TaskType

MOST: Final = 200
"""Functions that the page lists."""


@dataclass(slots=True)
class ServedFunction:
    """``nodes``: to which workers are connected that serve it. ``took_ms``: how long it takes from the hand-out to
    success, at the slowest node; 0: not known. ``per_s``: tasks of its queue that were carried out, a second."""

    name: str
    queue: str
    nodes: list[str] = field(default_factory=list)
    took_ms: float = 0.0
    per_s: float = 0.0


def functions(nodes: Iterable[LivingNode]) -> tuple[list[ServedFunction], int]:
    """The first functions by queue and name, and how many there are in all."""
    found: dict[tuple[str, str], ServedFunction] = {}
    rates: dict[str, float] = {}
    for node in nodes:
        activity = node.activity
        for key, rate in activity.fired_per_s.items():
            rates[key] = rates.get(key, 0.0) + rate
        for raw in activity.lanes:
            try:
                lane = split(without_needs(raw))
            except ValueError:
                continue  # a newer node's task type
            one = found.setdefault((lane.queue, lane.name), ServedFunction(lane.name, lane.queue))
            if node.id not in one.nodes:
                one.nodes.append(node.id)
            one.took_ms = max(one.took_ms, activity.service_ms.get(raw.decode(), 0.0))
    shown = [found[key] for key in sorted(found)[:MOST]]
    for one in shown:
        one.per_s = rates.get(lane_of(TaskType.WORKER, one.queue).decode(), 0.0)
    return shown, len(found)
