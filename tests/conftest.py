"""Fixtures: one real server for each xdist worker, a key prefix for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis.asyncio import Redis

from delaybox.store.connect import make_client
from tests.servers import RealServer


@pytest.fixture(scope="session")
def server() -> Iterator[RealServer]:
    """The worker's server, shared by its tests: keep to your `prefix`, never flush or reconfigure it."""
    shared = RealServer()
    shared.start()
    yield shared
    shared.close()


@pytest.fixture
def make_server() -> Iterator[Callable[..., RealServer]]:
    """Starts servers that are the test's own: ``make_server("--maxmemory", "10mb")``."""
    started: list[RealServer] = []

    def make(*arguments: str) -> RealServer:
        own = RealServer(arguments)
        started.append(own)
        own.start()
        return own

    yield make
    for own in started:
        own.close()


@pytest.fixture
def prefix() -> str:
    """A store prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(server: RealServer) -> AsyncIterator[Redis]:
    """A client of the shared server, set up as the node's."""
    shared = make_client(server.settings)
    yield shared
    await shared.aclose()
