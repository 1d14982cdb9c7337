"""Finds where many tasks stand, in few calls and without their bodies."""

from __future__ import annotations

from collections.abc import Sequence

from delaybox.core.errors import StoreUnavailable
from delaybox.core.partition import of_id
from delaybox.core.task import TaskState
from delaybox.store.loader import ScriptCall
from delaybox.store.record import dead_head, head_of, split_result
from delaybox.store.store import Store
from delaybox.wire import result as wire_result
from delaybox.wire.standing import Standing

MOST_IDS = 128
"""Most ids in one call of ``states``."""


_NOTHING = Standing(None)
_QUARANTINED = Standing(TaskState.FAILED, reason="its record cannot be read; it lies in quarantine")


async def states(store: Store, wanted: Sequence[bytes], *, leased: bool = True) -> list[Standing | None]:
    """Per id where it stands, or None where that is not known now (ask again). StoreUnavailable.

    Without ``leased`` the leases of nodes of earlier versions are not searched, so a task that is not found may be
    there: it gets None.
    """
    groups: dict[int, list[int]] = {}
    for i, task_id in enumerate(wanted):
        groups.setdefault(of_id(task_id, store.partitions), []).append(i)
    calls: list[ScriptCall] = []
    places: list[list[int]] = []
    for partition, group in groups.items():
        for at in range(0, len(group), MOST_IDS):
            part = group[at : at + MOST_IDS]
            args = (store.bucket_ms, int(leased), *(wanted[i] for i in part))
            calls.append(ScriptCall("states", store.tags[partition], args))
            places.append(part)
    out: list[Standing | None] = [None] * len(wanted)
    replies = await store.runner.run_many(calls)
    some = any(not isinstance(reply, BaseException) for reply in replies)
    for reply, part in zip(replies, places, strict=True):
        if isinstance(reply, BaseException):
            if some and isinstance(reply, StoreUnavailable):
                # One server of several is away: of its tasks nothing is known now, and the others are answered.
                continue
            raise reply
        now = reply[0]
        for i, value in zip(part, reply[1:], strict=True):
            if value != b"?":
                out[i] = _standing(wanted[i], value, now)
            elif leased:
                out[i] = await _elsewhere(store, wanted[i])
    return out


def _standing(task_id: bytes, value: bytes, now_ms: int) -> Standing:
    if not value:
        return _NOTHING
    kind = value[:1]
    if kind == b"q":
        return _QUARANTINED
    if kind in b"hl":
        attempt, due = head_of(task_id, value[1:])
        if kind == b"l":
            return Standing(TaskState.RUNNING, due, attempt)
        return Standing(TaskState.READY if due <= now_ms else TaskState.SCHEDULED, due, attempt)
    kept, rest = split_result(value, 1)
    result = wire_result.found(kept)
    if kind == b"d":
        attempt, due, reason = dead_head(task_id, rest)
        return Standing(TaskState.FAILED, due, attempt, reason, result.stored)
    attempt, due = head_of(task_id, rest)
    return Standing(result.state, due, attempt, result.reason, result.stored)


def has_result(message: bytes) -> bool:
    """Whether a message on the channel of ended tasks has a result behind its id; else only ids are read of it."""
    return len(message) % 16 != 0 and message[16:17] == b"f"


def announced(message: bytes) -> Standing:
    """Where the task stands whose result such a message has."""
    return _standing(message[:16], message[16:], 0)


async def _elsewhere(store: Store, task_id: bytes) -> Standing | None:
    """The state of a task that lay in none of the leases that were searched."""
    found = await store.get(task_id)
    letter = {"home": b"h", "lease": b"l"}.get(found.place)
    if letter is not None:
        return _standing(task_id, letter + found.value, found.now_ms)
    # The task ended between the two looks; the next look reports that in full.
    return None if found.place else _NOTHING
