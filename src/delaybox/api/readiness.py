"""Whether a node can do its work, asked by probes as often as they like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

PROBE_TIMEOUT_S = 2.0
_GOOD_FOR_S = 0.2
"""An answer is used again for this long, so that probes cannot become load."""


class Ready(Protocol):
    """Whether the node can do its work; ``reason`` when it cannot. ``store``: whether the store takes new tasks."""

    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def store(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class NotInTime:
    """The store did not answer."""

    ok: bool = False
    reason: str = f"the store did not answer within {PROBE_TIMEOUT_S:g} s"
    store: bool = False


class Checked(Protocol):
    """The service, or what stands before it."""

    def check(self) -> Awaitable[Ready]: ...


class Probe:
    """Asks the service's ``check`` one at a time and remembers its answer for a moment."""

    def __init__(self, service: Checked) -> None:
        self._service = service
        self._known: Ready | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def ask(self) -> Ready:
        """The state, at most a moment old."""
        async with self._lock:
            if self._known is None or time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(PROBE_TIMEOUT_S):
                        self._known = await self._service.check()
                except TimeoutError:
                    return NotInTime()
                self._until = time.monotonic() + _GOOD_FOR_S
            return self._known
