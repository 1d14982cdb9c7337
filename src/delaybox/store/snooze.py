"""Puts tasks off that asked for it themselves: no attempt is charged, but the whole time is limited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from delaybox.store.batches import by_bytes
from delaybox.store.loader import ScriptCall
from delaybox.store.record import stored_reason
from delaybox.store.store import DEAD_CAP, Store


class Snooze(NamedTuple):
    """One task that is put off for ``delay_ms``; its whole time is at most ``longest_ms`` from the first time on.

    A task that would go beyond it is dead-lettered with ``reason``; ``result``, in its stored form, is then kept for
    ``keep_ms``.
    """

    task_id: bytes
    delay_ms: int
    longest_ms: int
    reason: str
    result: bytes = b""
    keep_ms: int = 0


async def snooze(
    store: Store, partition: int, lease_id: bytes, items: Sequence[Snooze], *, dead_cap: int = DEAD_CAP
) -> tuple[list[bytes], list[bytes], int]:
    """Puts tasks of one lease off; see `snoozed`. StoreUnavailable."""
    calls = snooze_calls(store, partition, lease_id, items, dead_cap=dead_cap)
    return snoozed([await store.runner.run(call) for call in calls])


def snooze_calls(
    store: Store, partition: int, lease_id: bytes, items: Sequence[Snooze], *, dead_cap: int
) -> list[ScriptCall]:
    """Tasks of one lease that are put off."""
    calls: list[ScriptCall] = []
    for group in by_bytes(items, lambda item: len(item.result)):
        args: list[Any] = [
            lease_id, store.bucket_ms, store.wakes[partition], dead_cap, store.key_keep_ms, store.ended[partition]
        ]  # fmt: skip
        for s in group:
            args += (s.task_id, s.delay_ms, s.longest_ms, stored_reason(s.reason), s.result, s.keep_ms)
        calls.append(ScriptCall("snooze", store.tags[partition], args))
    return calls


def snoozed(replies: Iterable[Sequence[Any]]) -> tuple[list[bytes], list[bytes], int]:
    """Stale ids, ids dead-lettered, and how many dead letters the cap dropped."""
    stale: list[bytes] = []
    dead: list[bytes] = []
    dropped = 0
    for reply in replies:
        dropped += reply[0]
        dead += reply[2 : 2 + reply[1]]
        stale += reply[2 + reply[1] :]
    return stale, dead, dropped
