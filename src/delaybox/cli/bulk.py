"""`delaybox schedule --file`: many tasks in batches, answered line by line, and safe to repeat."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from delaybox.cli import messages
from delaybox.cli.client import LATER, NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.exits import Exit
from delaybox.cli.taskfile import BadLine, TaskLine, batches, lines_of
from delaybox.core.errors import ConfigError

GIVE_UP_S = 60.0
"""Gives up after this long without any answer but "later"."""


@dataclass(slots=True)
class SendProgress:
    """What has been answered so far."""

    created: int = 0
    duplicates: int = 0
    refused: list[BadLine] = field(default_factory=list)
    line: int = 0
    read: int = 0

    @property
    def lines(self) -> int:
        return self.created + self.duplicates + len(self.refused)


class Sender:
    """Sends groups of lines and counts. Lines that the node cannot take now are sent again; their keys make that
    safe."""

    def __init__(
        self,
        client: RestClient,
        refused: Callable[[BadLine], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.done = SendProgress()
        self._client = client
        self._refused = refused
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._answered = False

    def refuse(self, line: BadLine) -> None:
        """Counts a line that is not sent."""
        self.done.refused.append(line)
        self._refused(line)

    def send(self, group: list[TaskLine]) -> None:
        """Returns when every line of the group is answered. Unreachable, Refused: none of the rest can be."""
        last = group[-1]
        until = self._clock() + GIVE_UP_S
        pause = 0.2
        while group:
            before = len(group)
            try:
                group, wait = self._once(group)
            except NodeUnreachable:
                # No answer has ever come: a wrong address is more likely than a restart.
                if not self._answered or self._clock() >= until:
                    raise
                wait = pause
            except NodeRefused as error:
                if error.status not in LATER or self._clock() >= until:
                    raise
                self._answered = True
                # Later by chance: whom the node refused at once, it has told the same.
                wait = max(pause, error.retry_after_s * (1 + self._draw()))
            if group and len(group) == before:
                if self._clock() >= until:
                    raise NodeUnreachable(
                        f"the node has taken nothing for {GIVE_UP_S:.0f} s; `delaybox doctor` looks for the reason"
                    )
                self._sleep(max(wait, pause))
                pause = min(pause * 2, 5.0)
            else:
                until, pause = self._clock() + GIVE_UP_S, 0.2
        self.done.line = last.number
        self.done.read = last.read

    def _once(self, group: list[TaskLine]) -> tuple[list[TaskLine], float]:
        """The lines that are to be sent again, and after how long."""
        body = b'{"tasks":[' + b",".join(line.task for line in group) + b"]}"
        try:
            answer = self._client.send("POST", "/v1/tasks/batch", body)
        except NodeRefused as error:
            if error.status not in (400, 413, 422):
                raise
            self._answered = True
            # Some line keeps the node from reading the batch: it is halved until that line is found.
            if len(group) == 1:
                self.refuse(BadLine(group[0].number, error.code, error.detail, error.field))
                return [], 0.0
            half = len(group) // 2
            first, wait = self._once(group[:half])
            second, other = self._once(group[half:])
            return first + second, max(wait, other)
        self._answered = True
        again: list[TaskLine] = []
        for line, item in zip(group, answer["items"], strict=True):
            problem: dict[str, Any] = item.get("error") or {}
            if item["status"] == 201:
                self.done.created += 1
            elif item["status"] < 300:
                self.done.duplicates += 1
            elif item["status"] in LATER:
                again.append(line)
            else:
                self.refuse(
                    BadLine(
                        line.number,
                        str(problem.get("code", f"http_{item['status']}")),
                        str(problem.get("detail", "")),
                        str(problem.get("field", "")),
                    )
                )
        return again, 1.0 if again else 0.0


def schedule_file(client: RestClient, name: str, *, run: str, as_json: bool) -> int:
    """Schedules a file's lines (``-``: standard input's); the exit code. ConfigError where there is no such file."""
    shown = "standard input" if name == "-" else name

    def refused(line: BadLine) -> None:
        if not as_json:
            messages.error(f"{shown}:{line.number}: {line.detail}")

    sender = Sender(client, refused)
    with _opened(name) as (stream, size), _bar(size, shown if not as_json else "") as moved:
        try:
            for group in batches(lines_of(stream, run), sender.refuse):
                sender.send(group)
                moved(sender.done)
        except (NodeUnreachable, NodeRefused) as error:
            _report(sender.done, shown, as_json=as_json)
            if sender.done.lines:
                messages.note(f"ended after line {sender.done.line}; the same command again goes on from there")
            raise error from None
        except KeyboardInterrupt:
            _report(sender.done, shown, as_json=as_json)
            messages.note(f"interrupted after line {sender.done.line}; the same command again goes on from there")
            return Exit.INTERRUPTED
    _report(sender.done, shown, as_json=as_json)
    return Exit.FAILED if sender.done.refused else Exit.DONE


def _report(done: SendProgress, shown: str, *, as_json: bool) -> None:
    if as_json:
        errors = [
            {"line": bad.number, "code": bad.code, "detail": bad.detail, **({"field": bad.field} if bad.field else {})}
            for bad in sorted(done.refused, key=lambda bad: bad.number)
        ]
        messages.out_json(
            {"created": done.created, "duplicates": done.duplicates, "refused": len(done.refused), "errors": errors}
        )
        return
    messages.out(
        f"{shown}: {done.lines:,} tasks: {done.created:,} created, {done.duplicates:,} there already, "
        f"{len(done.refused):,} refused"
    )


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size (0: unknown)."""
    if name == "-":
        yield sys.stdin.buffer, 0
        return
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(name).open("rb"))
        except OSError as error:
            raise ConfigError(f"--file {name}: {error.strerror}") from None
        yield stream, Path(name).stat().st_size


@contextlib.contextmanager
def _bar(size: int, title: str) -> Iterator[Callable[[SendProgress], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not title or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()) if size else (TimeElapsedColumn(),)
    with Progress(*columns, *times, console=Console(stderr=True), transient=True) as drawn:
        job = drawn.add_task(title.replace("[", "\\["), total=size or None, counts="")
        started = time.monotonic()

        def moved(done: Any) -> None:
            rate = done.lines / max(time.monotonic() - started, 0.001)
            drawn.update(job, completed=done.read, counts=f"{done.lines:,} tasks, {rate:,.0f}/s")

        yield moved
