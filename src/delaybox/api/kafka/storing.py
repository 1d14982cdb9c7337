"""Stores what waits in the queues of the assigned partitions, in the order of each.

At each server of the store one round trip is under way at a time, with whatever has come meanwhile, so batches grow
with the load. A server that is away, or hangs, holds up no records whose place is another server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from delaybox import failpoints, metrics
from delaybox.api.kafka.dlq import DeadLetters, DlqFailed
from delaybox.api.kafka.partitions import Key, Letter, Partition, Piece
from delaybox.core.errors import DelayBoxError, IdempotencyConflict, InvalidTask
from delaybox.service import RecordService

log = logging.getLogger("delaybox.kafka")

ROUND_PIECES = 8
"""Most pieces in one round trip."""
_QUIET_S = 10.0


class PieceOwner(Protocol):
    """Is told what became of records."""

    def stored(self, piece: Piece) -> None:
        """It has left its queue."""

    def went_back(self, key: Key, part: Partition, watermark: int) -> None:
        """The store knows less of a partition than it did."""

    async def settled(self) -> None:
        """A round trip is over."""


class Storing:
    """``partitions``: those that are assigned; the owner adds and removes them. One that could not be stored waits for
    a while by itself."""

    def __init__(
        self, partitions: Mapping[Key, Partition], service: RecordService, dead: DeadLetters, owner: PieceOwner
    ) -> None:
        self._partitions = partitions
        self._service = service
        self._dead = dead
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._lanes: dict[int, asyncio.Task[None]] = {}
        """By the number of the server."""
        self._preparing: dict[Partition, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        """Records that went to dead-letter topics since the last warning."""
        self._warned_at_s = float("-inf")

    async def run(self) -> None:
        """Until it is cancelled. Raises what nobody expected."""
        try:
            await self._failed
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in (*self._lanes.values(), *self._preparing.values()):
                task.cancel()

    def go_on(self) -> None:
        """Something waits: begins at each server at which nothing is under way."""
        if self._failed.done():
            return
        now = self._loop.time()
        again = float("inf")
        for part in self._partitions.values():
            if not self._waits(part):
                continue
            if part.again_at > now:
                again = min(again, part.again_at)
            elif (server := self._service.server_of(part.stream)) not in self._lanes:
                self._begin(self._lanes, server, self._store_at(server))
        if again < float("inf") and (self._timer is None or again < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(again, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.go_on()

    def _waits(self, part: Partition) -> bool:
        return bool(part.queue) and part not in self._preparing

    def _begin(self, among: dict[Any, asyncio.Task[None]], name: Any, work: Coroutine[Any, Any, None]) -> None:
        task = among[name] = self._loop.create_task(work, name="delaybox-kafka-store")

        def over(task: asyncio.Task[None]) -> None:
            del among[name]
            error = None if task.cancelled() else task.exception()
            if error is not None and not self._failed.done():
                self._failed.set_exception(error)
            self.go_on()

        task.add_done_callback(over)

    # -- one server ---------------------------------------------------------------------------------------------------

    async def _store_at(self, server: int) -> None:
        while round_ := self._next_round(server):
            await self._store(round_)
            await self._owner.settled()

    def _next_round(self, server: int) -> list[tuple[Key, Partition, Piece]]:
        """The first pieces of every partition whose place is this server, in turn. A piece that must be prepared is
        prepared once it is the first one, and holds up what is behind it."""
        found: list[tuple[Key, Partition, Piece]] = []
        now = self._loop.time()
        waiting = [
            (key, part)
            for key, part in self._partitions.items()
            if self._waits(part) and part.again_at <= now and self._service.server_of(part.stream) == server
        ]
        for turn in range(ROUND_PIECES):
            open_: list[tuple[Key, Partition]] = []
            for key, part in waiting:
                if turn >= len(part.queue) or len(found) >= ROUND_PIECES:
                    continue
                piece = part.queue[turn]
                if not piece.ready:
                    if turn == 0:
                        piece.taken = True
                        self._begin(self._preparing, part, self._prepare(part, piece))
                    continue
                piece.taken = True
                found.append((key, part, piece))
                open_.append((key, part))
            waiting = open_
        return found

    async def _store(self, round_: Sequence[tuple[Key, Partition, Piece]]) -> None:
        """One round trip. Records that may not be stored stay in their queue."""
        failpoints.hit("before_ingest")
        answers = await self._service.ingest([part.span(piece) for _, part, piece in round_])
        failpoints.hit("after_ingest")
        seen: set[Key] = set()
        for (key, part, piece), answer in zip(round_, answers, strict=True):
            first = key not in seen
            seen.add(key)
            if not part.queue or part.queue[0] is not piece:
                continue  # revoked or moved meanwhile, or what stands before it is not stored yet
            if isinstance(answer, DelayBoxError):
                part.failed(str(answer), self._loop.time())
            elif answer.refused:
                # Refused because the pieces before it were not stored yet: it is sent again.
                if first:
                    self._owner.went_back(key, part, answer.watermark)
            else:
                part.done(piece, max(answer.watermark, piece.end))
                self._owner.stored(piece)
                metrics.kafka_records(
                    key[0], stored=answer.stored, dead=len(piece.letters), keyed=len(piece.keyed),
                    known=len(piece.tasks) - answer.stored,
                )  # fmt: skip

    # -- what is done before ------------------------------------------------------------------------------------------

    async def _prepare(self, part: Partition, piece: Piece) -> None:
        """Stores tasks with keys, at whichever servers these decide, and sends records that cannot become tasks to the
        dead-letter topic."""
        problem = await self._prepared(piece)
        if problem:
            part.failed(problem, self._loop.time())
            await self._owner.settled()

    async def _prepared(self, piece: Piece) -> str:
        """The problem, if any."""
        letters = piece.letters.copy()
        if piece.keyed:
            answers = await self._service.submit_many([task for task, _ in piece.keyed])
            for (_, letter), answer in zip(piece.keyed, answers, strict=True):
                if isinstance(answer, InvalidTask | IdempotencyConflict):
                    letters.append(letter.refused(answer.code, str(answer)))
                elif isinstance(answer, DelayBoxError):
                    return str(answer)  # all are sent again; those that are stored already get the same answer
        if letters:
            try:
                await self._dead.send(letters)
            except DlqFailed as error:
                return f"Kafka: {error}"
            failpoints.hit("after_dlq")
            self._warn_of_refused(letters)
        piece.letters = letters
        piece.prepared = True
        return ""

    def _warn_of_refused(self, letters: Sequence[Letter]) -> None:
        """Logs now and then, never with a record's content."""
        self._refused += len(letters)
        now = self._loop.time()
        if now - self._warned_at_s >= _QUIET_S:
            last = letters[-1]
            log.warning(
                "%d records went to dead-letter topics; the last one, %s [%d] %d, as %s",
                self._refused, last.topic, last.partition, last.offset, last.code,
            )  # fmt: skip
            self._warned_at_s, self._refused = now, 0
