"""How the servers of the store are: their append-only files, replicas and clocks, as monitoring wants to know it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from delaybox.store.probe import ServerReport
from delaybox.store.store import Store

FRESH_S: Final = 10.0
"""So long what was found is used again: it is several round trips to each server."""
_LAG_S: Final = 10
"""A replica that was not heard of for longer does not follow. Servers ping them once a second."""
_OK: Final = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """``file_ok``: no server failed to write its append-only file. ``replicas``: those that follow, of all servers
    together. ``clock_offset_ms``: of the server whose clock is furthest from this machine's, minus that one.
    ``memory_bytes``: what all servers use. ``memory_ratio``: of the fullest, what it uses of what it may use."""

    file_ok: bool
    replicas: int
    clock_offset_ms: float
    memory_bytes: int
    memory_ratio: float


class ServerWatch:
    """Asks the servers, but not for each caller."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: StoreHealth | None = None
        self._until = 0.0

    async def ask(self) -> StoreHealth:
        """At most FRESH_S old. StoreUnavailable."""
        if self._known is None or time.monotonic() >= self._until:
            self._known = health_of(await self._store.servers.reports(settings=False))
            self._until = time.monotonic() + FRESH_S
        return self._known


def health_of(reports: Sequence[ServerReport]) -> StoreHealth:
    """What servers report of themselves, in figures. What an ACL hides counts as good."""
    return StoreHealth(
        file_ok=all(_file_ok(one.info) for one in reports),
        replicas=sum(_following(one.info) for one in reports),
        clock_offset_ms=max((one.clock_offset_ms for one in reports), key=abs, default=0.0),
        memory_bytes=sum(int(one.info.get("used_memory", 0)) for one in reports),
        memory_ratio=max((_memory_ratio(one.info) for one in reports), default=0.0),
    )


def _memory_ratio(info: Mapping[str, Any]) -> float:
    """Of maxmemory; where none is set of the machine's memory, for that is where such a server ends."""
    most = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    return int(info.get("used_memory", 0)) / most if most else 0.0


def _file_ok(info: Mapping[str, Any]) -> bool:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status")
    return not int(info.get("aof_enabled", 0)) or all(info.get(name, _OK) == _OK for name in names)


def _following(info: Mapping[str, Any]) -> int:
    found = [info.get(f"slave{n}") for n in range(int(info.get("connected_slaves", 0)))]
    return sum(
        isinstance(one, Mapping) and one.get("state") == "online" and int(one.get("lag", 0)) <= _LAG_S for one in found
    )
