"""Measures how many tasks this process stores with so little notice that a forecast cannot show them in time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from delaybox.core import ids
from delaybox.core.rates import FadingRates
from delaybox.core.scaling import LEAD_MS, notice_left_out
from delaybox.store.record import Draft, lane_of_draft

_LOOKED_AT = 8
"""Tasks of a batch that are looked at; where there are more, each stands for several."""
_MOST_LANES = 1_000
_RELATIVE = ids.RELATIVE


class Unforeseen:
    """Rates by lane, of `Store.schedule`. A batch costs the same, however many tasks it has."""

    def __init__(self) -> None:
        self._rates = FadingRates(time.monotonic(), most=_MOST_LANES)
        self._new: dict[bytes, float] = {}
        self._turn = 0

    def stored(self, drafts: Sequence[Draft], now_ms: int) -> None:
        """These were stored just now. ``now_ms``: by the server's clock."""
        each = 1
        if len(drafts) > _LOOKED_AT:
            each = -(-len(drafts) // _LOOKED_AT)
            self._turn += 1
            # In turn, so that tasks that come in a pattern are not looked at in that pattern.
            drafts = drafts[self._turn % each :: each]
        for new in drafts:
            due = new.due48
            notice = due - _RELATIVE if due & _RELATIVE else due - now_ms
            if notice < LEAD_MS:
                lane = lane_of_draft(new)
                known = self._new.get(lane, 0.0)
                if known or len(self._new) < _MOST_LANES:
                    self._new[lane] = known + (each if notice <= 0 else notice_left_out(notice) * each)

    def per_second(self, most: int) -> dict[str, float]:
        """Tasks a second by lane; ``most``: of how many lanes, those with the most."""
        now_s = time.monotonic()
        new, self._new = self._new, {}
        for lane, count in new.items():
            self._rates.add(lane, count, now_s)
        rates = self._rates.per_second(now_s)
        return {lane.decode(): rates[lane] for lane in sorted(rates, key=rates.__getitem__, reverse=True)[:most]}
