"""What waits in a partition for a taker that has fewer slots than work, and what it decided to claim there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from delaybox.core.shares import Part, Waiting
from delaybox.core.stretches import Stretch
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

SHARED = b"s"
"""In place of a plan: queues have weights, so where more is due than there are slots the claim leases nothing."""
_MADE_READY = 1_000
"""Lanes take turns by weight among what is ready, so this many due tasks are made ready first, of 64 lanes at most."""
_pack = msgspec.msgpack.Encoder().encode


def survey_call(
    store: Store, partition: int, *, types: str, lanes: Sequence[bytes], guest: bool, weighted: bool
) -> ScriptCall:
    """A look to send with others in one round trip; the reply is for `waiting`."""
    args = (types, int(guest), _MADE_READY if weighted else 0, store.bucket_ms, *lanes)
    return ScriptCall("survey", store.tags[partition], args)


def waiting(reply: Sequence[Any]) -> Waiting:
    """What the script found."""
    critical, others, lanes = _lines(reply[2]), _lines(reply[3]), _lines(reply[5])
    by_lane = dict(zip(reply[4], lanes, strict=True))
    counts = {lane: line.tasks for lane, line in by_lane.items()}
    return Waiting(_sum(critical), _sum(others), counts, critical, others, by_lane)


def _lines(flat: Sequence[int]) -> tuple[Stretch, ...]:
    return tuple(
        Stretch(at, gap / 1000, count) for at, gap, count in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    )


def _sum(lines: Sequence[Stretch]) -> int:
    return sum(line.tasks for line in lines)


def met(reply: Sequence[Any]) -> list[bytes]:
    """Lanes with needs that the script met (`store.replies.Claimed.met`)."""
    found: list[bytes] = reply[1]
    return found


def packed(part: Part, charge: Callable[[bytes], float]) -> bytes:
    """A plan as claim.lua takes it. ``charge``: by how much a task moves its lane back."""
    plan: list[Any] = [part.critical, part.others]
    for lane, count in part.lanes.items():
        # As text: the scripts' msgpack knows no bytes.
        plan += (lane.decode(), count, charge(lane))
    return _pack(plan)
