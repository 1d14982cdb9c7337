"""The worker's half of a session, without I/O: message numbers, credit, and which messages to send again after a break.

The shell (`line.py`) passes the node's messages to `receive` and writes what `hello`, `resend` and `flush` return; the
crews report how tasks end. ``proto/delaybox/v1/worker.proto`` has the rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from delaybox.core.limits import STREAM_MESSAGE_BYTES
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.ahead import AskedAhead
from delaybox.worker.assigned import AssignedTask
from delaybox.worker.failures import without_outputs
from delaybox.worker.parted import Leases, Parted, reported

T = TypeVar("T")

NUMBERS_AT_ONCE = 10_000
"""Most sequence numbers of one kind in a message, of ten bytes at most each."""
ENTRIES_AT_ONCE = 3_000
"""Most results, failures and progress reports in a message, of eight fields at most each: a node takes 50,000
fields."""
CARRIED_AT_ONCE = 500
"""Most tasks of one lease that are brought along together."""
_GROUPS_AT_ONCE = 20
_CLAIMS_KEPT = 1_000
NEVER = 1 << 62
_SMALL = 64 << 10
"""A message up to this size passes every limit on the way."""
_BEFORE_WELCOME_MS = 10_000


class ContractBroken(Exception):
    """The node sent what the protocol does not allow; the stream is opened again."""


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """What one message asks for. ``excess`` of the tasks, the last ones, came without credit and were handed back."""

    tasks: Sequence[pb.Assignment] = ()
    cancel: Sequence[T] = ()
    lost: Sequence[T] = ()
    """Runs of a session that is over: others have these tasks now, and no report on them is possible."""
    unhandled: int = 0
    """How many reports of that session the node has not handled: others have those tasks as well."""
    stale: int = 0
    drain: bool = False
    move: bool = False
    welcome: bool = False
    parted: Sequence[Parted[T]] = ()
    """Of the session that is over: attempts that another node, or this one, can adopt."""
    adopted: Sequence[pb.Adopted] = ()
    ahead: int = 0
    """How many of the tasks, the last ones, came beyond the credit: they wait for a place."""


class NodeSession(Generic[T]):
    """One session with one node, over as many streams as it takes.

    ``held``: tasks under way, by sequence number. Whoever takes a task from `receive` enters it here, before anything
    else is received. ``changed`` is called when there is something new to flush.
    """

    def __init__(self, introduction: pb.Hello, changed: Callable[[], None]) -> None:
        self.held: dict[int, T] = {}
        self.credit = 0
        self._ahead = AskedAhead()
        self.refusing = False
        """Tasks that arrive are handed back: the node was given up, and does not know yet that its credit is taken
        back."""
        self.id = ""
        self.node = self.process = ""
        self.heartbeat_ms = self.resume_ms = _BEFORE_WELCOME_MS
        self.max_output = 0
        self.adopt_ms = 0
        """So long after a break another node can adopt what this session has; 0: none can."""
        self.away = 0
        """Attempts of this session that are offered to other nodes, while this one is still there."""
        self.pressing = False
        """Whether there is more to send than that tasks ended well, which may wait for others (`gathering`)."""
        self.wake_at = NEVER
        """``changed`` is called again when so many wait."""
        self.stale = 0
        self._introduction = introduction
        self._changed = changed
        self._dirty = False
        self._welcomed = False
        self._sent = self._seen = 0
        self._unheeded: deque[tuple[int, bytes, int, dict[int, T]]] = deque()
        """Messages that were sent and not confirmed: number, message, how many ends of tasks it holds, and the attempts
        that it reports, as `_ended`. Without progress, of which only each task's last report is sent again."""
        self._progress_sent: OrderedDict[int, tuple[int, float, str]] = OrderedDict()
        """The last progress report that was sent for each task, in the order of the messages' numbers."""
        self._refused_at = 0
        self._drain_at = 0
        self._claims: list[pb.Claim] = []
        self._ended: dict[int, T] = {}
        """Attempts whose report is not sent yet; only where they can be adopted."""
        self._forget()

    def _forget(self) -> None:
        """Whether there is nothing to send."""
        self._done: list[int] = []
        self._succeeded: deque[pb.Succeeded] = deque()
        self._failed: deque[pb.Failed] = deque()
        self._back: list[int] = []
        self._progress: dict[int, tuple[float, str]] = {}
        self._drain = False
        self._carried: deque[pb.Carried] = deque()
        self._moved: list[int] = []

    @property
    def taken(self) -> int:
        """Places that this session takes: tasks under way, and tasks that the node may still send."""
        return self.credit + len(self.held)

    @property
    def ends(self) -> int:
        """How many tasks have ended well of which the next message says no more than that."""
        return len(self._done)

    @property
    def draining(self) -> bool:
        """Whether the node has not confirmed yet that this session's credit is taken back."""
        return self._drain or self._drain_at > 0

    @property
    def silent(self) -> bool:
        """Whether nothing is left to send, and the node has handled everything that was sent."""
        to_send = self._done or self._succeeded or self._failed or self._back or self._progress
        return not (to_send or self._unheeded or self._drain or self._carried or self._moved)

    # Streams

    def hello(self, not_at: Iterable[str] = ()) -> bytes:
        """The first message of a stream; then `receive` must see a welcome. ``not_at``: processes to avoid."""
        self._welcomed = False
        hello = pb.Hello()
        hello.CopyFrom(self._introduction)
        hello.session = self.id
        hello.not_at.extend(not_at)
        hello.seen = self._seen if self.id else 0
        return pb.FromWorker(hello=hello).SerializeToString()

    def resend(self) -> list[bytes]:
        """After a welcome: the messages that the node has not handled yet, to be written before anything new."""
        return [raw for _, raw, _, _ in self._unheeded]

    def receive(self, message: pb.ToWorker) -> Received[T]:
        """Handles a message of the node. ContractBroken: drop the stream and resume on another."""
        lost: Sequence[T] = ()
        parted: Sequence[Parted[T]] = ()
        unhandled = 0
        welcome = message.HasField("welcome")
        if welcome:
            parted, lost, unhandled = self._welcome(message.welcome)
        elif not self._welcomed:
            raise ContractBroken("the first message of a stream has no welcome")
        if message.seen:
            self._heeded(message.seen)
        number = message.number
        if number:
            if number <= self._seen:
                return Received(lost=lost, unhandled=unhandled, welcome=welcome, parted=parted)
            if number != self._seen + 1:
                raise ContractBroken(f"message {number} came after {self._seen}")
            self._seen = number
        elif not welcome:
            raise ContractBroken("a message has no number")
        if message.claims:
            self._claims += message.claims
            many = len(self._claims) - _CLAIMS_KEPT
            if many > 0 and many > 2 * (len(self.held) + len(self._unconfirmed)):
                self._prune()
        tasks: Sequence[pb.Assignment] = message.tasks
        ahead = 0
        if tasks:
            tasks, ahead = self._within_credit(tasks)
            if not (message.cancel or message.stale or message.drain or message.adopted or message.move or welcome):
                return Received(tasks, ahead=ahead)
        self.stale += len(message.stale)
        cancel = [run for sequence in message.cancel if (run := self.held.get(sequence)) is not None]
        return Received(
            tasks, cancel, lost, unhandled, len(message.stale), message.drain, message.move, welcome, parted,
            message.adopted, ahead,
        )  # fmt: skip

    def _welcome(self, welcome: pb.Welcome) -> tuple[Sequence[Parted[T]], Sequence[T], int]:
        parted: Sequence[Parted[T]] = ()
        lost: Sequence[T] = ()
        unhandled = 0
        if not (welcome.resumed and welcome.session == self.id):
            parted, lost, unhandled = self.part()
            self.id = welcome.session
        else:
            self._progress = {
                sequence: (fraction, text)
                for sequence, (_, fraction, text) in self._progress_sent.items()
                if sequence in self.held
            } | self._progress
            self._progress_sent.clear()
        self.node, self.process = welcome.node, welcome.process or welcome.node
        self.heartbeat_ms = max(1, welcome.heartbeat_ms)
        self.resume_ms = welcome.resume_ms
        self.max_output = welcome.max_output
        self.adopt_ms = welcome.adopt_ms
        self._welcomed = True
        return parted, lost, unhandled

    # Leaving a node

    def part(self) -> tuple[Sequence[Parted[T]], Sequence[T], int]:
        """Ends the session on this side.

        Returns the attempts that other nodes can adopt, those that are lost, and how many reports are lost as well,
        because the node has not confirmed them.
        """
        parted: list[Parted[T]] = []
        reports = len(self._done) + len(self._succeeded) + len(self._failed) + sum(n for _, _, n, _ in self._unheeded)
        if self.adopt_ms:
            where, runs = Leases(self._claims), self._unconfirmed
            for end, sequence in self._ends():
                run = runs.pop(sequence, None)
                if run is not None and (found := where.of(sequence)) is not None:
                    parted.append(Parted(sequence, run, *found, end))
                    reports -= not end.handed_back
            parted += self.part_running()
        lost = list(self.held.values())
        self.held.clear()
        self._ended.clear()
        self._claims.clear()
        self._forget()
        self._unheeded.clear()
        self._progress_sent.clear()
        self._sent = self._seen = self._drain_at = self.credit = self._refused_at = 0
        self._ahead.forget()
        self.refusing = False
        self.away = 0
        self.id = ""
        return parted, lost, reports

    def part_running(self) -> Sequence[Parted[T]]:
        """Takes out the attempts under way that other nodes can adopt; what has ended is still reported here."""
        where = Leases(self._claims)
        parted = [
            Parted(sequence, run, *found)
            for sequence, run in self.held.items()
            if (found := where.of(sequence)) is not None
        ]
        for one in parted:
            del self.held[one.sequence]
        return parted

    def offer(self, carried: pb.Carried) -> None:
        """Brings tasks along from another node."""
        self._carried.append(carried)
        self._poke()

    def gave(self, sequence: int) -> None:
        """Another node answers for this attempt, one of `away`."""
        if self.away:  # else this session has ended meanwhile
            self.away -= 1
            self._moved.append(sequence)
            self._poke()

    def _ends(self) -> Iterator[tuple[pb.FromWorker, int]]:
        """Each report that the node has not confirmed, alone in a message, with its sequence number."""
        waiting = pb.FromWorker(done=self._done, succeeded=self._succeeded, failed=self._failed, handed_back=self._back)
        for message in [*(pb.FromWorker.FromString(raw) for _, raw, _, _ in self._unheeded), waiting]:
            for sequence in message.done:
                yield pb.FromWorker(done=[0]), sequence
            for success in message.succeeded:
                yield pb.FromWorker(succeeded=[success]), success.sequence
            for failure in message.failed:
                yield pb.FromWorker(failed=[failure]), failure.sequence
            for sequence in message.handed_back:
                yield pb.FromWorker(handed_back=[0]), sequence

    def _prune(self) -> None:
        """Forgets the leases in which no attempt of this session lies any more."""
        live = sorted([*self.held, *self._unconfirmed])
        newest = self._claims[-1]
        self._claims = [
            c for c in self._claims if bisect_left(live, c.first) < bisect_right(live, c.last) or c is newest
        ]

    def _heeded(self, number: int) -> None:
        unheeded = self._unheeded
        while unheeded and unheeded[0][0] <= number:
            unheeded.popleft()
        sent = self._progress_sent
        while sent and next(iter(sent.values()))[0] <= number:
            sent.popitem(last=False)
        if 0 < self._drain_at <= number:
            # Tasks that the node sent before it took the credit back have arrived before this message.
            self._drain_at = self.credit = 0
            self._ahead.forget()
            self.refusing = False
            self._poke()

    @property
    def _unconfirmed(self) -> dict[int, T]:
        """Attempts whose report is not confirmed yet, sent or not."""
        runs = dict(self._ended)
        for _, _, _, ended in self._unheeded:
            runs |= ended
        return runs

    def _within_credit(self, tasks: Sequence[pb.Assignment]) -> tuple[Sequence[pb.Assignment], int]:
        count, credit, most = len(tasks), self.credit, self._ahead.most
        fit = 0 if self.refusing else min(count, credit + most)
        # Both sides count alike, or a place would be lost.
        self.credit = max(-most, credit - count)
        ahead = max(0, fit - max(0, credit))
        if fit == count:
            return tasks, ahead
        self._back.extend(task.sequence for task in tasks[fit:])
        self._poke()
        return tasks[:fit], ahead

    # Ends of tasks: each is reported once, and only if the task is held

    def done(self, sequence: int) -> None:
        """The task ended well and nobody wants its result."""
        run = self.held.pop(sequence, None)
        if run is not None:
            self._done.append(sequence)
            if self.adopt_ms:
                self._ended[sequence] = run
            if not self._dirty:
                self._dirty = True
                self._changed()
            elif len(self._done) == self.wake_at or not self.held:
                self._changed()

    def succeeded(self, sequence: int, output: bytes, content_type: str, duration_ms: int) -> None:
        """The task ended well, with a result to keep."""
        # The message is made first: if that fails, the task must still be held.
        success = pb.Succeeded(sequence=sequence, output=output, content_type=content_type, duration_ms=duration_ms)
        if self._end(sequence):
            self._succeeded.append(success)
            self._poke()

    def failed(self, sequence: int, failure: pb.Failed) -> None:
        """The attempt failed; ``failure`` is complete but for the sequence number."""
        if self._end(sequence):
            failure.sequence = sequence
            self._failed.append(failure)
            self._poke()

    def hand_back(self, sequences: Iterable[int]) -> None:
        """The task is handed back, untouched."""
        self._back.extend(sequence for sequence in sequences if self._end(sequence))
        self._poke()

    def _end(self, sequence: int) -> bool:
        run = self.held.pop(sequence, None)
        if run is not None and self.adopt_ms:
            self._ended[sequence] = run
        return run is not None

    def refuse(self, task: AssignedTask) -> None:
        """A received task that cannot be run here is handed back; it was never held."""
        self._back.append(task.sequence)
        self._poke()

    def progress(self, sequence: int, fraction: float, message: str) -> None:
        """How far a task is; only the last report before a flush is sent."""
        if sequence in self.held:
            self._progress[sequence] = (fraction, message)
            self._poke()

    def drain(self) -> None:
        """Takes the credit back; `draining` until the node confirms."""
        if not self._drain_at:
            self._drain = True
            self._poke()

    def abandon(self) -> list[T]:
        """The node could not be reached for longer than it keeps the session. Returns the runs that must stop.

        If the node comes back and still knows the session, it gets the report that all of these are handed back.
        """
        given_up = list(self.held.values())
        self._back.extend(self.held)
        self.held.clear()
        self.refusing = True
        self.drain()
        return given_up

    def refused(self, why: str) -> int:
        """A stream broke because a message was too large. Unconfirmed messages are sent again, so it would break for
        ever.

        When the same message is the first unconfirmed one for the second time, large results are left out of all of
        them, and their tasks fail for good. Returns how many tasks that were.
        """
        if not self._unheeded:
            return 0
        first = self._unheeded[0][0]
        if first != self._refused_at:
            self._refused_at = first
            return 0
        failed = 0
        for place, (number, raw, ends, ended) in enumerate(self._unheeded):
            if len(raw) > _SMALL:
                message = pb.FromWorker.FromString(raw)
                failed += without_outputs(message, why)
                self._unheeded[place] = (number, message.SerializeToString(), ends, ended)
        return failed

    # Sending

    def flush(self, room: int = 0, ahead: int | None = None) -> bytes | None:
        """The next message: ends, progress, credit for ``room`` tasks more, how many are wanted ``ahead`` if that is
        news. None when there is nothing to send."""
        self._dirty = self.pressing = False
        if self.draining:
            room, ahead = 0, 0
        ahead = None if ahead == self._ahead.now else ahead
        ends = self._done or self._succeeded or self._failed or self._back
        if not (room or ends or ahead is not None or self._progress or self._drain or self._carried or self._moved):
            return None
        number = self._sent + 1
        message = pb.FromWorker(
            done=self._done[:NUMBERS_AT_ONCE], handed_back=self._back[:NUMBERS_AT_ONCE], credit=room, drain=self._drain,
            ahead=ahead,
        )  # fmt: skip
        if ahead is not None:
            self._ahead.ask(ahead)
        del self._done[:NUMBERS_AT_ONCE], self._back[:NUMBERS_AT_ONCE]
        if self._moved:
            message.moved.extend(self._moved[:NUMBERS_AT_ONCE])
            del self._moved[:NUMBERS_AT_ONCE]
        for _ in range(min(_GROUPS_AT_ONCE, len(self._carried))):
            message.carried.append(self._carried.popleft())
        left, entries = STREAM_MESSAGE_BYTES, ENTRIES_AT_ONCE
        while self._succeeded and left > 0 and entries > 0:
            success = self._succeeded.popleft()
            left -= success.ByteSize()
            entries -= 1
            message.succeeded.append(success)
        while self._failed and left > 0 and entries > 0:
            failure = self._failed.popleft()
            left -= failure.ByteSize()
            entries -= 1
            message.failed.append(failure)
        for sequence, (fraction, text) in list(self._progress.items()):
            if left <= 0 or entries <= 0:
                break
            entries -= 1
            del self._progress[sequence]
            part = message.progress.add(sequence=sequence)
            part.progress.fraction = fraction
            part.progress.message = text
            left -= part.ByteSize()
            self._progress_sent[sequence] = (number, fraction, text)
            self._progress_sent.move_to_end(sequence)
        more = self._done or self._back or self._succeeded or self._failed
        if more or self._progress or self._carried or self._moved:
            self._poke()
        self.credit += room
        if more and self._ended:
            ended = {one: run for one in reported(message) if (run := self._ended.pop(one, None)) is not None}
        else:
            ended, self._ended = self._ended, {}
        raw = self._numbered(message, len(message.done) + len(message.succeeded) + len(message.failed), ended)
        if self._drain:
            self._drain, self._drain_at = False, self._sent
        return raw

    def beat(self) -> bytes:
        """A heartbeat: a message that only confirms what has arrived."""
        return self._numbered(pb.FromWorker(), 0, {})

    def _numbered(self, message: pb.FromWorker, ends: int, ended: dict[int, T]) -> bytes:
        self._sent += 1
        message.number = self._sent
        message.seen = self._seen
        raw = kept = message.SerializeToString()
        if message.progress:
            message.ClearField("progress")
            kept = message.SerializeToString()
        self._unheeded.append((self._sent, kept, ends, ended))
        return raw

    def _poke(self) -> None:
        if not (self._dirty and self.pressing):
            self._dirty = self.pressing = True
            self._changed()
