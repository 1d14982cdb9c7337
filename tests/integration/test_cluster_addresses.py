"""Servers of a cluster that come back at other addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from delaybox.core.errors import StoreUnavailable
from delaybox.store.address import ServerSettings
from delaybox.store.servers import Servers
from tests.cluster import RealCluster
from tests.engines import until
from tests.faults.harness.proxy import Proxy


@pytest.fixture
def two() -> Iterator[tuple[RealCluster, RealCluster]]:
    """Two clusters of one server."""
    first, second = RealCluster(primaries=1), RealCluster(primaries=1)
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        first.close()
        second.close()


async def test_all_at_other_addresses_are_found_by_the_one_that_is_configured(
    two: tuple[RealCluster, RealCluster],
) -> None:
    """As where containers are started again: the name in the URL leads to them, and none of the addresses does that
    they had announced."""
    before, after = (cluster.servers[0] for cluster in two)
    name = Proxy(("127.0.0.1", before.port), seed=1)
    await name.listen_tcp()
    servers = Servers.connect(ServerSettings(port=1, more=(("127.0.0.1", name.port),)), timeout_s=10.0)
    try:
        await servers.ask("SET", "a", "1")
        assert [one.address for one in servers.primaries()] == [("127.0.0.1", before.port)]
        before.kill()
        name.lead_to(("127.0.0.1", after.port))

        async def stored() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await servers.ask("SET", "a", "2")
                return True
            return False

        await until(stored)
        assert [one.address for one in servers.primaries()] == [("127.0.0.1", after.port)]
        assert after.admin.get("a") == b"2"
    finally:
        await servers.close()
        await name.close()
