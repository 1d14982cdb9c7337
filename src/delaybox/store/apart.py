"""Round trips to several servers at once, where one that hangs holds up none of the others.

A server that is away is known to be (`store.cluster`), and costs nobody any time. One that hangs is noticed only when
a time-out is over: until then whoever waits for the replies of all servers waits for that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from delaybox.core.errors import PartAway

_T = TypeVar("_T")

PATIENCE_S = 0.25
"""A server that has not answered within this time is not waited for."""
_SILENT = PartAway("a server of the store has not answered for a while; the others go on")


class Apart:
    """Of one loop, which sends a server nothing more before it has answered. ``servers``: the number of its server for
    each partition, as it is now (`Shards.of`).

    What a silent server answers later is nobody's: only what may be lost, or carried out unseen, is sent this way.
    """

    def __init__(self, servers: Callable[[], Sequence[int]], *, patience_s: float = PATIENCE_S) -> None:
        self._servers = servers
        self._patience_s = patience_s
        self._under_way: dict[int, asyncio.Task[list[Any]]] = {}

    async def send(
        self, send: Callable[[Sequence[_T]], Coroutine[Any, Any, list[Any]]], asked: Sequence[tuple[int, _T]]
    ) -> list[Any]:
        """What ``send`` answers: one reply for each that it gets. ``asked``: each with its partition. The reply is
        PartAway for those at servers that are silent. A store that lies at one server is waited for."""
        servers = self._servers()
        if servers.count(servers[0]) == len(servers) and not self._under_way:
            return await send([one for _, one in asked])
        groups: dict[int, list[int]] = {}
        for i, (partition, _) in enumerate(asked):
            groups.setdefault(servers[partition], []).append(i)
        replies: list[Any] = [_SILENT] * len(asked)
        open_ = {server: where for server, where in groups.items() if server not in self._under_way}
        found = await self._run({server: send([asked[i][1] for i in where]) for server, where in open_.items()})
        for server, some in found.items():
            for i, reply in zip(groups[server], some, strict=True):
                replies[i] = reply
        return replies

    async def _run(self, works: Mapping[int, Coroutine[Any, Any, list[Any]]]) -> dict[int, list[Any]]:
        tasks = {server: asyncio.create_task(work, name="delaybox-apart") for server, work in works.items()}
        if not tasks:
            return {}
        for server, task in tasks.items():
            self._begin(server, task)
        try:
            done, _ = await asyncio.wait(tasks.values(), timeout=self._patience_s)
        except asyncio.CancelledError:
            for task in tasks.values():
                task.cancel()
            raise
        return {server: task.result() for server, task in tasks.items() if task in done}

    def _begin(self, server: int, task: asyncio.Task[list[Any]]) -> None:
        self._under_way[server] = task

        def over(task: asyncio.Task[list[Any]]) -> None:
            del self._under_way[server]
            if not task.cancelled():
                task.exception()  # nobody may be left who waits for it

        task.add_done_callback(over)
