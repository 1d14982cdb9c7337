"""What is kept of the servers of a cluster while its map of slots changes; nothing is connected to."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.store import cluster
from delaybox.store.address import ServerSettings
from delaybox.store.cluster import ServerCluster
from delaybox.store.slots import SLOTS, SlotRange

ONE, TWO = ("127.0.0.1", 1), ("127.0.0.1", 2)
HALF = SLOTS // 2


async def test_a_server_that_comes_and_goes_is_not_forgotten_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_LEAVE_S", 0.0)
    servers = ServerCluster(ServerSettings(host="127.0.0.1", port=1), timeout_s=1.0, max_connections=1)
    epoch = 0

    def second_half_at(address: tuple[str, int]) -> None:
        nonlocal epoch
        epoch += 1
        servers._take([SlotRange(0, HALF - 1, ONE, "a", 1, 0), SlotRange(HALF, SLOTS - 1, address, "b", epoch, 0)])

    second_half_at(TWO)
    went = servers._links[TWO]
    second_half_at(ONE)
    await asyncio.gather(*servers._tasks)
    assert TWO not in servers._links
    second_half_at(TWO)
    # It had lost its slots twice within the time that is waited.
    await servers._leave(went)
    assert sorted(link.address for link in servers.links) == [ONE, TWO]
    await servers.close()
