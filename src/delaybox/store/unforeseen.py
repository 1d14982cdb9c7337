"""Measures how many tasks this process stores with so little notice that a forecast cannot show them in time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from delaybox.core import ids
from delaybox.core.rates import FadingRates
from delaybox.core.scaling import notice_left_out
from delaybox.store.record import Draft, lane_of_draft

_LOOKED_AT = 32
"""Tasks of a batch that are looked at; where there are more, each stands for several."""


class Unforeseen:
    """Rates by lane, of `Store.schedule`. A batch costs the same, however many tasks it has."""

    def __init__(self) -> None:
        self._rates = FadingRates(time.monotonic())

    def stored(self, drafts: Sequence[Draft], now_ms: int) -> None:
        """These were stored just now. ``now_ms``: by the server's clock."""
        each = -(-len(drafts) // _LOOKED_AT)
        now_s = time.monotonic()
        for new in drafts[::each] if each > 1 else drafts:
            due = new.due48
            share = notice_left_out(due - ids.RELATIVE if due & ids.RELATIVE else due - now_ms)
            if share:
                self._rates.add(lane_of_draft(new), share * each, now_s)

    def per_second(self, most: int) -> dict[str, float]:
        """Tasks a second by lane; ``most``: of how many lanes, those with the most."""
        rates = self._rates.per_second(time.monotonic())
        return {lane.decode(): rates[lane] for lane in sorted(rates, key=rates.__getitem__, reverse=True)[:most]}
