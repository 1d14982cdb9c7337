"""What goes into scripts and what comes out of them, typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Struct

from delaybox.store.record import FRESH_EXT, Draft

MAX_ITEMS = 500
"""Tasks a script handles in one call, at most."""
MAX_REPLACED = 100
"""Tasks in one call that may take the place of others, at most."""


class Stored(Struct, frozen=True, gc=False):
    """The answer for one draft. ``conflict``: its idempotency key belongs to ``task_id``, which has another body.
    ``cancelled``: the key belongs to ``task_id``, which was cancelled."""

    task_id: bytes
    due_ms: int
    created: bool = True
    conflict: bool = False
    cancelled: bool = False

    @property
    def refused(self) -> bool:
        """Whether the idempotency key belongs to another or a cancelled task, so that nothing was stored."""
        return self.conflict or self.cancelled


@dataclass(slots=True)
class Batch:
    """New tasks of one partition that one script call stores: at most MAX_ITEMS, within the byte bounds.

    ``replace``: all of them may take the place of others; at most MAX_REPLACED then.
    """

    partition: int
    drafts: list[Draft]
    replace: bool = False

    @property
    def extended(self) -> bool:
        """Whether a record has an extension, so that storing it may need the whole script (`ScriptCall.whole`)."""
        return any(d.record[0] >= FRESH_EXT for d in self.drafts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLimits:
    """What one claim may take. ``types``: letters of the task types served by lease.

    ``fresh_ms``: only what is later by less than this, and nothing from the ready sets; 0: everything due.
    ``lanes``: of a type that has a lane here only these are served (`core.lane`; ANY_QUEUE for the queue).
    ``guest``: is no time keeper, and leaves what it does not serve where it lies. ``looker``: the member that keeps
    time, which promises when it looks next.
    """

    slots: int
    types: str
    channel: str = ""
    stream: int = 0
    lease_ms: int = 15_000
    poll_ms: int = 1_000
    items: int = MAX_ITEMS
    fresh_ms: int = 0
    lanes: tuple[bytes, ...] = ()
    guest: bool = False
    looker: str = ""
    plan: bytes = b""
    """What the taker decided for this partition (claim.lua says how)."""
    names: str = ""
    """The reply names what was fired in place: "h" with the heads of records, "r" with whole ones; "" not at all."""


NONE, CRITICAL = 1, 2
"""See `Claimed.waits`."""


@dataclass(slots=True)
class Claimed:
    """What one claim did. ``leased`` is flat: id, record, id, record; ``lateness_ms`` of each task fired in place,
    ``fired`` how many of them by lane. ``waits``: queues without permits for what is ready, as lanes spell them: `NONE`
    where the partition has none at all, `CRITICAL` where it has some and a critical task waits, else 0.
    """

    now_ms: int
    next_due_ms: int
    leased: list[bytes]
    lateness_ms: list[int]
    without_listeners: int
    dropped: int
    quarantined: int
    trimmed: int
    promoted: int
    more: bool
    fired: Mapping[bytes, int]
    pressed: bool = False
    """Queues have weights and more waits than there were slots: nothing was leased."""
    waits: Mapping[bytes, int] = field(default_factory=dict)
    named: list[bytes] = field(default_factory=list)
    """What was fired in place, if the claim asked for it. Flat: id, record (or its head), ..."""
    met: Sequence[bytes] = ()
    """Lanes with needs that the claim did not name, while it named their functions."""
    clear: bool = False
    """Of a guest that takes WORKER tasks: no such task is due in the partition any more, of whatever lane."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one reap did. ``grace_ms``: until when nothing is reaped, if this look decided so; else 0."""

    now_ms: int
    leases: int
    back: int
    dead: int
    next_expiry_ms: int
    dropped: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """What to index next (-1: nothing) and when to look again (-1: nothing waits)."""

    now_ms: int
    bucket: int
    fields: int
    look_ms: int


class Found(Struct, frozen=True, gc=False):
    """Where a task stands: ``home``, ``lease``, ``dead``, ``quarantine``, ``finished``, or empty."""

    now_ms: int
    place: str = ""
    value: bytes = b""
    body: bytes = b""
    lease_id: bytes = b""
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much lies where in one partition. ``pending_guessed``, ``due_guessed``: that figure is an estimate."""

    now_ms: int
    pending: int
    near: int
    due: int
    in_flight: int
    leases: int
    dead: int
    quarantined: int
    oldest_due_ms: int
    pending_guessed: int = 0
    due_guessed: int = 0


class Verdict(NamedTuple):
    """One failure: retried after ``delay_ms``, or dead-lettered (None), and then with its ``traceback``.

    ``result``, in its stored form, is kept for ``keep_ms``.
    """

    task_id: bytes
    delay_ms: int | None
    reason: str
    result: bytes = b""
    keep_ms: int = 0
    traceback: str = ""


def leaves_more(reply: list[Any]) -> bool:
    """Whether a claim's reply says that more may be due than it took."""
    return bool(reply[4][5] == 1)


def read_claim(reply: list[Any]) -> Claimed:
    """A claim's reply, typed."""
    now, due, leased, lateness, n, lanes, *more = reply
    waits, named, met = [*more, [], [], []][:3]
    return Claimed(
        now,
        due,
        leased,
        lateness,
        n[0],
        n[1],
        n[2],
        n[3],
        n[4],
        leaves_more(reply),
        dict(zip(lanes[::2], lanes[1::2], strict=True)),
        n[6] == 1,
        dict(zip(waits[::2], waits[1::2], strict=True)),
        named,
        met,
        n[7:] == [1],
    )
