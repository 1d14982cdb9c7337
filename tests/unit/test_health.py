"""How the servers of a store are, from what they report of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delaybox.service.health import StoreHealth, health_of
from delaybox.store.probe import ServerReport


def report(info: Mapping[str, Any], offset_ms: float = 0.0) -> ServerReport:
    return ServerReport("", info, "everysec", "", offset_ms)


def follows(lag: int = 1, state: str = "online") -> dict[str, Any]:
    return {"ip": "10.0.0.2", "port": 6379, "state": state, "offset": 7, "lag": lag}


def test_a_server_that_hides_everything_counts_as_good() -> None:
    good = StoreHealth(file_ok=True, replicas=0, clock_offset_ms=0.0, memory_bytes=0, memory_ratio=0.0)
    assert health_of([report({})]) == good


def test_the_append_only_file() -> None:
    good = {"aof_enabled": 1, "aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok"}
    assert health_of([report(good)]).file_ok
    for name in ("aof_last_write_status", "aof_last_bgrewrite_status"):
        assert not health_of([report(good), report({**good, name: "err"})]).file_ok
    assert health_of([report({"aof_enabled": 0, "aof_last_write_status": "err"})]).file_ok, "it keeps none"


def test_replicas_that_follow() -> None:
    replicas = {"slave0": follows(), "slave1": follows(lag=60), "slave2": follows(state="wait_bgsave")}
    primaries = [report({"connected_slaves": 3, **replicas}), report({"connected_slaves": 1, "slave0": follows(0)})]
    assert health_of(primaries).replicas == 2


def test_the_clock_that_is_furthest_off_counts() -> None:
    assert health_of([report({}, 20.0), report({}, -700.0), report({}, 5.0)]).clock_offset_ms == -700.0


def test_the_server_with_the_least_room_counts() -> None:
    half = {"used_memory": 512, "maxmemory": 1024, "total_system_memory": 4096}
    most = {"used_memory": 900, "maxmemory": 1000}
    found = health_of([report(half), report(most), report({"used_memory": 10, "maxmemory": 1000})])
    assert (found.memory_bytes, found.memory_ratio) == (1422, 0.9)
    unbounded = health_of([report({"used_memory": 1024, "maxmemory": 0, "total_system_memory": 4096})])
    assert unbounded.memory_ratio == 0.25, "it ends where the machine's memory does"
