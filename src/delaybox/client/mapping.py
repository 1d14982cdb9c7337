"""A function over very many items: scheduled in chunks, awaited chunk by chunk, yielded in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from delaybox.client.chunks import LINGER_S, Chunk, store
from delaybox.client.models import STATES, Stored
from delaybox.client.steps import Emit, Kind, Pull, Session, Start, Steps, Wait, feed
from delaybox.client.streams import Broken, value_of, watched
from delaybox.wire.call import Codecs
from delaybox.wire.gen import scheduler_pb2 as pb

WINDOW: Final = 10_000
KEEP_MS: Final = 60_000
"""A result is fetched as soon as it is there; so long a break can be lived through."""


class Flag(Protocol):
    """Of threads or of asyncio."""

    def set(self) -> None: ...


class Window:
    """What is under way: admitted, not yet taken out. Several threads may finish items; one takes them."""

    __slots__ = ("_admitted", "_done", "_flag", "_ordered", "_size", "_taken", "broken")

    def __init__(self, size: int, flag: Flag, *, ordered: bool) -> None:
        self._size = size
        self._flag = flag
        self._ordered = ordered
        self._admitted = 0
        self._taken = 0
        self._done: dict[int, Any] = {}
        self.broken: Exception | None = None

    @property
    def room(self) -> int:
        return self._size - (self._admitted - self._taken)

    @property
    def empty(self) -> bool:
        return self._admitted == self._taken

    def admit(self, count: int) -> int:
        """The number of the first of so many more items."""
        start = self._admitted
        self._admitted += count
        return start

    def finish(self, outcomes: Sequence[tuple[int, Any]]) -> None:
        """Outcomes of items, by number."""
        self._done.update(outcomes)
        self._flag.set()

    def fail(self, error: Exception) -> None:
        """What concerns all of it."""
        self.broken = self.broken or error
        self._flag.set()

    def take(self) -> list[Any]:
        """The outcomes that are next: in order, or as they came."""
        out: list[Any] = []
        done = self._done
        if self._ordered:
            while self._taken in done:
                out.append(done.pop(self._taken))
                self._taken += 1
            return out
        out += [done.pop(number) for number in list(done)]
        self._taken += len(out)
        return out


class Items:
    """Items of the caller as tasks of one chunk."""

    __slots__ = ("_clock", "_make", "chunk")

    def __init__(self, chunk: Chunk, make: Callable[[Any], pb.NewTask], clock: Callable[[], float]) -> None:
        self.chunk = chunk
        self._make = make
        self._clock = clock

    def add(self, item: Any, /) -> bool:
        return self.chunk.take(self._make(item)) or self._clock() - self.chunk.since > LINGER_S


def mapped(
    session: Session,
    source: Any,
    make: Callable[[Any], pb.NewTask],
    *,
    window: Window,
    flag: Any,
    chunk: int,
    codecs: Codecs,
    return_exceptions: bool,
) -> Steps[None]:
    """Emits what the function returned for each item. An item that failed is raised, or emitted as its error."""
    ended = False
    ready: deque[Any] = deque()
    while True:
        if window.broken is not None:
            raise window.broken
        # New work before old results: the workers must not run dry while the caller handles what it got.
        if not ended and window.room >= chunk:
            items = Items(Chunk(chunk, session.clock(), safe=session.safe), make, session.clock)
            ended = yield Pull(source, items)
            if tasks := items.chunk.tasks:
                yield Start(_run(session, items.chunk, window.admit(len(tasks)), window, codecs))
            continue
        ready.extend(window.take())
        if ready:
            yield Emit(_values(ready, return_exceptions=return_exceptions))
            if ready:
                broken: Broken = ready.popleft()
                raise broken.error
            continue
        if ended and window.empty:
            return
        yield Wait(flag)


def _values(ready: deque[Any], *, return_exceptions: bool) -> list[Any]:
    """Takes out the values up to the first error that is to be raised."""
    out: list[Any] = []
    while ready:
        value = ready[0]
        if isinstance(value, Broken):
            if not return_exceptions:
                break
            value = value.error
        out.append(value)
        ready.popleft()
    return out


def _run(session: Session, chunk: Chunk, start: int, window: Window, codecs: Codecs) -> Steps[None]:
    """Schedules one chunk and awaits it. Tasks run at least once anyway, so an unknown outcome is asked again."""
    try:
        numbers: dict[str, int] = {}
        refused: list[tuple[int, Any]] = []
        for number, outcome in enumerate((yield from store(session, chunk, Kind.REPEATABLE)), start):
            if isinstance(outcome, Stored):
                numbers[outcome.id] = number
            else:
                refused.append((number, Broken(outcome)))
        if refused:
            window.finish(refused)
        ids = list(numbers)

        def ends(events: Sequence[pb.TaskEvent]) -> None:
            window.finish(
                [
                    (numbers.pop(event.id), value_of(event, codecs))
                    for event in events
                    if event.id in numbers and STATES[event.state].is_end
                ]
            )

        yield from feed(watched(session, ids, ends_only=True), ends)
    except Exception as error:  # noqa: BLE001 - raised where the caller iterates
        window.fail(error)
