"""T29: T1, T3, T6, T8, T13, T26 and T27 at random, one after the other, for as long as one likes (`make soak`)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.leaks import Used, leaks, used
from tests.faults.harness.process import Process
from tests.faults.harness.proxy import CLEAN, Plan, Proxy
from tests.faults.harness.rig import LEASE_MS, Rig, soon, spread
from tests.faults.harness.scale import scaled

LASTS_S = scaled(3.0, float(os.environ.get("DELAYBOX_SOAK_S", "600")))
PER_S = scaled(300, 1_667)
NODES = 4
AMBIGUOUS = Plan(swallow=0.02, cut=0.02, rst=0.02, split=True)
pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800 + 3 * int(LASTS_S)))]


class Mix:
    """Nodes, of which the first is frozen at most, and what may happen to them and to their server."""

    def __init__(self, rig: Rig, proxy: Proxy) -> None:
        self.rig, self.proxy = rig, proxy
        self.nodes: list[Process] = []
        self.did = dict.fromkeys(self._harms(), 0)

    def _harms(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "T1": self._kill,
            "T3": self._freeze,
            "T6": self._server,
            "T8": self._flush,
            "T13": self._ambiguous,
            "T26": self._stop,
            "T27": self._slow,
        }

    async def join(self) -> None:
        """One more: every second one reaches the server through the proxy."""
        url = f"redis://127.0.0.1:{self.proxy.port}" if len(self.rig.processes) % 2 else self.rig.server.url
        self.nodes.append(await self.rig.worker(url=url, fleet=True, timeout_s=2.0))

    async def suffer(self) -> None:
        """One thing; each at least once before any comes again."""
        fewest = min(self.did.values())
        some = [what for what, times in self.did.items() if times == fewest or fewest > 0]
        what = self.rig.nemesis.random.choice(some)
        self.did[what] += 1
        await self._harms()[what]()

    def _any(self) -> Process:
        return self.rig.nemesis.random.choice(self.nodes[1:])

    async def _kill(self) -> None:
        await self._replace(signal.SIGKILL, "kill")

    async def _stop(self) -> None:
        await self._replace(signal.SIGTERM, "term")

    async def _replace(self, how: signal.Signals, kind: str) -> None:
        node = self._any()
        self.nodes.remove(node)
        async with self.rig.nemesis.during(kind, pid=node.pid):
            code = await node.end(how)
        assert how == signal.SIGKILL or code == 0, node.output()
        await self.join()

    async def _freeze(self) -> None:
        node = self.rig.nemesis.random.choice(self.nodes)
        async with self.rig.nemesis.during("freeze", pid=node.pid):
            node.send(signal.SIGSTOP)
            await asyncio.sleep(self.rig.nemesis.random.uniform(0.2, 2.5 * LEASE_MS / 1000))
            node.send(signal.SIGCONT)

    async def _server(self) -> None:
        async with self.rig.nemesis.during("server"):
            await asyncio.to_thread(self.rig.server.written)
            self.rig.server.kill()
            await asyncio.sleep(self.rig.nemesis.random.uniform(0.0, 1.0))
            await asyncio.to_thread(self.rig.server.start)

    async def _flush(self) -> None:
        with self.rig.server.client() as client:
            for _ in range(10):
                client.script_flush("ASYNC")
                await asyncio.sleep(0.05)

    async def _ambiguous(self) -> None:
        async with self.rig.nemesis.during("net"):
            self.proxy.plan = AMBIGUOUS
            await asyncio.sleep(self.rig.nemesis.random.uniform(0.5, 2.0))
            self.proxy.plan = CLEAN

    async def _slow(self) -> None:
        pause_s = self.rig.nemesis.random.uniform(0.3, 2.5)
        async with self.rig.nemesis.during("net"):
            with self.rig.server.client() as client:
                await asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", pause_s)


async def test_a_random_mix_of_faults_loses_nothing(tmp_path: Path) -> None:
    count = int(LASTS_S * PER_S)
    async with Rig(tmp_path, "T29", partitions=16) as rig:
        proxy = await rig.proxy()
        service = await rig.service()
        mix = Mix(rig, proxy)
        await asyncio.gather(*(mix.join() for _ in range(NODES)))
        ended = asyncio.Event()
        early: list[Used] = []

        async def turmoil() -> None:
            while not ended.is_set():
                await asyncio.sleep(rig.nemesis.random.uniform(*scaled((0.0, 0.2), (0.5, 3.0))))
                await mix.suffer()

        async def first_fifth() -> None:
            await asyncio.sleep(LASTS_S / 5)
            early.append(used(mix.nodes[0].pid))

        suffering, looking = asyncio.create_task(turmoil()), asyncio.create_task(first_fifth())
        chunk = scaled(40, 500)
        due = spread(soon(500), int(1e6 / PER_S))
        await rig.produce(service, count, due_ms=due, chunk=chunk, pause_s=chunk / PER_S * 0.8, work={"w": 5})
        ended.set()
        await asyncio.gather(suffering, looking)
        await rig.drained(count, timeout_s=scaled(60, 600))
        now = used(mix.nodes[0].pid)
        await rig.passes(Limits(), extra={**mix.did, **now.more_than(early[0])})
        assert not leaks(early[0], now)
        with rig.server.client() as client:
            left = [key for key in client.scan_iter(match=f"{{{rig.prefix}:*", count=5_000) if b":idem:" not in key]
        assert len(left) < 40 * rig.partitions, f"{len(left)} keys are left of {count} tasks, such as {left[:5]}"
