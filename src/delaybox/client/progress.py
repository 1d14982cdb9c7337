"""Progress for people: a bar where rich is installed, lines where it is not, or the caller's own function."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from delaybox.client.steps import Emit, Steps, through
from delaybox.core.errors import InvalidTask

T = TypeVar("T")
Report = Callable[[int, int | None], object]
"""Called with how many are done, and of how many (None where that is not known)."""
_EVERY_S = 0.5


class Shown(Protocol):
    def at(self, done: int) -> None: ...

    def close(self) -> None: ...


def shown(progress: bool | Report, source: Any, words: str, total: int | None = None) -> Shown | None:
    """``progress``: False for none, True for a bar or lines on stderr, or a function to call.

    ``total``: how many there will be; unless given the source's own length.
    """
    if total is not None and total < 0:
        raise InvalidTask("total", f"total {total} is negative; give how many items there are, or leave it out")
    if progress is False:
        return None
    if total is None and hasattr(source, "__len__"):
        total = len(source)
    if callable(progress):
        return _Callback(progress, total)
    try:
        return _Bar(words, total)
    except ImportError:
        return _Lines(words, total)


def reported(steps: Steps[T], show: Shown | None) -> Steps[T]:
    """The same steps; what they emit is counted."""
    if show is None:
        return steps
    return _counted(steps, show)


def _counted(steps: Steps[T], show: Shown) -> Steps[T]:
    done = 0

    def counted(effect: Emit) -> Emit:
        nonlocal done
        done += len(effect.items)
        show.at(done)
        return effect

    try:
        return (yield from through(steps, counted))
    finally:
        show.close()


class _Callback:
    def __init__(self, report: Report, total: int | None) -> None:
        self._report = report
        self._total = total

    def at(self, done: int) -> None:
        self._report(done, self._total)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, words: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(words, total=total)
        self._bar.start()

    def at(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    def __init__(self, words: str, total: int | None) -> None:
        self._words = words
        self._of = "" if total is None else f" of {total}"
        self._next = time.monotonic() + _EVERY_S

    def at(self, done: int) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY_S
            print(f"{self._words}: {done}{self._of}", file=sys.stderr)  # noqa: T201 - asked for

    def close(self) -> None:
        pass
