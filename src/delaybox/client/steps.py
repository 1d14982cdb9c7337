"""What a call does, step by step, without doing it: the one core of both clients.

A call is a generator of effects. A shell (blocking or asyncio) carries each out and sends back its result, so retries,
endpoints, chunks and streams are decided once for both. Each effect's docstring names its result behind an arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from delaybox.client.batches import TaskBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Invoke:
    """One unary attempt at one node -> the response, or a Failure."""

    which: int
    method: str
    request: Message
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream of responses -> the stream. ``request`` None: requests are sent one by one."""

    which: int
    method: str
    request: Message | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Send:
    """Queues a request -> None. If it cannot be sent, the next Receive gets the Failure."""

    stream: Any
    message: Message | TaskBatch


@dataclass(frozen=True, slots=True)
class Receive:
    """-> the next response, None at the end, or a Failure."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Drop:
    """Ends a stream whatever its state -> None. Shells drop what is left open when the steps end."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits -> None, after this time."""

    seconds: float


class PullSink(Protocol):
    """The sink that `Pull` fills."""

    def add(self, item: Any, /) -> bool:
        """Takes one item more; True when it wants no more for now."""
        ...


@dataclass(frozen=True, slots=True)
class Pull:
    """Items from the caller's iterable into a sink until it is full -> True when the iterable has ended."""

    source: Any
    sink: PullSink


@dataclass(frozen=True, slots=True)
class Emit:
    """Items for whoever iterates over the call -> None."""

    items: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Start:
    """Other steps, beside these -> None. They end with these."""

    steps: Steps[None]


@dataclass(frozen=True, slots=True)
class Wait:
    """-> None, once the flag (of threads or of asyncio) is set, or after this time; the flag is cleared then."""

    flag: Any
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class AtExit:
    """-> None. These steps are carried out first when the others are left early: by an error, or by their caller."""

    steps: Steps[None]


Effect = Invoke | OpenStream | Send | Receive | Drop | Pause | Pull | Emit | Start | Wait | AtExit
Steps = Generator[Effect, Any, T]


def through(steps: Steps[T], emit: Callable[[Emit], Emit | None]) -> Steps[T]:
    """The same steps; what they emit goes through ``emit``, which may keep it (None)."""
    advance: Callable[[Any], Effect] = steps.send
    answer: Any = None
    try:
        while True:
            effect: Effect | None = advance(answer)
            advance, answer = steps.send, None
            if isinstance(effect, Emit):
                effect = emit(effect)
            if effect is not None:
                try:
                    answer = yield effect
                except Exception as error:  # noqa: BLE001 - what an effect raised is raised where it was asked for
                    advance, answer = steps.throw, error
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def each(steps: Steps[T], make: Callable[[Any], Any]) -> Steps[T]:
    """The same steps; each item that they emit goes through ``make``."""
    return through(steps, lambda effect: Emit([make(item) for item in effect.items]))


def feed(steps: Steps[T], take: Callable[[Sequence[Any]], object]) -> Steps[T]:
    """The same steps, but what they emit is given to ``take``, here and now."""

    def kept(effect: Emit) -> None:
        take(effect.items)

    return through(steps, kept)
