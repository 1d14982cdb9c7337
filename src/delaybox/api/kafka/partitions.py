"""The records of one assigned topic-partition that wait to be stored, and where reading goes on. Pure: no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from delaybox.core.task import NewTask
from delaybox.store.batches import MAX_BODY_BYTES
from delaybox.store.kafka import Span, Stream
from delaybox.store.record import STUB_OVER
from delaybox.store.store import MAX_ITEMS, MAX_RECORD_BYTES
from delaybox.wire.encoded import EncodedTask

Key = tuple[str, int]
"""Topic and partition number."""

LONGEST_PAUSE_S = 2.0
"""Between two times that the same records are sent to the store."""
_HEAD_BYTES = 40
"""About what the store puts before a body: type, queue and name."""

RawHeaders = Sequence[tuple[str, bytes | str | None]]


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that cannot become a task. ``at_ms``: its timestamp, 0 when it has none."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    code: str = ""
    reason: str = ""

    def refused(self, code: str, reason: str) -> Letter:
        """The letter as it goes to a dead-letter topic."""
        return replace(self, code=code, reason=reason[:1_000])


@dataclass(slots=True)
class Piece:
    """Records next to each other that are stored together: one span, and what must be done before it.

    ``keyed``: tasks with an idempotency key, each with the letter that it becomes if it is refused. ``taken``: the
    store loop has seen it, so nothing is added any more. ``prepared``: keyed ones are stored and letters are sent.
    """

    start: int
    end: int
    offsets: list[int] = field(default_factory=list)
    tasks: list[EncodedTask] = field(default_factory=list)
    keyed: list[tuple[NewTask, Letter]] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    record_bytes: int = 0
    body_bytes: int = 0
    records: int = 0
    taken: bool = False
    prepared: bool = False

    @property
    def ready(self) -> bool:
        """Whether its span may be stored."""
        return self.prepared or not (self.keyed or self.letters)

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return self.record_bytes + self.body_bytes + 200 * self.records


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stream is to be read from: at ``seek``, with everything before ``read`` stored.

    ``first``: there is no watermark yet. ``missed``: records that the log dropped unread. ``stopped``: why it cannot be
    read at all, '' when it can.
    """

    stream: Stream
    read: int
    seek: int
    first: bool = False
    missed: int = 0
    stopped: str = ""


def place(stream: Stream, mark: int | None, committed: int | None, low: int, high: int) -> Place:
    """Where to go on. ``mark``: the watermark; ``committed``: the group's offset, used only if there is no
    watermark."""
    if mark is None:
        at = low if committed is None or not low <= committed <= high else committed
        return Place(stream, at, at, first=True)
    if mark > high:
        why = f"its watermark {mark} is past the end of the log, {high}: the log lost records that were read before"
        return Place(stream, mark, high, stopped=why)
    return Place(stream, mark, max(mark, low), missed=max(low - mark, 0))


class Partition:
    """An assigned topic-partition. ``read``: the next offset expected. ``stored``: the watermark as far as known.

    ``deaf``: what arrives is dropped until the partition got its place again. ``problem``: why it could not be stored;
    it is tried again at ``again_at`` (the loop's time), after ``pause_s``. ``poll``: the poll in which it was assigned.
    ``seen``: where the log ended when all of it had been read; the last offsets may be no records, such as the ends of
    transactions.
    """

    __slots__ = (
        "again_at", "committed", "deaf", "first", "missed", "pause_s", "poll", "problem", "queue", "read", "seen",
        "stopped", "stored", "stream",
    )  # fmt: skip

    def __init__(self, at: Place, poll: int) -> None:
        self.queue: deque[Piece] = deque()
        self.committed = -1
        self.settle(at, poll)

    def settle(self, at: Place, poll: int) -> None:
        """Begins again at a place; records that wait are dropped."""
        self.queue.clear()
        self.seen = -1
        self.stream = at.stream
        self.read = self.stored = at.read
        self.first = at.first
        self.stopped = at.stopped
        self.deaf = bool(at.stopped)
        self.poll = poll
        self._fine()

    def _fine(self) -> None:
        self.problem = ""
        self.pause_s = self.again_at = 0.0

    def failed(self, problem: str, now_s: float) -> None:
        """Its first piece could not be stored: the next time is a while later, each time longer."""
        self.problem = problem
        self.pause_s = min(self.pause_s * 2 or 0.1, LONGEST_PAUSE_S)
        self.again_at = now_s + self.pause_s

    @property
    def position(self) -> int:
        """The offset up to which every record of the log is stored."""
        return self.stored if self.queue else max(self.stored, self.seen)

    def piece(self, size: int, apart: int) -> Piece:
        """The piece that takes the next record, stored in ``size`` bytes and a body of ``apart`` bytes beside it."""
        queue = self.queue
        if queue:
            last = queue[-1]
            if (
                not last.taken
                and last.records < MAX_ITEMS
                and last.record_bytes + size <= MAX_RECORD_BYTES
                and last.body_bytes + apart <= MAX_BODY_BYTES
            ):
                return last
        made = Piece(self.read, self.read)
        queue.append(made)
        return made

    def add(self, offset: int, task: EncodedTask) -> int:
        """Appends a task; about how many bytes wait more."""
        size, apart = len(task.body), 0
        if size > STUB_OVER:
            size, apart = 0, size
        size += _HEAD_BYTES
        piece = self.piece(size, apart)
        piece.offsets.append(offset)
        piece.tasks.append(task)
        piece.record_bytes += size
        piece.body_bytes += apart
        piece.records += 1
        piece.end = self.read = offset + 1
        return size + apart + 200

    def add_keyed(self, offset: int, task: NewTask, letter: Letter) -> int:
        """Appends a task with an idempotency key."""
        size = len(task.payload)
        piece = self.piece(0, size)
        piece.keyed.append((task, letter))
        return self._extend(piece, offset, size)

    def add_letter(self, letter: Letter) -> int:
        """Appends a record that cannot become a task."""
        size = len(letter.value or b"")
        piece = self.piece(0, size)
        piece.letters.append(letter)
        return self._extend(piece, letter.offset, size)

    def _extend(self, piece: Piece, offset: int, size: int) -> int:
        piece.body_bytes += size
        piece.records += 1
        piece.end = self.read = offset + 1
        return size + 200

    def span(self, piece: Piece) -> Span:
        """The span that the store gets for a piece."""
        return Span(self.stream, piece.start, piece.end, piece.offsets, piece.tasks, self.first)

    def done(self, piece: Piece, watermark: int) -> None:
        """The first piece is stored."""
        assert self.queue[0] is piece
        self.queue.popleft()
        self.stored = watermark
        self.first = False
        self._fine()
