"""One run: a server, an oracle, nodes to hurt, producers, and the judgement at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from delaybox.core.durability import Durability
from delaybox.core.errors import DelayBoxError, StoreUnavailable
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.faults.harness import report
from tests.faults.harness.checker import Final, Limits, Verdict, check
from tests.faults.harness.look import key_of, look, merged, payload, uuid_of
from tests.faults.harness.nemesis import Nemesis
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, History, Reader, Start, Writer, now_us
from tests.faults.harness.process import ROOT, Process, serve, worker
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scale import SEED
from tests.faults.harness.server import Server
from tests.faults.harness.starved import Starved
from tests.ports import free_port
from tests.waiting import until_async

CHANNEL = "TaskExecution"
CHUNK = 500
LEASE_MS = 1_500
FAST = Durability()


class Node(NamedTuple):
    """A `delaybox serve` and its REST port."""

    process: Process
    port: int


class Rig:
    """Everything of one run lies in ``folder`` and ends with the ``async with``.

    ``environ`` is the server's, ``port`` its TCP port on loopback (0: none); ``durability`` is that of this process's
    stores and services. ``server``: one that was made otherwise.
    """

    def __init__(
        self,
        folder: Path,
        row: str,
        *,
        mode: str = "everysec",
        seed: int = SEED,
        options: Mapping[str, str] | None = None,
        prefix: str = "delaybox",
        partitions: int = 4,
        environ: Mapping[str, str] | None = None,
        durability: Durability = FAST,
        port: int = 0,
        server: Server | None = None,
    ) -> None:
        self.folder, self.row, self.mode, self.seed = folder, row, mode, seed
        self.prefix, self.partitions, self.durability = prefix, partitions, durability
        set_at_start = {"appendfsync": mode, **(options or {})} if mode else options
        self.server = server or Server(folder / "redis", port=port, options=set_at_start, environ=environ)
        self.oracle = folder / "oracle.log"
        self.writer = Writer(self.oracle)
        self.reader = Reader(self.oracle)
        self.nemesis = Nemesis(seed, self.writer)
        self.processes: list[Process] = []
        self.config: dict[str, Any] = {"lease_ms": LEASE_MS, "partitions": partitions, **(options or {})}
        self._stores: list[Store] = []
        self._proxies: list[Proxy] = []
        self._listening: asyncio.Task[None] | None = None
        self._starved = Starved(
            lambda: (self.server.pid, *(process.pid for process in self.processes if process.running))
        )

    async def __aenter__(self) -> Self:
        self.server.start()
        self._starved.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._starved.stop()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        for store in self._stores:
            with contextlib.suppress(DelayBoxError, OSError):
                await store.close()
        for process in self.processes:
            await process.clean_up()
        for proxy in self._proxies:
            await proxy.close()
        self.server.stop()
        self.writer.close()

    # -- parts ----------------------------------------------------------------------------------------------------

    async def proxy(self, upstream: tuple[str, int] | None = None) -> Proxy:
        """A proxy in front of the server, or of ``upstream``, clean at first; it listens on ``port`` of loopback."""
        proxy = Proxy(upstream or str(self.server.socket), seed=self.seed)
        await proxy.listen_tcp()
        self._proxies.append(proxy)
        return proxy

    async def store(self, url: str = "", *, timeout_s: float = 5.0) -> Store:
        """A store in this process, through ``url`` (default: straight to the server)."""
        servers = Servers.connect(ServerSettings.from_url(url or self.server.url), timeout_s=timeout_s)
        store = await Store.open(servers, prefix=self.prefix, partitions=self.partitions, durability=self.durability)
        self._stores.append(store)
        return store

    async def service(self, url: str = "", *, timeout_s: float = 5.0) -> Service:
        """Use-cases in this process: what a front end of a node would call."""
        return Service(await self.store(url, timeout_s=timeout_s))

    async def worker(
        self, *, env: Mapping[str, str] | None = None, root: Path = ROOT, ready: bool = True, **settings: Any
    ) -> Process:
        """A leased-path node, running, of the tree at ``root``. ``settings`` go to harness/node.py, ``ready`` to
        `Process.start`."""
        whole = {
            "url": self.server.url,
            "prefix": self.prefix,
            "oracle": str(self.oracle),
            "lease_ms": LEASE_MS,
            **settings,
        }
        process = worker(self.folder, f"worker-{len(self.processes)}", whole, env, root)
        self.processes.append(process)
        await process.start(ready=ready)
        return process

    async def workers(self, count: int, **settings: Any) -> list[Process]:
        """Several at once."""
        return list(await asyncio.gather(*(self.worker(**settings) for _ in range(count))))

    async def serve(self, *, url: str = "", port: int = 0, env: Mapping[str, str] | None = None) -> Node:
        """A whole node with its REST port, running."""
        port = port or free_port()
        process = serve(
            self.folder, f"serve-{len(self.processes)}", redis_url=url or self.server.url, port=port, env=env
        )
        self.processes.append(process)
        await process.start()
        return Node(process, port)

    async def listen(self) -> None:
        """Subscribes to the execution channel, straight at the server, and logs what is published as executions."""
        subscribed = asyncio.Event()
        self._listening = asyncio.create_task(self._subscriber(subscribed))
        await subscribed.wait()

    async def _subscriber(self, subscribed: asyncio.Event) -> None:
        client = make_client(ServerSettings.from_url(self.server.url), timeout_s=600)
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL)
                async for message in pubsub.listen():
                    if message["type"] == "subscribe":
                        subscribed.set()
                        continue
                    at_us, raw = now_us(), message["data"]
                    self.writer.write(Start(uuid_of(raw), key_of(raw), 0, 0, 0, at_us))
        finally:
            await client.aclose()

    # -- producers ------------------------------------------------------------------------------------------------

    async def produce(
        self,
        service: Service,
        count: int,
        *,
        due_ms: Callable[[int], int | None],
        start: int = 0,
        task_type: TaskType = TaskType.WORKER,
        chunk: int = CHUNK,
        pause_s: float = 0.0,
        resend: bool = True,
        padding: int = 0,
        work: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Schedules ``count`` tasks with keys ``k<start>``… and logs every answer; the keys that were refused for good.

        ``due_ms`` is asked once a task. With ``resend`` what is not known to be stored is sent again with the same
        idempotency key until it is, as a producer with an outbox does.
        """
        refused: list[str] = []
        for at in range(start, start + count, chunk):
            tasks = {
                f"k{n}": NewTask(
                    payload=payload(f"k{n}", **(work or {})) + b" " * padding,
                    due_ms=due_ms(n),
                    type=task_type,
                    idempotency_key=f"k{n}",
                )
                for n in range(at, min(at + chunk, start + count))
            }
            while tasks:
                tasks, no = await self.submit(service, tasks)
                refused += no
                if not resend:
                    break
                if tasks:
                    await asyncio.sleep(0.02)
            if pause_s:
                await asyncio.sleep(pause_s)
        return refused

    async def submit(self, service: Service, tasks: Mapping[str, NewTask]) -> tuple[dict[str, NewTask], list[str]]:
        """Sends once and logs; (what is not known to be stored, the keys refused)."""
        sent_us = now_us()
        answers = await service.submit_many(list(tasks.values()))
        answered_us = now_us()
        again: dict[str, NewTask] = {}
        refused: list[str] = []
        events: list[Call] = []
        for (key, task), answer in zip(tasks.items(), answers, strict=True):
            due = task.due_ms or sent_us // 1000
            if isinstance(answer, Submitted):
                events.append(Call("schedule", key, answer.task_id, answer.due_ms, OK, sent_us, answered_us))
            elif isinstance(answer, StoreUnavailable):
                again[key] = task
                events.append(Call("schedule", key, "", due, UNKNOWN, sent_us, answered_us))
            else:
                refused.append(key)
                events.append(Call("schedule", key, "", due, FAIL, sent_us, answered_us))
        self.writer.write(*events)
        return again, refused

    # -- the end --------------------------------------------------------------------------------------------------

    async def drained(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Returns when ``count`` different tasks were executed and the store holds nothing that waits or runs."""
        await self.reached(count, timeout_s=timeout_s)
        await self.settled(timeout_s=timeout_s)

    async def reached(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Returns when ``count`` different tasks reached a handler or subscriber."""
        done: set[str] = set()
        seen = 0

        def all_there(history: History) -> bool:
            nonlocal seen
            done.update(s.task_id for s in history.starts[seen:])
            seen = len(history.starts)
            return len(done) >= count

        await self.reader.until(all_there, timeout_s=timeout_s, what=f"{count} tasks executed")

    async def settled(self, *, timeout_s: float = 60.0) -> None:
        """Returns when the store holds neither pending nor leased tasks."""
        store = await self.store()
        left: list[object] = []

        async def empty() -> bool:
            left[:] = [c for c in await store.counts() if c.pending or c.in_flight]
            return not left

        await until_async(empty, lambda: f"the store still holds {left}", within_s=timeout_s)

    async def final(self) -> Final:
        """What lies where, and what fsck says."""
        trouble = (await fsck(await self.store())).problems
        with self.server.clients() as clients:
            return merged([look(client, prefix=self.prefix) for client in clients], trouble)

    async def judge(
        self, limits: Limits | None = None, *, extra: Mapping[str, Any] | None = None, final: Final | None = None
    ) -> Verdict:
        """Checks the run, prints its line, writes its record."""
        final = final or await self.final()
        limits = replace(limits or Limits(), lease_ms=float(self.config["lease_ms"]))
        verdict = check(self.reader.final(), final, limits, starved=self._starved.ms)
        with self.server.client() as client:
            info = client.info("server")
        version = f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"
        faults = self.nemesis.faults
        more = dict(extra or {})
        report.record(
            self.row,
            self.mode,
            self.seed,
            config=self.config,
            server=version,
            faults=faults,
            verdict=verdict,
            extra=more,
        )
        print("\n" + report.line(self.row, self.mode, self.seed, faults, verdict, more))
        for invariant, what in verdict.violations:
            print(f"  {invariant} broken: {what}")
        return verdict

    def starved_ms(self, from_us: int, to_us: int) -> float:
        """How long one of its processes waited for a processor meanwhile."""
        return self._starved.ms(from_us, to_us)

    async def passes(self, limits: Limits | None = None, **more: Any) -> Verdict:
        """`judge`, and nothing may be broken."""
        verdict = await self.judge(limits, **more)
        assert not verdict.violations, verdict.violations
        return verdict


def spread(start_ms: int, step_us: int) -> Callable[[int], int]:
    """Due times evenly from ``start_ms`` on."""
    return lambda n: start_ms + n * step_us // 1000


def soon(delay_ms: int = 0) -> int:
    """Unix ms, that much from now."""
    return time.time_ns() // 1_000_000 + delay_ms


__all__: Sequence[str] = ["CHUNK", "LEASE_MS", "Rig", "soon", "spread"]
