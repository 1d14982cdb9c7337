"""T32: nodes, workers and clients of this and of an earlier version on one store, upgraded one after another, and back.

The earlier trees come from the repository's history; where that is not there (an sdist, a shallow clone) the rows are
skipped and say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from delaybox.core.task import TaskType
from tests.faults.harness import upgrade_app, upgrade_client
from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import OK, Ack, now_us
from tests.faults.harness.previous import COMMITS, Tree, this, unpacked, why_not
from tests.faults.harness.process import Process
from tests.faults.harness.rest_load import produce_over_rest
from tests.faults.harness.rig import CHANNEL, Rig, soon, spread
from tests.faults.harness.scale import FULL, WHOLE, scaled
from tests.nodes import Node
from tests.ports import free_port

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

NODE_LEASE_S = 15.0
"""Of nodes as they are when nobody configures them."""


@pytest.fixture(scope="module", params=scaled(["0.1.0"], list(COMMITS)))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The earlier version."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    return unpacked(request.param, tmp_path_factory.mktemp("trees"))


async def test_nodes_of_two_versions_share_one_store(tmp_path: Path, old: Tree) -> None:
    """Two old nodes make way for new ones, one stopped and one killed, and come back; then new ones for good."""
    count = scaled(1_200, WHOLE)
    async with Rig(tmp_path, "T32", partitions=16) as rig:
        rig.mode = f"engines-{old.name}"
        await rig.listen()
        pids = {old.name: set[int](), "this": set[int]()}

        async def start(tree: Tree) -> Process:
            node = await rig.worker(root=tree.root, channel=CHANNEL, fleet=True, concurrency=200)
            pids[tree.name].add(node.pid)
            return node

        new = this()
        nodes = list(await asyncio.gather(start(old), start(old)))
        service = await rig.service()
        turn = itertools.cycle((signal.SIGTERM, signal.SIGKILL))

        async def replace(by: Tree) -> None:
            """The eldest, once one of the other version works."""
            nodes.append(await start(by))
            await asyncio.sleep(rig.nemesis.random.uniform(*scaled((0.1, 0.3), (1.0, 3.0))))
            how = next(turn)
            async with rig.nemesis.during("kill" if how == signal.SIGKILL else "term", pid=nodes[0].pid):
                code = await nodes[0].end(how)
            assert how == signal.SIGKILL or code == 0, nodes[0].output()
            nodes.pop(0)

        async def upgrade() -> None:
            for tree in [new, new, *scaled([], [old, old, new, new] * 5)]:
                await replace(tree)

        due = spread(soon(200), scaled(3_000, 1_200))
        part, chunk, pause_s = count // 4, scaled(20, 100), scaled(0.15, 0.3)

        async def produce(nth: int, **more: object) -> None:
            start_at = nth * part
            await rig.produce(
                service,
                part,
                start=start_at,
                due_ms=lambda n: due(4 * (n - start_at) + nth),
                chunk=chunk,
                pause_s=pause_s,
                **more,  # type: ignore[arg-type]
            )

        await asyncio.gather(
            upgrade(),
            produce(0, work={"w": 20}),
            produce(1, task_type=TaskType.PUB_SUB),
            produce(2, padding=3_000),
        )
        # Whoever is there at last has work as well.
        await produce(3, work={"f": 1})
        await rig.drained(4 * part, timeout_s=scaled(60, 600))
        ran = {start.pid for start in rig.reader.history.starts}
        verdict = await rig.passes(Limits(), extra={"old": COMMITS[old.name]})
        assert verdict.figures["early"] == verdict.figures["lost"] == verdict.figures["dead"] == 0
        assert all(ran & pids[name] for name in pids), "one of the versions ran nothing"


class Fleet:
    """Whole nodes at ports that stay: a node that comes takes the port of one that went, of whichever version."""

    def __init__(self, rig: Rig, count: int) -> None:
        self.rig = rig
        self.rest = [free_port() for _ in range(count)]
        self.grpc = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        self.at: list[tuple[Node, Tree] | None] = [None] * count
        self._all: list[Node] = []

    async def start(self, place: int, tree: Tree) -> None:
        """Returns when the node is ready."""
        folder = self.rig.folder / f"node-{len(self._all)}"
        folder.mkdir()
        port = self.grpc[place].partition(":")[2]
        node = Node(
            *("--redis", self.rig.server.url, "--http-port", str(self.rest[place]), "--grpc-port", port),
            folder=folder,
            environ=tree.environ,
        )
        self._all.append(node)
        await asyncio.to_thread(node.ready)
        self.at[place] = node, tree

    async def end(self, place: int, how: signal.Signals) -> None:
        """Stopped or killed; where it was killed, what it held may run again within two of its leases."""
        standing = self.at[place]
        assert standing is not None
        node, self.at[place] = standing[0], None
        if how == signal.SIGTERM:
            assert await asyncio.to_thread(node.stop) == 0, node.output()
            self.rig.nemesis.note("term", pid=node.process.pid)
            return
        at_us = now_us()
        node.process.kill()
        await asyncio.to_thread(node.process.wait)
        self.rig.nemesis.note("node", from_us=at_us, to_us=at_us + int(NODE_LEASE_S * 2e6))

    def versions(self) -> set[str]:
        return {standing[1].name for standing in self.at if standing is not None}

    def close(self) -> None:
        for node in self._all:
            node.process.kill()
            node.process.wait()


@contextlib.contextmanager
def program(rig: Rig, tree: Tree, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Python on the code of ``tree``; its input ends with the block."""
    folder = rig.folder / name
    folder.mkdir()
    for module in (upgrade_app, upgrade_client):
        shutil.copy(str(module.__file__), folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **tree.environ, "ORACLE": str(rig.oracle)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(not FULL, reason="starting whole nodes takes longer than a short run may")
async def test_a_rolling_upgrade_and_the_way_back(tmp_path: Path, old: Tree) -> None:
    """Nodes of both versions, workers and clients of both at all of them, and REST; clients and workers stay the whole
    time: before the first new node and after the last old one has gone they work with the other version's alone."""
    new, places, pause_s = this(), 4, 8.0
    async with Rig(tmp_path, "T32", partitions=16) as rig:
        rig.mode = f"nodes-{old.name}"
        await rig.listen()
        fleet = Fleet(rig, places)
        with contextlib.ExitStack() as stack:
            stack.callback(fleet.close)
            await asyncio.gather(fleet.start(0, old), fleet.start(1, old))
            worker_of = {}
            clients = []
            named = [part for address in fleet.grpc for part in ("--server", address)]
            for tree in (old, new):
                command = ("-m", "delaybox.worker", "upgrade_app", *named, "--concurrency", "20")
                worker_of[tree.name] = stack.enter_context(program(rig, tree, f"worker-{tree.name}", *command))
                command = ("upgrade_client.py", str(rig.oracle), f"c-{tree.name}-", "60", *fleet.grpc)
                clients.append(stack.enter_context(program(rig, tree, f"client-{tree.name}", *command)))
            phases: list[tuple[set[str], int, int]] = []

            async def quiet() -> None:
                """A while in which nothing comes or goes."""
                from_us = now_us()
                await asyncio.sleep(pause_s)
                phases.append((fleet.versions(), from_us, now_us()))

            async def change(come: int, go: int, tree: Tree, how: signal.Signals) -> None:
                await fleet.start(come, tree)
                await asyncio.sleep(3)
                await fleet.end(go, how)
                await quiet()

            async def roll() -> None:
                await quiet()
                for here, there, tree in ((0, 2, new), (2, 0, old), (0, 2, new)):
                    await change(there, here, tree, signal.SIGTERM)
                    await change(there + 1, here + 1, tree, signal.SIGKILL)
                    await asyncio.sleep(NODE_LEASE_S)
                for client in clients:
                    assert client.stdin is not None
                    client.stdin.close()
                    assert await asyncio.to_thread(client.wait, 30) == 0

            posted, per_s = 24_000, 150.0
            began = time.monotonic()
            rolling = asyncio.create_task(roll())
            due = spread(soon(1_000), int(1e6 / per_s))
            await asyncio.gather(rolling, produce_over_rest(rig, fleet.rest, posted, due_ms=due, per_s=per_s))
            rig.reader.poll()
            tasks = {call.key for call in rig.reader.history.calls if call.outcome == OK}
            await rig.reached(len(tasks), timeout_s=120)
            await rig.settled(timeout_s=60)
            # What a worker did to its end, and what the store holds no more, neither live nor dead, is done: once.
            history = rig.reader.final()
            last = {end.task_id: end for end in sorted(history.ends, key=lambda end: end.token)}
            at_us = now_us()
            rig.writer.write(*(Ack("ack", e.task_id, e.token, e.pid, OK, at_us, at_us) for e in last.values()))
            starts = history.starts
            for versions, from_us, to_us in phases:
                at_work = {start.pid for start in starts if start.token and from_us <= start.at_us <= to_us}
                idle = {name for name, worker in worker_of.items() if worker.pid not in at_work}
                assert not idle, f"workers of {idle} did nothing while nodes were of {versions}"
            extra = {"old": COMMITS[old.name], "s": round(time.monotonic() - began), "phases": len(phases)}
            verdict = await rig.passes(Limits(), extra=extra)
            assert verdict.figures["early"] == verdict.figures["lost"] == verdict.figures["dead"] == 0
            assert {frozenset(versions) for versions, _, _ in phases} >= {
                frozenset({old.name}),
                frozenset({"this"}),
                frozenset({old.name, "this"}),
            }
