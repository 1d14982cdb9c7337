"""Answers probes that ask, as often as they like, whether a node can do its work."""

from __future__ import annotations

import asyncio
import time

from delaybox.service import Readiness, Service

PROBE_TIMEOUT_S = 2.0
_GOOD_FOR_S = 0.2
"""An answer is used again for this long, so that many probes do not become a load."""


_NOT_IN_TIME = Readiness(False, f"the store did not answer within {PROBE_TIMEOUT_S:g} s", store=False)


class Probe:
    """Runs the service's ``check``, one at a time, and keeps its answer for a moment."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: Readiness | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def ask(self) -> Readiness:
        """The state, at most a moment old."""
        async with self._lock:
            if self._known is None or time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(PROBE_TIMEOUT_S):
                        self._known = await self._service.check()
                except TimeoutError:
                    return _NOT_IN_TIME
                self._until = time.monotonic() + _GOOD_FOR_S
            return self._known
