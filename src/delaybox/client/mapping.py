"""Runs a function over very many items: scheduled in chunks, awaited together, yielded in bounded memory.

Four kinds of steps share a `MapWindow`: one reads the caller's items, one stores their tasks, a few watch the tasks,
and the caller's own take results out. So none of them waits for another: results come while the source is slow, and the
source may wait for results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final, NamedTuple

from delaybox.client import calls
from delaybox.client.chunks import CHUNK_BYTES, LINGER_S, Chunk, Flag, store
from delaybox.client.errors import TaskFailed
from delaybox.client.models import STATES, ScheduleAnswer, TaskState
from delaybox.client.new_tasks import MapCalls
from delaybox.client.results import Broken, value_of
from delaybox.client.retries import ClientSession, Repeating
from delaybox.client.steps import AtExit, Drop, Emit, Pull, Start, Steps, Wait, feed
from delaybox.client.watching import Watching, watched
from delaybox.core.errors import DelayBoxError, NotDecodable, PayloadTooLarge
from delaybox.wire import calls as many
from delaybox.wire.call import Codecs, Encoded
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2

WINDOW: Final = 10_000
"""Items of a map that are under way or wait to be taken, unless the caller asks for another number."""
KEEP_MS: Final = 60_000
"""How long results are kept. They are fetched at once, so this only covers a break in the connection."""
KEEP_KEYED_MS: Final = 86_400_000
"""The same with keys, because a later map must find the results of an earlier one."""
MAX_CHUNKSIZE: Final = many.MAX_PARTS
_WATCHES: Final = 6
_LEAVE_S: Final = 5.0
"""How long a map that is left early may take to cancel what it scheduled."""


class Unit(NamedTuple):
    """The items of one task, by their numbers. ``items``: kept where there are several, because they may have to run
    alone."""

    numbers: tuple[int, ...]
    items: tuple[Any, ...] = ()


class MapWindow:
    """The items under way: read, and their outcomes not yet taken out. For threads; each side is woken by a flag of its
    own.

    ``size`` items at most. ``results`` wakes those who take results out, ``room`` the reader, ``work`` who stores.
    """

    def __init__(
        self, size: int, *, ordered: bool, clock: Callable[[], float], results: Flag, room: Flag, work: Flag
    ) -> None:
        self.results = results
        self.room = room
        self.work = work
        self.broken: Exception | None = None
        self.source_error: Exception | None = None
        self.ended = False
        self.leaving = False
        self.storing = False
        self.open: dict[str, list[Unit]] = {}
        """Tasks that are stored and, as far as is known here, have not ended."""
        self.watches: list[Watching] = []
        self._size = size
        self._ordered = ordered
        self._clock = clock
        self._lock = Lock()
        self._admitted = 0
        self._taken = 0
        self._done: dict[int, Any] = {}
        self._group: list[tuple[int, Any, Encoded]] = []
        self._group_bytes = 0
        self._ready: deque[tuple[Unit, pb.NewTask]] = deque()
        self._since = 0.0

    @property
    def full(self) -> bool:
        return self._admitted - self._taken >= self._size

    @property
    def empty(self) -> bool:
        return self._admitted == self._taken

    # -- items in -----------------------------------------------------------------------------------------------

    def put(self, item: Any, make: MapCalls, chunksize: int) -> None:
        """Adds an item. One that cannot be sent gets that error as its outcome."""
        number = self._admitted
        self._admitted += 1
        try:
            if chunksize == 1:
                self._push(Unit((number,)), make.one(item))
                return
            encoded = make.encoded(item)
            with self._lock:
                if self._group_bytes + len(encoded.data) > CHUNK_BYTES // 4:
                    self._close_group(make)
                self._age()
                self._group.append((number, item, encoded))
                self._group_bytes += len(encoded.data)
                if len(self._group) >= chunksize:
                    self._close_group(make)
            self.work.set()
        except DelayBoxError as error:
            self.finish([(number, Broken(error))])

    def alone(self, number: int, item: Any, make: MapCalls) -> None:
        """Adds an item again whose group failed."""
        self._push(Unit((number,)), make.one(item))

    def end(self, error: Exception | None = None) -> None:
        """The source gives no more, or broke off."""
        self.source_error = error
        self.ended = True
        self.work.set()
        self.results.set()

    def _push(self, unit: Unit, task: pb.NewTask) -> None:
        with self._lock:
            self._age()
            self._ready.append((unit, task))
        self.work.set()

    def _age(self) -> None:
        if not self._ready and not self._group:
            self._since = self._clock()

    def _close_group(self, make: MapCalls) -> None:
        group, self._group, self._group_bytes = self._group, [], 0
        if group:
            unit = Unit(tuple(number for number, _, _ in group), tuple(item for _, item, _ in group))
            self._ready.append((unit, make.several([encoded for _, _, encoded in group])))

    # -- tasks out ----------------------------------------------------------------------------------------------

    def next(self, most: int, make: MapCalls, *, safe: bool) -> tuple[list[Unit], Chunk] | None:
        """Tasks to send together: when there are enough, when they are old enough, or all when nothing more is
        added."""
        with self._lock:
            if self.ended or self._clock() - self._since >= LINGER_S:
                self._close_group(make)
            elif len(self._ready) < most:
                return None
            if not self._ready:
                return None
            chunk, units = Chunk(most, self._since, safe=safe), []
            while self._ready:
                unit, task = self._ready.popleft()
                units.append(unit)
                if chunk.take(task):
                    break
            self._since = self._clock()
            return units, chunk

    def linger_s(self) -> float | None:
        """How long until what waits is old enough."""
        if not self._ready and not self._group:
            return None
        return max(0.001, self._since + LINGER_S - self._clock())

    # -- results ------------------------------------------------------------------------------------------------

    def finish(self, outcomes: Sequence[tuple[int, Any]]) -> None:
        """Outcomes of items, by number."""
        self._done.update(outcomes)
        self.results.set()

    def fail(self, error: Exception) -> None:
        """Notes an error of the map as a whole."""
        self.broken = self.broken or error
        self.results.set()

    def take(self) -> list[Any]:
        """The outcomes that are next: in order, or as they came."""
        out: list[Any] = []
        done = self._done
        if self._ordered:
            while self._taken in done:
                out.append(done.pop(self._taken))
                self._taken += 1
        else:
            out += [done.pop(number) for number in list(done)]
            self._taken += len(out)
        if out:
            self.room.set()
            self.work.set()
        return out

    def opened(self, task_id: str, unit: Unit) -> None:
        """Notes a stored task. Several items may share one, by their keys."""
        with self._lock:
            self.open.setdefault(task_id, []).append(unit)

    def closed(self, task_id: str) -> Sequence[Unit]:
        """The items of a task that has ended; none where that was known."""
        with self._lock:
            return self.open.pop(task_id, ())

    # -- watches ------------------------------------------------------------------------------------------------

    def watch(self, ids: Sequence[str]) -> tuple[Watching | None, list[Any]]:
        """Adds ids to a watch. Returns a new watch to start, or None, and the streams of changed watches to drop."""
        new = Watching(ids)
        with self._lock:
            self.watches = [watch for watch in self.watches if watch.ids]
            self.watches.append(new)
            if len(self.watches) <= _WATCHES:
                return new, []
            # The two watches of most similar size are merged, so the more a watch holds, the more rarely it is opened
            # again.
            order = sorted(self.watches, key=lambda watch: len(watch.ids))
            at = min(range(len(order) - 1), key=lambda i: len(order[i + 1].ids) / max(1, len(order[i].ids)))
            small, large = order[at], order[at + 1]
            if large is new:
                small, large = large, small
            large.ids.update(small.ids)
            small.ids.clear()
            self.watches.remove(small)
            for watch in (small, large):
                watch.changed = True
            streams = [watch.stream for watch in (small, large) if watch.stream is not None]
            return (None if small is new else new), streams


class _Items:
    """The caller's items on their way into the window."""

    __slots__ = ("_chunksize", "_make", "_window")

    def __init__(self, window: MapWindow, make: MapCalls, chunksize: int) -> None:
        self._window = window
        self._make = make
        self._chunksize = chunksize

    def add(self, item: Any, /) -> bool:
        window = self._window
        window.put(item, self._make, self._chunksize)
        return window.full or window.leaving or window.broken is not None


class Map:
    """One call of `Client.map`, as steps."""

    def __init__(
        self,
        session: ClientSession,
        source: Any,
        make: MapCalls,
        window: MapWindow,
        *,
        chunk: int,
        chunksize: int,
        codecs: Codecs,
        return_exceptions: bool,
        cancel_on_exit: bool,
    ) -> None:
        self._session = session
        self._source = source
        self._make = make
        self._window = window
        self._chunk = chunk
        self._chunksize = chunksize
        self._codecs = codecs
        self._return_exceptions = return_exceptions
        self._cancel_on_exit = cancel_on_exit

    def steps(self) -> Steps[None]:
        """Emits what the function returned for each item. An item that failed is raised, or emitted as its error."""
        window = self._window
        if self._cancel_on_exit:
            yield AtExit(self._left())
        yield Start(self._read())
        yield Start(self._store())
        ready: deque[Any] = deque()
        while True:
            if window.broken is not None:
                raise window.broken
            ready.extend(window.take())
            if ready:
                yield Emit(_values(ready, return_exceptions=self._return_exceptions))
                if ready:
                    broken: Broken = ready.popleft()
                    raise broken.error
            elif window.ended and window.empty:
                if window.source_error is not None:
                    raise window.source_error
                return
            else:
                yield Wait(window.results)

    def _read(self) -> Steps[None]:
        window, items = self._window, _Items(self._window, self._make, self._chunksize)
        try:
            while not (window.leaving or window.broken):
                if window.full:
                    yield Wait(window.room)
                elif (yield Pull(self._source, items)):
                    break
            window.end()
        except Exception as error:  # noqa: BLE001 - raised where the caller iterates, after what came before it
            window.end(error)

    def _store(self) -> Steps[None]:
        """Stores tasks. They run at least once anyway, so after an unknown outcome they are sent again."""
        window, session = self._window, self._session
        try:
            while not window.leaving:
                found = window.next(self._chunk, self._make, safe=session.safe)
                if found is None:
                    if window.ended and window.empty:
                        return
                    yield Wait(window.work, window.linger_s())
                    continue
                units, chunk = found
                window.storing = True
                try:
                    outcomes = yield from store(session, chunk, Repeating.REPEATABLE)
                finally:
                    window.storing = False
                ids: list[str] = []
                for unit, outcome in zip(units, outcomes, strict=True):
                    if isinstance(outcome, ScheduleAnswer):
                        window.opened(outcome.id, unit)
                        ids.append(outcome.id)
                    elif unit.items and isinstance(outcome, PayloadTooLarge):
                        for number, item in zip(unit.numbers, unit.items, strict=True):
                            window.alone(number, item, self._make)
                    else:
                        window.finish([(number, Broken(outcome)) for number in unit.numbers])
                window.room.set()
                if ids and not window.leaving:
                    new, stale = window.watch(ids)
                    for stream in stale:
                        yield Drop(stream)
                    if new is not None:
                        yield Start(self._watch(new))
        except Exception as error:  # noqa: BLE001 - as above
            window.fail(error)

    def _watch(self, watching: Watching) -> Steps[None]:
        try:
            yield from feed(watched(self._session, watching, ends_only=True), self._ends)
        except Exception as error:  # noqa: BLE001 - as above
            self._window.fail(error)

    def _ends(self, events: Sequence[pb.TaskEvent]) -> None:
        for event in events:
            if STATES[event.state].is_end:
                for unit in self._window.closed(event.id):
                    if unit.items:
                        self._several(unit, event)
                    else:
                        self._window.finish([(unit.numbers[0], value_of(event, self._codecs))])

    def _several(self, unit: Unit, event: pb.TaskEvent) -> None:
        """The outcome of each item of a group. Items of a group that failed as a whole run alone."""
        outcomes = _outcomes(event, len(unit.numbers), self._codecs)
        finished: list[tuple[int, Any]] = []
        for number, item, outcome in zip(unit.numbers, unit.items, outcomes, strict=True):
            if outcome is None and not self._window.leaving:
                self._window.alone(number, item, self._make)
            elif isinstance(outcome, _Again):
                if self._make.again:
                    self._window.alone(number, item, self._make)
                else:
                    finished.append((number, Broken(outcome.error)))
            else:
                finished.append((number, outcome))
        self._window.finish(finished)

    def _left(self) -> Steps[None]:
        """Cancels what has not begun."""
        window, session = self._window, self._session
        window.leaving = True
        for flag in (window.work, window.room):
            flag.set()
        until = session.clock() + _LEAVE_S
        while window.storing and session.clock() < until:
            yield Wait(window.room, 0.05)
        ids = list(window.open)
        for at in range(0, len(ids), WINDOW):
            yield from session.unary(calls.cancel_ids(ids[at : at + WINDOW]), timeout_s=_LEAVE_S)


class _Again(NamedTuple):
    """An item that failed in a group, and may be tried again alone."""

    error: DelayBoxError


def _outcomes(event: pb.TaskEvent, count: int, codecs: Codecs) -> list[Any]:
    """Per item of a group its value, a Broken or an _Again. None: the group as a whole failed, so no item has an
    outcome."""
    state = STATES[event.state]
    if state is TaskState.FAILED:
        return [None] * count
    if state is not TaskState.SUCCEEDED or not event.HasField("result"):
        return [value_of(event, codecs)] * count
    result = event.result
    try:
        if not result.content_type.startswith(many.RESULTS):
            raise NotDecodable(
                f"task {event.id} was {count} calls in one, and its worker does not know of that; use chunksize=1"
            )
        parts = many.split("the result", result.output)
        if len(parts) != count:
            raise NotDecodable(f"task {event.id} was {count} calls in one, and answered {len(parts)}")
    except NotDecodable as error:
        return [Broken(error)] * count
    form = many.form(result.content_type)
    return [_outcome(event.id, part, form, codecs) for part in parts]


def _outcome(task_id: str, part: many.CallPart, form: str, codecs: Codecs) -> Any:
    if part.kind == many.BYTES:
        return part.data
    if part.kind == many.FAILED:
        failed = worker_pb2.Failed.FromString(part.data)
        error = TaskFailed(task_id, failed.reason, failed.output)
        return Broken(error) if failed.final else _Again(error)
    try:
        return codecs.returned(part.data, form)
    except DelayBoxError as error:
        return Broken(error)


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
