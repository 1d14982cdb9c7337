"""Round trips to several servers at once, where one that hangs holds up none of the others.

A server that is away is known to be (`store.cluster`), and costs nobody any time. One that hangs is noticed only when
a time-out is over: until then whoever waits for the replies of all servers waits for that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from delaybox.core.errors import PartAway

_T = TypeVar("_T")

PATIENCE_S = 0.25
"""A server that has not answered within this time is not waited for."""
SILENT = PartAway("a server of the store has not answered for a while; the others go on")
"""In place of a reply of a server that is not waited for."""


class Apart:
    """Sends a server nothing more before it has answered. ``servers``: the number of its server for each partition, as
    it is now (`Shards.of`).

    What a silent server answers later is nobody's: only what may be lost, or carried out unseen, is sent this way.
    """

    def __init__(self, servers: Callable[[], Sequence[int]], *, patience_s: float = PATIENCE_S) -> None:
        self._servers = servers
        self.patience_s = patience_s
        self._under_way: dict[int, tuple[asyncio.Task[list[Any]], float]] = {}
        """What each server has not answered yet, and until when it is waited for."""

    async def send(
        self, send: Callable[[Sequence[_T]], Coroutine[Any, Any, list[Any]]], asked: Sequence[tuple[int, _T]]
    ) -> list[Any]:
        """What ``send`` answers: one reply for each that it gets. ``asked``: each with its partition. The reply is
        `SILENT` for those at servers that are silent. A store that lies at one server is waited for."""
        servers = self._servers()
        if servers.count(servers[0]) == len(servers) and not self._under_way:
            return await send([one for _, one in asked])
        groups: dict[int, list[int]] = {}
        for i, (partition, _) in enumerate(asked):
            groups.setdefault(servers[partition], []).append(i)
        replies: list[Any] = [SILENT] * len(asked)
        works = (self._at(server, send, [asked[i][1] for i in where]) for server, where in groups.items())
        for where, some in zip(groups.values(), await asyncio.gather(*works), strict=True):
            for i, reply in zip(where, some or (), strict=some is not None):
                replies[i] = reply
        return replies

    async def _at(
        self, server: int, send: Callable[[Sequence[_T]], Coroutine[Any, Any, list[Any]]], asked: Sequence[_T]
    ) -> list[Any] | None:
        """The replies of one server, in its turn; None: it is silent."""
        loop = asyncio.get_running_loop()
        while before := self._under_way.get(server):
            task, until = before
            if loop.time() >= until:
                return None
            await asyncio.wait({task}, timeout=until - loop.time())
        task = asyncio.create_task(send(asked), name="delaybox-apart")
        self._under_way[server] = task, loop.time() + self.patience_s

        def over(task: asyncio.Task[list[Any]]) -> None:
            del self._under_way[server]
            if not task.cancelled():
                task.exception()  # nobody may be left who waits for it

        task.add_done_callback(over)
        try:
            done, _ = await asyncio.wait({task}, timeout=self.patience_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        return task.result() if done else None
