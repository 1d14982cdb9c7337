"""What `fsck` looks for in why attempts failed: each task's failures are listed by time, and the sum is that of all."""

from __future__ import annotations

from typing import Final, NamedTuple

from delaybox.store import keys
from delaybox.store.scanning import hash_pages
from delaybox.store.store import Store

_PAGE: Final = 200
_OVERHEAD: Final = 100
"""Bytes that each task counts beside its failures: OVERHEAD in scripts/lib/failures.lua."""


class Looked(NamedTuple):
    """``tasks``: those of which failures are kept. ``problems``: (kind, what)."""

    tasks: int
    problems: list[tuple[str, str]]


async def look(store: Store, partition: int) -> Looked:
    """Looks at one partition. StoreUnavailable."""
    servers, tag = store.servers, store.tags[partition]
    key, noted = keys.failures(tag), ("GET", keys.failures_bytes(tag))
    problems: list[tuple[str, str]] = []
    sizes: dict[bytes, int] = {}
    before = await servers.ask(*noted)
    async for page in hash_pages(servers, key, _PAGE):
        for (task_id, value), at in zip(
            page,
            await servers.ask("ZMSCORE", keys.failures_at(tag), *(task_id for task_id, _ in page)),
            strict=True,
        ):
            sizes[task_id] = len(value)
            if at is None and await servers.ask("HEXISTS", key, task_id):
                problems.append(("failures-not-listed", f"task {task_id.hex()}"))
    held = sum(sizes.values()) + _OVERHEAD * len(sizes)
    # Where it differs from what it was it was written to meanwhile.
    if int(before or 0) != held and before == await servers.ask(*noted):
        problems.append(("failures-not-counted", f"{len(sizes)} tasks with {held} bytes"))
    return Looked(len(sizes), problems)
