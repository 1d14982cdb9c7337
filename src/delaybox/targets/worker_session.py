"""A worker's session, as the node sees it: what it may be sent, what it holds, and which messages must be sent again.

No I/O here: bytes and messages in, bytes and outcomes out. proto/delaybox/v1/worker.proto describes the protocol.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any

from delaybox import metrics
from delaybox.core import texts
from delaybox.core.delivery import DONE, ELSEWHERE, HAND_BACK, Delivery, Done, Failed, Lost, Outcome, Snoozed
from delaybox.core.lane import split
from delaybox.core.limits import MAX_CREDIT, MAX_DELAY_MS, STREAM_MESSAGE_BYTES, TRACEBACK_BYTES
from delaybox.core.task import CANCELLED, TaskResult
from delaybox.processes.logs import of_delivery
from delaybox.targets.worker_confirmations import Confirmations, OutcomeStore
from delaybox.targets.worker_offers import ClaimedTasks, Offered
from delaybox.targets.worker_places import MAX_AHEAD, Beyond
from delaybox.targets.worker_profile import Profile
from delaybox.targets.worker_results import attempt_result, kept_success
from delaybox.wire.assignment import assignment, fitting
from delaybox.wire.gen import worker_pb2

log = logging.getLogger("delaybox.workers")

OVERTIME_S = 3.0
"""A worker ends a task that is out of time itself, and its report takes a while. The node waits this much longer."""
UNSEEN_BYTES = 64 << 20
"""Most bytes of messages that a worker has not confirmed as seen; with more, the session cannot be resumed."""
_BESIDE_TASKS = 512 << 10
"""Bytes of a message that are kept free for numbers, and whatever else it holds beside tasks."""
_NUMBERS_AT_ONCE = 20_000
"""Most sequence numbers of one kind in a message, of ten bytes at most each."""
_MOST_STALE = 100_000
"""Most sequence numbers that wait to be reported to the worker as stale; further ones are only counted."""
_CLAIMS_AT_ONCE = 2_000
"""Most names of leases, and most answers on adoption, in a message, of 50 bytes at most each."""
_FIRST_ADOPTED = 1 << 40
"""Adopted tasks have sequence numbers from here on, so that they are told from those that are sent."""
_ENTRY_BYTES = 200
"""Memory that a kept message costs beside its bytes."""


class WorkerSession:
    """One worker's session. ``credit`` counts only while a stream is open and the worker does not drain."""

    def __init__(self, session_id: str, profile: Profile, outcomes: OutcomeStore, *, max_output: int) -> None:
        self.id = session_id
        self.profile = profile
        self.credit = 0
        self.beyond = Beyond()
        self.connected = False
        self.since_ms = 0
        self.draining = False
        self.suspects: set[int] = set()
        """Sequence numbers of the suspects that it holds (`worker_suspect_tasks`)."""
        self.alone = False
        """It holds a suspect that must be its only one."""
        self._suspects_ended: list[bytes] = []
        self._limits: list[tuple[float, int]] = []
        self._max_output = max_output
        self._changed: Callable[[], None] = _nothing
        self._replaced: Callable[[], None] = _nothing
        self._held: dict[int, Offered] = {}
        self._sequence = 0
        self._adopted_sequence = _FIRST_ADOPTED
        self._tasks: list[bytes] = []
        self._claims: list[worker_pb2.Claim] = []
        self._adopted: list[worker_pb2.Adopted] = []
        self.carried: list[worker_pb2.Carried] = []
        """What the worker brought along and `adoption` has not looked at yet."""
        self._cancel: list[int] = []
        self._stale: list[int] = []
        self._leaving = self._announced_leaving = self._to_move = False
        self._number = 0
        self._unseen: deque[tuple[int, bytes]] = deque()
        self._unseen_bytes = 0
        self._repeat: list[bytes] = []
        self.received = Confirmations(outcomes)
        """The worker's messages that were handled."""
        self._parted = False

    @property
    def room(self) -> int:
        """How many tasks of one place it can be sent now."""
        return max(0, self.free - self.beyond.saved)

    @property
    def free(self) -> int:
        """Places that are free, also those that are saved."""
        return self.credit - self.beyond.extra if self.connected and not self._leaving else 0

    @property
    def ahead(self) -> int:
        """How many it can be sent beyond these, which wait there."""
        beyond = self.beyond
        if not self.connected or self._leaving or not beyond.ahead:
            return 0
        room = self.free - beyond.saved
        return max(0, room + beyond.ahead) - max(0, room)

    @property
    def places(self) -> int:
        """Places that it gives to this node, free or not; a worker of several nodes divides its own among them."""
        return self.credit + len(self._held)

    @property
    def held(self) -> int:
        """How many tasks it has and has not reported yet."""
        return len(self._held)

    @property
    def running(self) -> int:
        """How many of these have a place."""
        return min(len(self._held), max(0, self.places))

    def lanes_held(self, most: int) -> list[bytes]:
        """The lanes of the first ``most`` of these tasks."""
        return [o.delivery.lane for o in islice(self._held.values(), most)]

    def attach(self, changed: Callable[[], None], replaced: Callable[[], None]) -> None:
        """A stream carries this session from now on. ``changed`` is called when there is something to send,
        ``replaced`` when another stream takes over."""
        self._replaced()
        self._changed, self._replaced = changed, replaced
        changed()

    # -- to the worker ------------------------------------------------------------------------------------------

    def assign(
        self,
        offered: Iterable[Offered],
        *,
        suspect: bool = False,
        alone: bool = False,
        cost: int = 1,
        ahead: bool = False,
    ) -> int:
        """Sends tasks, each for one credit; returns how many. Tasks that are too large for the worker fail. ``cost``:
        places that each of them takes. ``ahead``: no place is free for them yet."""
        held, tasks, sequence = self._held, self._tasks, self._sequence
        largest = self.profile.takes - _BESIDE_TASKS
        moves, last = self.profile.moves, None
        for o in offered:
            part = assignment(sequence + 1, o.delivery, want_result=o.keep_ms > 0)
            if len(part) > largest:
                o.run.report([o.delivery], self._too_large(len(part)))
                continue
            sequence += 1
            held[sequence] = o
            tasks.append(part)
            if moves:
                # The same object for all tasks of a claim.
                if o.run is not last:
                    last, d = o.run, o.delivery
                    claim = worker_pb2.Claim(first=sequence, partition=d.partition, lease=d.lease_id)
                    self._claims.append(claim)
                claim.last = sequence
            if o.timeout_ms:
                heappush(self._limits, (time.monotonic() + o.timeout_ms / 1000 + OVERTIME_S, sequence))
        if len(self._limits) > 2 * len(held) + 1_000:
            # Limits of tasks that have ended: a task that may take an hour mostly takes a moment.
            self._limits = [limit for limit in self._limits if limit[1] in held]
            heapify(self._limits)
        count, self._sequence = sequence - self._sequence, sequence
        if cost > 1:
            self.beyond.charge(range(sequence - count + 1, sequence + 1), cost)
        if suspect and count:
            self.suspects.add(self._sequence)
            self.alone = alone
        self.credit -= count
        self._changed()
        return count

    def take_over(self, number: int, offered: Offered, ran_ms: int) -> None:
        """The worker runs this task already, as long as ``ran_ms``, and reports here from now on."""
        self._adopted_sequence += 1
        sequence = self._adopted_sequence
        self._held[sequence] = offered
        self.beyond.charge((sequence,), split(offered.delivery.lane).needs.cost)
        if offered.timeout_ms:
            left_s = (offered.timeout_ms - ran_ms) / 1000 + OVERTIME_S
            heappush(self._limits, (time.monotonic() + left_s, sequence))
        self._adopted.append(worker_pb2.Adopted(number=number, sequence=sequence))
        d = offered.delivery
        self._claims.append(worker_pb2.Claim(first=sequence, last=sequence, partition=d.partition, lease=d.lease_id))
        self._changed()

    def not_adopted(self, number: int, *, ended: bool) -> None:
        """The worker brought a task that is not its any more. ``ended``: it has ended; else others have it."""
        if not ended:
            metrics.stale_ack(1)
        self._adopted.append(worker_pb2.Adopted(number=number, ended=ended))
        self._changed()

    def cancel(self, task_id: bytes) -> bool:
        """Asks the worker to stop a task; False when it does not have it."""
        for sequence, o in self._held.items():
            if o.delivery.task_id == task_id:
                self._cancel.append(sequence)
                self._changed()
                return True
        return False

    @property
    def next_limit(self) -> float:
        """When the next of its tasks will be out of time (``time.monotonic``); inf: none will."""
        while self._limits and self._limits[0][1] not in self._held:
            heappop(self._limits)
        return self._limits[0][0] if self._limits else math.inf

    def enforce(self) -> None:
        """Ends tasks that are out of time and that the worker, which still beats, has not ended.

        The attempt has failed and is retried as usual. The worker is asked to stop; its later report on this attempt
        is stale.
        """
        while self.next_limit <= time.monotonic():
            _, sequence = heappop(self._limits)
            held = self._held[sequence]
            reason = f"timed out after {held.timeout_ms / 1000:g} s; its worker did not end it"
            metrics.timeout_enforced()
            log.warning("task %s: %s", held.delivery.id, reason, extra=of_delivery(held.delivery))
            self._cancel.append(sequence)
            outcome = self._failure(held, reason, attempt_result(False, held.timeout_ms, b"", reason=reason))
            self._end(sequence, outcome)
            self._changed()

    def leave(self) -> None:
        """Informs the worker that no more tasks will come from here."""
        self._leaving = True
        self._changed()

    def ask_to_move(self) -> None:
        """Asks the worker to find another node, and to stay if there is none."""
        self._to_move = True
        self._changed()

    def messages(self, *, idle: bool = False) -> list[bytes]:
        """The messages to send now, serialized. ``idle``: at least one, even if it only confirms what was received."""
        out, self._repeat = self._repeat, []
        while (
            self._tasks
            or self._cancel
            or self._stale
            or self._adopted
            or (self._leaving and not self._announced_leaving)
            or self._to_move
            or idle
        ):
            idle = False
            tasks = fitting(self._tasks, STREAM_MESSAGE_BYTES)
            self._number += 1
            head = worker_pb2.ToWorker(
                number=self._number,
                cancel=self._cancel[:_NUMBERS_AT_ONCE],
                stale=self._stale[:_NUMBERS_AT_ONCE],
                drain=self._leaving,
                seen=self.received.confirmed,
                claims=self._claims[:_CLAIMS_AT_ONCE],
                adopted=self._adopted[:_CLAIMS_AT_ONCE],
                move=self._to_move,
            )
            self._to_move = False
            raw = b"".join((head.SerializeToString(), *self._tasks[:tasks]))
            del self._tasks[:tasks], self._cancel[:_NUMBERS_AT_ONCE], self._stale[:_NUMBERS_AT_ONCE]
            del self._claims[:_CLAIMS_AT_ONCE], self._adopted[:_CLAIMS_AT_ONCE]
            self._announced_leaving = self._leaving
            self._unseen.append((self._number, raw))
            self._unseen_bytes += len(raw) + _ENTRY_BYTES
            out.append(raw)
        while self._unseen_bytes > UNSEEN_BYTES:
            self._unseen_bytes -= len(self._unseen.popleft()[1]) + _ENTRY_BYTES
        return out

    # -- from the worker ----------------------------------------------------------------------------------------

    def connect(self, seen: int) -> bool:
        """A stream is open; messages that the worker has not seen are sent first. False: too many of them were
        dropped."""
        self._forget_seen(seen)
        if self._number - len(self._unseen) > seen:
            return False
        self.connected = True
        self._repeat = [raw for _, raw in self._unseen]
        return True

    def receive(self, message: worker_pb2.FromWorker) -> None:
        """Handles a message. Of one that was handled before, only the confirmations count."""
        self._forget_seen(message.seen)
        if message.number:
            if message.number <= self.received.handled or self._parted:
                return
            self._handle(message)
            self.received.add(message.number)
        else:
            self._handle(message)

    def _handle(self, message: worker_pb2.FromWorker) -> None:
        if message.done:
            self.done(message.done)
        if message.succeeded:
            for success in message.succeeded:
                self.succeeded(success.sequence, success.output, success.content_type, success.duration_ms)
        if message.failed:
            for failure in message.failed:
                self.failed(failure)
        if message.handed_back:
            self.handed_back(message.handed_back)
        if message.HasField("ahead"):
            self.beyond.ahead = min(message.ahead, MAX_AHEAD)
        if message.drain:
            self.credit = self.beyond.most = self.beyond.ahead = 0
            self.draining = True
        elif message.credit:
            self.credit = min(self.credit + message.credit, max(0, MAX_CREDIT - len(self._held)))
            self.draining = False
        if message.carried:
            self.carried += message.carried
        if message.moved:
            for sequence in message.moved:
                if sequence in self._held:
                    self._end(sequence, ELSEWHERE)

    def suspects_ended(self) -> list[bytes]:
        """Ids of `suspects` that came to an end since the last call."""
        ended, self._suspects_ended = self._suspects_ended, []
        return ended

    def lose(self, *, together: bool = False) -> list[bytes]:
        """The worker is gone: its tasks go to others, each charged one loss. ``together``: most other workers went too.

        Not charged: tasks that were never sent to it, and suspects if it held several, because each may be innocent.
        Returns the ids of these suspects.
        """
        unsent = self._sequence - len(self._tasks)
        company = self.suspects if len(self.suspects) > 1 else set()
        blameless = {s for s in self._held if unsent < s < _FIRST_ADOPTED or s in company}
        ids = [self._held[s].delivery.task_id for s in company if s in self._held]
        free = {s: self._held.pop(s) for s in blameless}
        self._give_up(Lost(together=together))
        self._held = free
        self._give_up(HAND_BACK)
        return ids

    def part(self) -> None:
        """The node ends: nothing more is handled. What a worker that moves has stays in its lease, so that it can bring
        it to another node."""
        self._parted = True
        if self.profile.moves:
            unsent = self._sequence - len(self._tasks)
            theirs = {s: self._held.pop(s) for s in list(self._held) if not unsent < s < _FIRST_ADOPTED}
            self._give_up(HAND_BACK)
            self._tasks.clear()
            self._held = theirs
            self._give_up(ELSEWHERE)

    def delivery(self, sequence: int) -> Delivery | None:
        """The task that the worker names by this sequence number."""
        held = self._held.get(sequence)
        return None if held is None else held.delivery

    def forget(self, run: ClaimedTasks) -> None:
        """The tasks of this claim are reported already; the worker's reports on them are stale."""
        for sequence in [s for s, o in self._held.items() if o.run is run]:
            del self._held[sequence]
            self.beyond.paid(sequence)
            self.suspects.discard(sequence)
        self.alone = self.alone and bool(self.suspects)

    def done(self, sequences: Sequence[int]) -> None:
        """These ended well, and nobody wants their results."""
        pop, suspects = self._held.pop, self.suspects
        self.beyond.all_paid(sequences)
        by: dict[ClaimedTasks, list[Delivery]] = {}
        last: ClaimedTasks | None = None
        late: list[int] = []
        for sequence in sequences:
            o = pop(sequence, None)
            if o is None:
                late.append(sequence)
                continue
            if suspects and sequence in suspects:
                self._cleared(sequence, o)
            if o.run is not last:
                last, add = o.run, by.setdefault(o.run, []).append
            add(o.delivery)
        if late:
            self._too_late(*late)
        for run, deliveries in by.items():
            run.report(deliveries, DONE)

    def handed_back(self, sequences: Iterable[int]) -> None:
        """These go to others; nothing is charged."""
        for sequence in sequences:
            self._end(sequence, HAND_BACK)

    def succeeded(self, sequence: int, output: bytes, content_type: str, duration_ms: int) -> None:
        """It ended well, with a result."""
        held = self._held.get(sequence)
        outcome: Outcome = DONE
        if held is not None and held.keep_ms:
            outcome = kept_success(held.keep_ms, output, content_type, duration_ms, most=self._max_output)
        self._end(sequence, outcome)

    def failed(self, failure: worker_pb2.Failed) -> None:
        """The attempt failed, was cancelled, or put itself off."""
        held = self._held.get(failure.sequence)
        if held is None:
            self._too_late(failure.sequence)
            return
        reason = texts.head(failure.reason) or "its worker gave no reason"
        output = texts.tail_bytes(failure.output, self._max_output)
        result = attempt_result(False, failure.duration_ms, output, reason=CANCELLED if failure.cancelled else reason)
        if failure.cancelled:
            self._end(failure.sequence, Done(result, held.keep_ms))
            return
        delay_ms = min(failure.retry_after_ms, MAX_DELAY_MS) if failure.HasField("retry_after_ms") else None
        if failure.snooze and not failure.final:
            retry = self.profile.retry.get(held.delivery.name)
            kept = result if held.keep_ms else None
            self._end(failure.sequence, Snoozed(reason, delay_ms, retry, kept, held.keep_ms))
            return
        outcome = self._failure(
            held,
            reason,
            result,
            retryable=not failure.final,
            delay_ms=delay_ms,
            traceback=texts.tail(failure.output[-TRACEBACK_BYTES:].decode("utf-8", "replace"), TRACEBACK_BYTES),
        )
        self._end(failure.sequence, outcome)

    def _failure(self, held: Offered, reason: str, result: TaskResult, **parts: Any) -> Failed:
        return Failed(
            reason,
            result=result if held.keep_ms else None,
            keep_ms=held.keep_ms,
            retry=self.profile.retry.get(held.delivery.name),
            **parts,
        )

    def _too_large(self, size: int) -> Failed:
        return Failed(
            f"the task takes {size} bytes on its way to a worker, and the one that serves it takes messages of "
            f"{self.profile.takes} bytes; store the data elsewhere and send a reference, or raise the worker's limit",
            retryable=False,
        )

    def _end(self, sequence: int, outcome: Outcome) -> None:
        held = self._held.pop(sequence, None)
        if held is None:
            self._too_late(sequence)
            return
        self.beyond.paid(sequence)
        if sequence in self.suspects:
            self._cleared(sequence, held)
        held.run.report([held.delivery], outcome)

    def _cleared(self, sequence: int, held: Offered) -> None:
        self.suspects.discard(sequence)
        self.alone = self.alone and bool(self.suspects)
        self._suspects_ended.append(held.delivery.task_id)

    def _too_late(self, *sequences: int) -> None:
        metrics.stale_ack(len(sequences))
        # A worker that keeps sending stale reports and reads nothing must not fill the memory.
        self._stale += sequences[: max(0, _MOST_STALE - len(self._stale))]
        self._changed()

    def _give_up(self, outcome: Outcome) -> None:
        self.connected = False
        held, self._held = self._held, {}
        self.suspects, self.alone = set(), False
        by: dict[ClaimedTasks, list[Delivery]] = {}
        for o in held.values():
            by.setdefault(o.run, []).append(o.delivery)
        for run, deliveries in by.items():
            run.report(deliveries, outcome)

    def _forget_seen(self, seen: int) -> None:
        unseen = self._unseen
        while unseen and unseen[0][0] <= seen:
            self._unseen_bytes -= len(unseen.popleft()[1]) + _ENTRY_BYTES


def _nothing() -> None:
    """The session has no stream any more."""
