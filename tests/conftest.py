"""Fixtures: one real server for each xdist worker, a key prefix for each test."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from delaybox.store.connect import make_client
from scripts.kafka_broker import Broker
from tests import quick_start
from tests.cluster import RealCluster
from tests.kafka import MORTAL, Kafka, need_broker
from tests.kafka import shared as shared_kafka
from tests.order import dealt
from tests.servers import RealServer

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# Whoever runs the tests in a shell's background ignores SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


quick_start.install()


def pytest_unconfigure() -> None:
    quick_start.uninstall()


class _Shared:
    """The server that the tests of this process share, and the file whose tests use it now."""

    server: RealServer | None = None
    file: Path | None = None


def pytest_runtest_setup(item: pytest.Item) -> None:
    quick_start.fresh = quick_start.ALWAYS_FRESH or item.get_closest_marker("fresh") is not None
    if "server" in getattr(item, "fixturenames", ()) and item.path != _Shared.file:
        _Shared.file = item.path
        if _Shared.server is not None:
            # Whatever looks through a server would look through what thousands of tests have left there.
            _Shared.server.empty()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        folder = Path(__file__).parent
        items[:] = dealt([(item.path.relative_to(folder).as_posix(), item) for item in items], workers)


@pytest.fixture(scope="session")
def server() -> Iterator[RealServer]:
    """The worker's server, shared by its tests: keep to your `prefix`, never flush or reconfigure it. It is emptied
    between files."""
    shared = RealServer()
    shared.start()
    _Shared.server = shared
    yield shared
    _Shared.server = None
    shared.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """The worker's cluster of three primaries with a replica each, shared by its tests: keep to your `prefix`.

    Who kills a server or moves a slot brings all back (`RealCluster.whole`).
    """
    shared = RealCluster(replicas=True)
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
def beats() -> dict[str, int] | None:
    """Settings of the yard's nodes in place of its `QUICK` ones; a module that needs others overrides this."""
    return None


@pytest.fixture
def way() -> str:
    """How tests reach what they test: over ``grpc``, or straight on ``redis`` where they are parametrised so."""
    return "grpc"


@pytest.fixture
def prefix() -> str:
    """A store prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(server: RealServer) -> AsyncIterator[Redis]:
    """A client of the shared server, set up as the node's but for its patience."""
    shared = make_client(server.settings, timeout_s=60.0)
    yield shared
    await shared.aclose()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The broker of the whole run: keep to topics and groups of your own, never stop it."""
    base = tmp_path_factory.getbasetemp()
    # xdist gives each worker a folder under the run's own.
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared_kafka(run / "kafka") as broker:
        yield broker


@pytest.fixture
def make_kafka(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers that are the test's own, to be stopped and killed. Takes what `Broker` takes."""
    need_broker()
    started: list[Broker] = []

    def make(*, settings: Mapping[str, str] | None = None, **options: Any) -> Broker:
        own = Broker(tmp_path / f"kafka-{len(started)}", settings={**MORTAL, **(settings or {})}, **options)
        started.append(own)
        own.start()
        return own

    yield make
    for own in started:
        own.close()
