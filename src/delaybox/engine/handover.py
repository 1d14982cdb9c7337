"""Keeps the order of Kafka's keys while partitions change hands: a new owner waits until the former one has sent all.

What a time keeper leases to a target, such as a message for Kafka, is under way for a while. If the new owner sent
later tasks meanwhile, messages of one key would overtake each other. So the former owner shows a partition in its
heartbeat until nothing is under way there, and the new one leaves such tasks where they are while another living member
shows it, but no longer than it takes to notice that a member is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from delaybox.core.membership import SILENT_MS, Member
from delaybox.engine.clock_estimate import local_ms

STANDS_IN_MS = 150.0
"""A stand-in waits this long after it began to look in the owner's place: an owner that is only busy is back by
then."""
_LOOK_S = 0.005


class Claiming(Protocol):
    """What hand-overs need of a tracker."""

    def withhold(self, partitions: frozenset[int]) -> None:
        """Claims nothing for which order counts in these partitions, and again in all others."""

    def claims(self, partition: int) -> bool:
        """Whether a claim from there is under way."""


class HandOver:
    """``holds``: whether tasks of a partition are under way here. ``announce`` makes all members read anew what this
    one does."""

    def __init__(self, me: str, tracker: Claiming, holds: Callable[[int], bool], announce: Callable[[], None]) -> None:
        self._me = me
        self._tracker = tracker
        self._holds = holds
        self._announce = announce
        self._waits: dict[int, float] = {}
        """Partitions that others may still be sending from, and until when that counts."""
        self._acting: dict[int, float] = {}
        """Partitions that this member keeps time for in their owner's place, and until when it waits there."""
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self.left: frozenset[int] = frozenset()
        """Partitions that others own by now, while tasks of them may still be under way here."""

    def listed(
        self, owned: frozenset[int], members: Iterable[Member], *, gained: frozenset[int], ceded: frozenset[int]
    ) -> None:
        """A new list is applied. ``members``: all that live, also those that are ending. ``ceded``: others own these,
        and this member claims there a moment more, so whom it waits for there it goes on to wait for."""
        until = local_ms() + SILENT_MS
        shown = {p for member in members if member.id != self._me for p in member.activity.partitions}
        waits = self._waits | dict.fromkeys(gained, until)
        self._waits = {p: at for p, at in waits.items() if p in owned | ceded and p in shown}
        self._withhold()
        self.left -= owned

    def leave(self, partitions: frozenset[int]) -> None:
        """This member claims nothing more in these, which others own."""
        self.left |= partitions
        if self.left and self._sending is None:
            self._sending = asyncio.create_task(self._send_all(), name="delaybox-hand-over")

    def acts(self, partitions: frozenset[int], ceded: frozenset[int]) -> None:
        """Those that this member keeps time for in their owner's place, from now on. ``ceded``: where it claims
        a moment more, so it waits there as before."""
        until = local_ms() + STANDS_IN_MS
        acting = {p: self._acting.get(p, until) for p in partitions}
        acting |= {p: at for p, at in self._acting.items() if p in ceded}
        if acting.keys() != self._acting.keys():
            self._acting = acting
            self._withhold()

    def close(self) -> None:
        """Ends what waits."""
        self._waits, self._acting = {}, {}
        self._withhold()
        if self._sending is not None:
            self._sending.cancel()

    def _withhold(self) -> None:
        now = local_ms()
        # Whoever shows a partition for longer than `SILENT_MS` is dead, or stands still.
        self._waits = {p: until for p, until in self._waits.items() if until > now}
        waits = self._waits | {p: until for p, until in self._acting.items() if until > now}
        self._tracker.withhold(frozenset(waits))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waits:
            self._timer = asyncio.get_running_loop().call_later((min(waits.values()) - now) / 1000, self._withhold)

    async def _send_all(self) -> None:
        # It lasts as long as a send, once for each hand-over, so a signal for it would cost more than these looks.
        while any(self._holds(p) or self._tracker.claims(p) for p in self.left):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        self.left = frozenset()
        self._sending = None
        self._announce()
