"""Streams of several threads on one loop: how often the loop's thread is woken, and what a closed client answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from delaybox.client.errors import Failure, Unreachable
from delaybox.client.steps import OpenStream
from delaybox.direct.threads import DirectThreads, LoopThread
from delaybox.wire.gen import scheduler_pb2 as pb

WATCH = OpenStream(0, "Watch", pb.WatchRequest(), None)


class Stream:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.dropped = False

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        return None if self.dropped else pb.WatchResponse()

    def drop(self) -> None:
        self.dropped = True


class Transport:
    def __init__(self) -> None:
        self.opened: list[Stream] = []
        self.is_closed = False

    async def invoke(self, effect: Any) -> Any:
        return None

    def open(self, effect: OpenStream) -> Stream:
        if self.is_closed:
            raise Unreachable("closed")
        self.opened.append(Stream())
        return self.opened[-1]

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def threads(transport: Transport) -> Iterator[DirectThreads]:
    made = DirectThreads(lambda: transport)
    yield made
    made.close()


def test_a_stream_is_opened_by_its_first_receive(
    threads: DirectThreads, transport: Transport, monkeypatch: pytest.MonkeyPatch
):
    woken: list[object] = []
    result = LoopThread.result

    def counted(self: LoopThread, coroutine: Any) -> Any:
        woken.append(coroutine)
        return result(self, coroutine)

    monkeypatch.setattr(LoopThread, "result", counted)
    assert isinstance(threads.open(WATCH).receive(), pb.WatchResponse)
    assert len(woken) == len(transport.opened) == 1


def test_what_is_sent_first_opens_it_as_well(threads: DirectThreads, transport: Transport):
    stream = threads.open(WATCH)
    stream.send(pb.WatchRequest())
    assert isinstance(stream.receive(), pb.WatchResponse)
    assert [one.sent for one in transport.opened] == [[pb.WatchRequest()]]


def test_one_that_was_dropped_is_not_opened_any_more(threads: DirectThreads, transport: Transport):
    stream = threads.open(WATCH)
    stream.drop()
    assert stream.receive() is None
    assert not transport.opened


def test_a_closed_client_opens_none(threads: DirectThreads, transport: Transport):
    stream = threads.open(WATCH)
    transport.is_closed = True
    assert isinstance(answer := stream.receive(), Failure) and isinstance(answer.error, Unreachable)
    transport.is_closed = False
    threads.close()
    assert isinstance(stream.receive(), Failure)
    with pytest.raises(Unreachable):
        threads.open(WATCH)
