"""Records that could not be read: listed, put back once they can be, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.core.partition import of_id
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import UnreadableRecord, read
from delaybox.store.store import MAX_ITEMS, Store


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One record. ``since_ms``: when it was put there. ``problem``: why it cannot be read; '' if it can now."""

    task_id: bytes
    since_ms: int
    size: int
    problem: str


async def listed(store: Store, limit: int) -> list[Quarantined]:
    """The oldest ``limit`` of each partition's, oldest first and ``limit`` in all; StoreUnavailable."""
    found: list[Quarantined] = []
    for tag in store.tags:
        entries: Any = await store.servers.ask("ZRANGE", keys.quarantine_at(tag), 0, limit - 1, "WITHSCORES")
        for at in range(0, len(entries), MAX_ITEMS):
            part = entries[at : at + MAX_ITEMS]
            values: Any = await store.servers.ask("HMGET", keys.quarantine(tag), *[task_id for task_id, _ in part])
            for (task_id, since), raw in zip(part, values, strict=True):
                if raw is not None:
                    found.append(Quarantined(task_id, int(since), len(raw), _problem(task_id, raw)))
    return sorted(found, key=lambda entry: (entry.since_ms, entry.task_id))[:limit]


def _problem(task_id: bytes, raw: bytes) -> str:
    try:
        read(task_id, raw)
    except UnreadableRecord as error:
        return str(error)
    return ""


async def restore(store: Store, task_ids: Sequence[bytes]) -> list[str]:
    """Per id: restored (it is pending again), unreadable, newer, elsewhere (the task lies somewhere else already) or
    unknown."""
    words: dict[bytes, str] = {}
    for partition, group in _groups(store, task_ids):
        args = (store.bucket_ms, store.wakes[partition], *group)
        reply = await store.runner.run(ScriptCall("restore", store.tags[partition], args))
        words.update(zip(group, (word.decode() for word in reply), strict=True))
    return [words[task_id] for task_id in task_ids]


async def evict(store: Store, task_ids: Sequence[bytes]) -> int:
    """Deletes the named records for good; how many there were."""
    deleted = 0
    for partition, group in _groups(store, task_ids):
        call = ScriptCall("evict", store.tags[partition], (store.key_keep_ms, 0, store.bucket_ms, *group))
        deleted += int(await store.runner.run(call))
    return deleted


async def evict_older(store: Store, partition: int, before_ms: int) -> int:
    """Deletes the 500 oldest of what was put there before a moment; how many there were."""
    return int(
        await store.runner.run(
            ScriptCall("evict", store.tags[partition], (store.key_keep_ms, before_ms, store.bucket_ms))
        )
    )


def _groups(store: Store, task_ids: Sequence[bytes]) -> list[tuple[int, list[bytes]]]:
    by: dict[int, list[bytes]] = {}
    for task_id in dict.fromkeys(task_ids):
        by.setdefault(of_id(task_id, store.partitions), []).append(task_id)
    return [(p, group[at : at + MAX_ITEMS]) for p, group in by.items() for at in range(0, len(group), MAX_ITEMS)]
