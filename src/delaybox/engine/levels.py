"""How much of each priority was taken lately, and how long that lets a task wait at most."""

from __future__ import annotations

import time
from collections.abc import Sequence

from delaybox import metrics
from delaybox.core.queue import OTHERS, LiveRules
from delaybox.core.rates import Rates
from delaybox.core.task import Priority
from delaybox.core.waits import longest_wait_ms

_LEVELS = tuple(priority.name.lower().encode() for priority in Priority)


class Levels:
    """Counts leased tasks by priority. ``rules``: of queues; the slack of `*` counts."""

    def __init__(self, rules: LiveRules) -> None:
        self._rules = rules
        self._rates = Rates(time.monotonic())

    def took(self, counts: Sequence[int]) -> None:
        """So many more of each priority."""
        self._rates.add({level: count for level, count in zip(_LEVELS, counts, strict=True) if count}, time.monotonic())

    def export(self) -> None:
        """Sets the metric to how much longer a task may wait than first due first, by the load of the last minute."""
        rates = self._rates.per_second(time.monotonic())
        if not (total := sum(rates.values())):
            return
        load = {priority: rates.get(_LEVELS[priority], 0.0) / total for priority in Priority}
        slack = self._rules.of(OTHERS).slack
        for priority in Priority:
            metrics.longest_extra_wait(priority.name.lower(), longest_wait_ms(priority, 0.0, load, slack))
