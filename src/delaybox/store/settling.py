"""The calls that settle outcomes which are no acks, so that those of many leases can share a round trip, and what the
replies of all of them mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from delaybox.store.batches import by_bytes
from delaybox.store.loader import ScriptCall
from delaybox.store.record import stored_reason
from delaybox.store.replies import MAX_ITEMS, Verdict

if TYPE_CHECKING:
    from delaybox.store.store import Store


def acked(reply: Sequence[Any]) -> tuple[list[bytes], list[bytes]]:
    """Of `ack` and `complete`: stale ids; and queues and limit keys of which a permit came back that others may use."""
    if reply and isinstance(reply[-1], list):
        return list(reply[:-1]), reply[-1]
    return list(reply), []


def fail_calls(
    store: Store, partition: int, lease_id: bytes, items: Iterable[Verdict | tuple[Any, ...]], *, dead_cap: int
) -> list[ScriptCall]:
    """Failures of one lease."""
    calls: list[ScriptCall] = []
    for group in by_bytes([Verdict(*item) for item in items], lambda v: len(v.result) + len(v.traceback)):
        args: list[Any] = [
            lease_id,
            store.bucket_ms,
            store.wakes[partition],
            dead_cap,
            store.key_keep_ms,
            store.ended[partition],
        ]
        for v in group:
            delay = -1 if v.delay_ms is None else v.delay_ms
            reason = stored_reason(v.reason, v.traceback if v.delay_ms is None else "")
            args += (v.task_id, delay, reason, v.result, v.keep_ms)
        whole = any(v.delay_ms is None or v.result for v in group)
        calls.append(ScriptCall("fail", store.tags[partition], args, whole))
    return calls


def failed(replies: Iterable[Sequence[Any]]) -> tuple[list[bytes], int]:
    """Stale ids, and how many dead letters the cap dropped."""
    stale: list[bytes] = []
    dropped = 0
    for reply in replies:
        dropped += reply[0]
        stale += reply[1:]
    return stale, dropped


def release_calls(
    store: Store, partition: int, lease_id: bytes, task_ids: Sequence[bytes], *, delay_ms: int, until_ms: int = 0
) -> list[ScriptCall]:
    """Tasks of one lease that are handed back; each reply lists stale ids. ``until_ms``: when they are due again, in
    place of a delay."""
    return [
        ScriptCall(
            "release",
            store.tags[partition],
            (lease_id, store.bucket_ms, store.wakes[partition], delay_ms, until_ms, *task_ids[at : at + MAX_ITEMS]),
        )
        for at in range(0, len(task_ids), MAX_ITEMS)
    ]


def lose_calls(
    store: Store,
    partition: int,
    lease_id: bytes,
    task_ids: Sequence[bytes],
    *,
    losses_cap: int,
    dead_cap: int,
    lease_ms: int,
    failing: bool,
) -> list[ScriptCall]:
    """Tasks of one lease whose doer went away."""
    settings = (losses_cap, dead_cap, store.key_keep_ms, lease_ms, int(failing))
    return [
        ScriptCall(
            "lose",
            store.tags[partition],
            (lease_id, store.bucket_ms, store.wakes[partition], *settings, *task_ids[at : at + MAX_ITEMS]),
        )
        for at in range(0, len(task_ids), MAX_ITEMS)
    ]


def lost(replies: Iterable[Sequence[Any]]) -> tuple[list[bytes], int, int]:
    """Stale ids, how many were dead-lettered, and how many dead letters the cap dropped."""
    stale: list[bytes] = []
    dead = dropped = 0
    for reply in replies:
        dead += reply[0]
        dropped += reply[1]
        stale += reply[2:]
    return stale, dead, dropped
