"""Why attempts failed, as it is stored: the one speller of a failure, and the look-up.

scripts/lib/failures.lua says where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import error, pack, unpack_from
from typing import Final

import msgspec

from delaybox.core import texts
from delaybox.core.history import FAILURES_EACH, FAILURES_EACH_BYTES, HistoryRules
from delaybox.core.limits import REASON_BYTES, TRACEBACK_BYTES
from delaybox.core.partition import of_id
from delaybox.core.task import FailedAttempt
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

MOST_EXPLAINED: Final = 100
"""Failures in one call of ``remember_failures``."""
_HEAD: Final = 8
"""Bytes before what Python wrote: its length and the delivery."""


class _Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A failure as it is stored: fields may be added behind the last one only."""

    attempt: int
    fired_ms: int
    failed_ms: int
    node: str = ""
    reason: str = ""
    traceback: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


def failure(delivery: int, one: FailedAttempt) -> bytes:
    """One failure as it is stored. ``delivery``: the fencing token of what failed."""
    stored = _Stored(
        one.attempt,
        one.fired_ms,
        one.failed_ms,
        one.node,
        texts.head(one.reason, REASON_BYTES),
        texts.tail(one.traceback, TRACEBACK_BYTES),
    )
    return pack(">I", delivery & 0xFFFFFFFF) + _encode(stored)


def remember_call(
    store: Store, partition: int, rules: HistoryRules, failures: Sequence[tuple[bytes, bytes]]
) -> ScriptCall:
    """Remembers at most MOST_EXPLAINED failures, (id, failure) each."""
    args: list[bytes | int] = [
        max(rules.keep_ms, rules.keep_failed_ms),
        max(1, rules.failures // store.partitions),
        FAILURES_EACH,
        FAILURES_EACH_BYTES,
    ]
    for task_id, raw in failures:
        args += (task_id, raw)
    return ScriptCall("remember_failures", store.tags[partition], args)


async def of(store: Store, task_id: bytes) -> tuple[FailedAttempt, ...]:
    """The last failures of a task that are remembered, in order. StoreUnavailable."""
    (found,) = await of_many(store, [task_id])
    return found


async def of_many(store: Store, task_ids: Sequence[bytes]) -> list[tuple[FailedAttempt, ...]]:
    """The same of several tasks, in one round trip. StoreUnavailable."""
    asked = [("HGET", keys.failures(store.tags[of_id(task_id, store.partitions)]), task_id) for task_id in task_ids]
    return [tuple(_read(value)) if value else () for value in await store.servers.ask_many(asked)]


def _read(value: bytes) -> list[FailedAttempt]:
    found: list[FailedAttempt] = []
    at = 0
    try:
        while at < len(value):
            size, delivery = unpack_from(">II", value, at)
            one = _decode(value[at + _HEAD : at + 4 + size])
            found.append(
                FailedAttempt(
                    attempt=one.attempt,
                    fired_ms=one.fired_ms,
                    failed_ms=one.failed_ms,
                    node=one.node,
                    reason=one.reason,
                    traceback=one.traceback,
                    delivery=delivery,
                )
            )
            at += 4 + size
    except (error, msgspec.MsgspecError):
        pass  # a newer node's, or damaged: what stands before it is shown
    return found
