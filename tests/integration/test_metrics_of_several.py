"""Two nodes on one store behind one address: what a scraper that cannot choose between them sums up is right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.balancer import Balancer
from tests.nodes import Node
from tests.servers import RealServer
from tests.waiting import until_async
from tests.web import called

MANY = 60
_SERIES = re.compile(r"^(delaybox_\w+)(?:{(.*)})? (\S+)$", re.MULTILINE)


@pytest.fixture
async def nodes(server: RealServer, tmp_path: Path) -> AsyncIterator[list[Node]]:
    flags = ("--redis", server.url, "--set", f"storage.prefix=several-{os.getpid()}", "--http-port", "0")
    with contextlib.ExitStack() as stack:
        both = [Node(*flags, folder=tmp_path) for _ in range(2)]
        for one in both:
            stack.callback(one.stop)
        with ThreadPoolExecutor(2) as pool:
            yield list(pool.map(Node.ready, both))


class Scraper:
    """Asks one address, as Prometheus does. ``latest``: the last value of each series that it was ever shown."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.latest: dict[tuple[str, str], float] = {}

    async def scrape(self, query: str = "") -> set[str]:
        """The names that the answer has."""
        status, text = await asyncio.to_thread(called, self._address, f"/metrics{query}")
        assert status == 200, text
        found = {(name, labels): float(value) for name, labels, value in _SERIES.findall(text)}
        self.latest |= found
        return {name for name, _ in found}

    def of(self, name: str) -> dict[str, float]:
        """Series of a name by their labels."""
        return {labels: value for (one, labels), value in self.latest.items() if one == name}


async def test_sums_over_nodes_that_take_turns_are_right(nodes: list[Node]) -> None:
    for n in range(MANY):
        answer = await asyncio.to_thread(nodes[n % 3 % 2].call, "POST", "/v1/tasks", {"payload": "x"})
        assert answer[0] == 201
    balancer = Balancer()
    balancer.to += [node.port for node in nodes]
    await balancer.listen()
    try:
        seen = Scraper(f"127.0.0.1:{balancer.port}")

        async def all_fired() -> bool:
            await seen.scrape("?label=node")
            return sum(seen.of("delaybox_fired_tasks_total").values()) == MANY

        await until_async(all_fired, lambda: seen.of("delaybox_fired_tasks_total"))
        await seen.scrape("?label=node")
        await seen.scrape("?label=node")
        scheduled = seen.of("delaybox_scheduled_tasks_total")
        assert sorted(scheduled.values()) == [MANY / 3, MANY * 2 / 3], "each node's own"
        listed = nodes[0].call("GET", "/v1/nodes")[2]["nodes"]
        labels = {re.sub(r'.*node="([^"]+)".*', r"\1", one) for one in scheduled}
        assert labels == {node["id"] for node in listed}, "the names that other commands show"
        assert seen.of("delaybox_pending_tasks") == {"": 0}, "the store's once, and the same of both"
        assert seen.of("delaybox_running_members")['kind="clock"'] == 2
        assert len(seen.of("delaybox_build_info")) == 2

        plain = Scraper(f"127.0.0.1:{nodes[0].port}")
        store: set[str] = set()
        own: set[str] = set()

        async def add_up() -> bool:
            # Series of queues come and go with what the node saw last, so the three must be of one moment.
            nonlocal store, own
            store, own, both = await plain.scrape("?of=store"), await plain.scrape("?of=node"), await plain.scrape()
            return store | own == both

        await until_async(add_up)
        assert not store & own
        assert "delaybox_pending_tasks" in store and "delaybox_fired_tasks_total" in own
        for query, words in (("?of=all", "give node or store"), ("?label=host", "give node, or leave it out")):
            status, text = await asyncio.to_thread(called, f"127.0.0.1:{nodes[0].port}", f"/metrics{query}")
            assert status == 400 and words in text
    finally:
        await balancer.close()
