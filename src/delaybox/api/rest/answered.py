"""Counts answers, and how long they took, and adds both to the metrics ten times a second."""

from __future__ import annotations

import asyncio
from typing import Final

from delaybox import metrics
from delaybox.api.rest.traces import trace_of_request
from delaybox.wire.trace import PARENT

_EVERY_S: Final = 0.1
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_Pairs = list[tuple[bytes, bytes]]


class Answered:
    """Of one process."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._took: dict[tuple[str, str], list[float]] = {}
        self._last: dict[tuple[str, str], tuple[_Pairs, float]] = {}

    def one(self, method: str, route: str, status: int, seconds: float, headers: _Pairs) -> None:
        """An answer, ``seconds`` after its request's head was there; it is in the metrics within _EVERY_S."""
        counts = self._counts
        if not counts:
            asyncio.get_running_loop().call_later(_EVERY_S, self.add)
        counts[route, status] = counts.get((route, status), 0) + 1
        key = (method, route)
        took = self._took.get(key)
        if took is None:
            self._took[key] = [seconds]
        else:
            took.append(seconds)
        # Only looked at for the one that is an example.
        self._last[key] = (headers, seconds)

    def add(self) -> None:
        """Adds what came so far to the metrics."""
        counts, self._counts = self._counts, {}
        took, self._took = self._took, {}
        last, self._last = self._last, {}
        for (route, status), n in counts.items():
            metrics.requests_done(route, status, n)
        for (method, route), seconds in took.items():
            headers, example_s = last[method, route]
            parent = trace_of_request(dict(headers)).get(PARENT, b"")
            known = method if method in _METHODS else "other"
            metrics.requests_took(known, route, seconds, parent.decode(), example_s)
