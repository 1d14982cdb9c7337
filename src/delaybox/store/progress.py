"""How far running tasks are, as their workers report. It is no part of a task's record: it may be lost, and it
expires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delaybox.core.partition import of_id
from delaybox.store import keys
from delaybox.store.store import Store

KEPT_S = 600
_AT_ONCE = 500


async def note(store: Store, reports: Mapping[bytes, bytes]) -> None:
    """Stores reports by task id, for 10 minutes or until the next report. StoreUnavailable."""
    commands = [("SET", _key(store, task_id), text, "EX", KEPT_S) for task_id, text in reports.items()]
    for at in range(0, len(commands), _AT_ONCE):
        await store.servers.ask_many(commands[at : at + _AT_ONCE])


async def of(store: Store, task_ids: Sequence[bytes]) -> list[bytes | None]:
    """The last report of each task, None where there is none. StoreUnavailable."""
    return await store.servers.ask_many([("GET", _key(store, task_id)) for task_id in task_ids])


def _key(store: Store, task_id: bytes) -> bytes:
    return keys.progress(store.tags[of_id(task_id, store.partitions)], task_id)
