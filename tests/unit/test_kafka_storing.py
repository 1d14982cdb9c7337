"""Records of Kafka are stored by server: one that hangs holds up those of no other, and each keeps its order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from delaybox.api.kafka.dlq import DeadLetters
from delaybox.api.kafka.partitions import Key, Letter, Partition, Piece, Place
from delaybox.api.kafka.storing import Storing
from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.task import NewTask, Submitted
from delaybox.store.kafka import Ingested, Span, Stream
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.encoded import encode
from tests.waiting import until_async

TASK = encode(NewTask(payload=b"x"))


class Crowd:
    """Partitions 0 and 2 have their place at server 0, partitions 1 and 3 at server 1."""

    def __init__(self) -> None:
        self.parts: dict[Key, Partition] = {("t", n): Partition(Place(Stream("id", n), 0, 0), 0) for n in range(4)}
        self.hangs: dict[int, asyncio.Event] = {}
        """Servers that answer only once this is set."""
        self.away: set[int] = set()
        self.calls: list[list[int]] = []
        """The partitions of each round trip."""
        self.spans: list[Span] = []
        self.letters: list[Letter] = []
        self.storing = Storing(self.parts, self, self, self)  # type: ignore[arg-type]

    def add(self, number: int, *, keyed: bool = False) -> None:
        part = self.parts["t", number]
        letter = Letter("t", number, part.read, 0, None, b"", ())
        if keyed:
            part.add_keyed(part.read, NewTask(idempotency_key=str(number)), letter)
        else:
            part.add(part.read, TASK)
        self.storing.go_on()

    def stored_up_to(self, number: int) -> int:
        return self.parts["t", number].stored

    async def reaches(self, number: int, offset: int) -> None:
        await until_async(lambda: self.stored_up_to(number) == offset)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.storing.run())
        yield
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()

    # -- the service --------------------------------------------------------------------------------------------

    def server_of(self, stream: Stream) -> int:
        return stream.partition % 2

    async def ingest(self, spans: Sequence[Span]) -> list[Ingested | DelayBoxError]:
        self.calls.append([span.stream.partition for span in spans])
        server = spans[0].stream.partition % 2
        if (hangs := self.hangs.get(server)) is not None:
            await hangs.wait()
        if server in self.away:
            return [PartAway("away") for _ in spans]
        self.spans += spans
        return [Ingested(span.end, len(span.tasks), False) for span in spans]

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Any]:
        if (hangs := self.hangs.get(-1)) is not None:
            await hangs.wait()
        return [Submitted("id", 0, True, "") for _ in tasks]

    async def send(self, letters: Sequence[Letter]) -> None:
        self.letters += letters

    # -- the owner ----------------------------------------------------------------------------------------------

    def stored(self, piece: Piece) -> None:
        pass

    def went_back(self, key: Key, part: Partition, watermark: int) -> None:
        raise AssertionError

    async def settled(self) -> None:
        pass


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    made = Crowd()
    async with made.running():
        yield made


async def test_a_server_that_hangs_holds_up_no_records_for_others(crowd: Crowd) -> None:
    crowd.hangs[0] = asyncio.Event()
    crowd.add(0)
    await until_async(lambda: crowd.calls == [[0]])
    for n in range(1, 4):
        crowd.add(1)
        await crowd.reaches(1, n)
    crowd.add(2)
    crowd.add(3)
    await crowd.reaches(3, 1)
    assert crowd.stored_up_to(0) == crowd.stored_up_to(2) == 0
    assert [0] in crowd.calls and not any(2 in call for call in crowd.calls), "one round trip at a time at a server"
    crowd.hangs.pop(0).set()
    await crowd.reaches(0, 1)
    await crowd.reaches(2, 1)


async def test_what_a_server_refused_is_sent_again_by_itself(crowd: Crowd) -> None:
    crowd.away.add(0)
    crowd.add(0)
    await until_async(lambda: crowd.parts["t", 0].problem == "away")
    crowd.add(1)
    await crowd.reaches(1, 1)
    crowd.away.clear()
    await crowd.reaches(0, 1)
    assert crowd.parts["t", 0].problem == ""


async def test_keyed_tasks_that_cannot_be_stored_hold_up_their_own_partition_alone(crowd: Crowd) -> None:
    """Their keys decide where they are stored: it may be a server that hangs."""
    crowd.hangs[-1] = asyncio.Event()
    crowd.add(0, keyed=True)
    crowd.add(2)
    await crowd.reaches(2, 1)
    assert crowd.stored_up_to(0) == 0
    crowd.hangs.pop(-1).set()
    await crowd.reaches(0, 1)


async def test_each_partition_keeps_its_order(crowd: Crowd) -> None:
    crowd.hangs[0] = asyncio.Event()
    for n in range(60):
        crowd.add(0, keyed=n % 7 == 0)
        if n % 5 == 0:
            # What a round trip has taken grows no more, so there are many pieces.
            for piece in crowd.parts["t", 0].queue:
                piece.taken = True
    crowd.hangs.pop(0).set()
    await crowd.reaches(0, 60)
    ends = [0, *(span.end for span in crowd.spans)]
    assert [span.start for span in crowd.spans] == ends[:-1]


async def test_what_nobody_expected_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Any) -> Any:
        raise ZeroDivisionError

    crowd = Crowd()
    monkeypatch.setattr(crowd, "ingest", broken)
    running = asyncio.create_task(crowd.storing.run())
    crowd.add(0)
    with pytest.raises(ZeroDivisionError):
        await running


async def test_letters_are_sent_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer tells whichever thread waits what became of a letter: its own might have gone on by then."""
    begun: list[Sequence[Letter]] = []
    go_on = threading.Event()

    def send(_: DeadLetters, letters: Sequence[Letter]) -> None:
        begun.append(letters)
        go_on.wait(60)

    monkeypatch.setattr(DeadLetters, "_send", send)
    dead = DeadLetters(KafkaSettings(brokers=("localhost:1",)), None)  # type: ignore[arg-type]
    sending = [asyncio.create_task(dead.send([])) for _ in range(3)]
    await until_async(lambda: bool(begun))
    await asyncio.to_thread(int)  # which begins after all that were to begin before it
    assert len(begun) == 1
    go_on.set()
    await asyncio.gather(*sending)
    assert len(begun) == 3
