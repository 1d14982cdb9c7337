"""Finds tasks by id. Calls that arrive together share a round trip, because a round trip each costs five times as
much."""

from __future__ import annotations

import asyncio

from delaybox.core.partition import of_id
from delaybox.store.loader import ScriptCall
from delaybox.store.record import is_stub
from delaybox.store.replies import Found
from delaybox.store.store import Store

MOST_IDS = 128
"""Ids in one call of ``peek``; its bound."""
_MOST_WAITING = 512


class Lookup:
    """`find` for many callers at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[bytes, asyncio.Future[Found]]] = []
        self._pump_task: asyncio.Task[None] | None = None

    async def find(self, task_id: bytes) -> Found:
        """Where one task stands; StoreUnavailable."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((task_id, future))
        if self._pump_task is None:
            self._pump_task = asyncio.ensure_future(self._pump())
        found = await future
        # Few of the tasks that are asked for are not simply pending; only these cost a second call.
        return found if found.place else await self._store.get(task_id)

    async def _pump(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[:_MOST_WAITING], self._waiting[_MOST_WAITING:]
            try:
                await self._peek(taken)
            except Exception as error:  # noqa: BLE001 - a defect here must not leave callers waiting for ever
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
        self._pump_task = None

    async def _peek(self, taken: list[tuple[bytes, asyncio.Future[Found]]]) -> None:
        store = self._store
        groups: dict[int, list[tuple[bytes, asyncio.Future[Found]]]] = {}
        for one in taken:
            groups.setdefault(of_id(one[0], store.partitions), []).append(one)
        calls, parts = [], []
        for partition, group in groups.items():
            for at in range(0, len(group), MOST_IDS):
                part = group[at : at + MOST_IDS]
                calls.append(
                    ScriptCall("peek", store.tags[partition], (store.bucket_ms, *(task_id for task_id, _ in part)))
                )
                parts.append(part)
        for reply, part in zip(await store.runner.run_many(calls), parts, strict=True):
            if isinstance(reply, BaseException):
                for _, future in part:
                    if not future.done():
                        future.set_exception(reply)
                continue
            now = reply[0]
            for (_, future), value in zip(part, reply[1:], strict=True):
                if not future.done():
                    future.set_result(Found(now) if is_stub(value) else Found(now, "home", value))
