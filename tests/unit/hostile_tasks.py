"""Functions whose errors, results and codecs do harm when they are looked at. Imported by cpu processes as well."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from delaybox.wire.call import Codecs
from delaybox.worker import RetryLater, Worker


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


class MuteReject(RetryLater):
    def __init__(self) -> None:
        super().__init__("later")
        self.after = math.nan

    def __str__(self) -> NoReturn:
        raise SystemExit(3)


class NotText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class Chameleon(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class OddText(str):
    """What f-strings and encoders ask raises."""

    __slots__ = ()

    def __format__(self, spec: str) -> NoReturn:
        raise OverflowError

    def encode(self, *_: Any) -> NoReturn:
        raise OverflowError


class Odd(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class OddDict(dict[str, int]):
    def items(self) -> NoReturn:
        raise OSError("gone")


def _overflows(value: object) -> bytes:
    raise OverflowError("int too large to convert")


def _text(value: object) -> bytes:
    return "text"  # type: ignore[return-value]


codecs = Codecs()
codecs.add("x/overflows", _overflows, _overflows)
codecs.add("x/text", _text, bytes)


def raises(how: str) -> Any:
    match how:
        case "mute":
            raise Mute
        case "nan":
            raise MuteReject
        case "not text":
            raise NotText
        case "chameleon":
            raise Chameleon
        case "odd":
            raise Odd
        case "surrogate":
            raise ValueError("half \udc80 a character")
        case "long":
            raise ValueError("x" * 1_000_000)
        case "far":
            error = RetryLater("far")
            error.after = 1e300
            raise error
        case "text":
            error = RetryLater("text")
            error.after = "soon"  # type: ignore[assignment]
            raise error
        case "stop":
            next(iter([]))
        case "memory":
            raise MemoryError
        case "dict":
            return OddDict(a=1)
    return how


def worker(cpu: bool | None) -> Worker:
    """The same functions: async (None), in threads, or in processes."""
    made = Worker("hostile", codecs=codecs)
    if cpu is None:

        async def run(how: str) -> Any:
            return raises(how)

        for name, result_type in (("raises", ""), ("overflows", "x/overflows"), ("text", "x/text")):
            made.task(name=name, result_type=result_type)(run)
    else:
        for name, result_type in (("raises", ""), ("overflows", "x/overflows"), ("text", "x/text")):
            made.task(name=name, result_type=result_type, cpu=cpu)(raises)
    return made


CPU = Worker("hostile", codecs=codecs)


@CPU.task(cpu=True, name="raises")
def cpu_raises(how: str) -> Any:
    return raises(how)


@CPU.task(cpu=True, name="overflows", result_type="x/overflows")
def cpu_overflows(how: str) -> Any:
    return raises(how)


@CPU.task(cpu=True, name="text", result_type="x/text")
def cpu_text(how: str) -> Any:
    return raises(how)
