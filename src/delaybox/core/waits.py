"""How much longer a task may wait than if whatever was due first went first, by its priority. Pure.

Of a task that first due first served would make wait W: critical tasks that come due meanwhile go before it, and so do
tasks of priorities with less slack, as far as their slack is less. With r, the load of a priority as a share of what is
taken in all:

    wait <= (W + A) / (1 - c)        A = sum of r * (slack - theirs) over the priorities with less slack
                                     c = r of critical tasks, at most 0.95 because of the floor
"""

from __future__ import annotations

from collections.abc import Mapping

from delaybox.core.queue import DEFAULT_SLACK, Slack
from delaybox.core.shares import FLOOR
from delaybox.core.task import Priority


def slack_ms(own: Slack | None, priority: Priority) -> int:
    """The slack of a priority, by a queue's rule or by default."""
    if priority is Priority.CRITICAL:
        return 0
    name = f"{priority.name.lower()}_ms"
    found: int | None = getattr(own, name) if own is not None else None
    return int(getattr(DEFAULT_SLACK, name)) if found is None else found


def longest_wait_ms(
    priority: Priority, first_due_first_ms: float, load: Mapping[Priority, float], slack: Slack | None = None
) -> float:
    """The longest wait of a task that would wait ``first_due_first_ms`` if what is due first went first.

    ``load``: how much of each priority comes due, as a share of what is taken in all.
    """
    if priority is Priority.CRITICAL:
        # It leaves one place of twenty to the others.
        return first_due_first_ms * FLOOR / (FLOOR - 1)
    own = slack_ms(slack, priority)
    before = sum(
        load.get(other, 0.0) * (own - slack_ms(slack, other))
        for other in Priority
        if other is not Priority.CRITICAL and slack_ms(slack, other) < own
    )
    critical = min(load.get(Priority.CRITICAL, 0.0), 1 - 1 / FLOOR)
    return (first_due_first_ms + before) / (1 - critical)
