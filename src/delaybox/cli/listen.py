"""`delaybox listen`: what arrives on the execution channel, and how late."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from delaybox.cli import messages
from delaybox.cli.server import running_server
from delaybox.core import ids, texts
from delaybox.core.errors import InvalidTask, StoreUnavailable
from delaybox.wire.gen.task_pb2 import Task

if TYPE_CHECKING:
    from delaybox.config import Config
    from delaybox.store.servers import Servers
    from delaybox.store.subscription import Subscribed

SHOWN_BYTES = 500
RETRY_S = 0.5
MOVED_MS = 1000.0
"""Nothing fires before its time: what comes earlier than this, clocks apart, was moved or run at once."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message of the channel. ``late_ms`` is None where nothing tells when it was due; a move does not."""

    task: Task
    at_ms: float
    late_ms: float | None


async def listen(config: Config, *, channel: str | None, count: int, as_json: bool) -> int:
    """Prints until ``count`` tasks arrived (0: for ever); survives restarts of the server. Exit code 0."""
    name = channel or config.storage.task_execution_chanel
    async with running_server(config) as (servers, place):
        offset_ms = await servers.measured_clock_offset_ms()
        source = Source(servers, name)
        seen = 0
        try:
            while True:
                data = await source.next()
                now_ms = time.time() * 1000 + offset_ms
                if data is None:
                    messages.note(f"listening on channel {name} of {place}")
                    continue
                arrival = read(data, now_ms)
                print(_json_line(arrival) if as_json else text_line(arrival), flush=True)  # noqa: T201
                seen += 1
                if seen == count:
                    break
        finally:
            await source.close()
    return 0


class Source:
    """The channel, subscribed to again whenever the server goes away, with or without a word."""

    def __init__(self, servers: Servers, channel: str) -> None:
        self._servers = servers
        self._channel = channel
        self._subscription: Subscribed | None = None
        self._away = False

    async def next(self) -> bytes | None:
        """The next message's bytes; None when listening (again)."""
        while True:
            try:
                if self._subscription is None:
                    self._subscription = self._servers.subscribe(self._channel)
                    await self._subscription.open()
                message = await self._subscription.next(1.0)
            except StoreUnavailable:
                if not self._away:
                    messages.warning("the server went away; what is published until it is back is not shown")
                self._away = True
                await self.close()
                await asyncio.sleep(RETRY_S)
                continue
            if message is not None and message.opened:
                self._away = False
                return None
            if message is not None:
                return message.data

    async def close(self) -> None:
        """Ends the subscription. Twice is harmless."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()


def read(data: bytes, now_ms: float) -> Arrival:
    """Decode one message. Due is the later of the caller's executionTimestamp and the time in the id.

    The id holds when a task without a time, or with a past one, was stored: it cannot have fired before that.
    """
    task = Task()
    try:
        task.ParseFromString(data)
    except DecodeError:
        task = Task(payload=data)
    due: list[int] = []
    with contextlib.suppress(InvalidTask):
        due.append(ids.due_ms(ids.parse(task.taskUuid)))
    with contextlib.suppress(ValueError, OverflowError):
        due.append(int(float(task.header.get("executionTimestamp", b""))))
    late_ms = now_ms - max(due) if due else -MOVED_MS
    return Arrival(task, now_ms, late_ms if late_ms > -MOVED_MS else None)


def text_line(arrival: Arrival) -> str:
    """Time of arrival, lateness, id, payload."""
    at = datetime.fromtimestamp(arrival.at_ms / 1000).astimezone()
    late = "          ?" if arrival.late_ms is None else f"{arrival.late_ms:+8.1f} ms"
    clock = f"{at:%H:%M:%S}.{int(arrival.at_ms % 1000):03d}"
    return f"{clock}  {late}  {texts.line(arrival.task.taskUuid) or '-':36}  {_shown(arrival.task.payload)}"


def _shown(payload: bytes) -> str:
    """The payload as text where it is text; never a control character, which a terminal would obey."""
    cut = payload[:SHOWN_BYTES]
    more = f" … ({len(payload)} bytes)" if len(payload) > len(cut) else ""
    # A character that the cut split does not make it binary.
    text = cut.decode("utf-8", errors="ignore" if more else "replace")
    if all(character.isprintable() or character in "\r\n\t" for character in text) and "\ufffd" not in text:
        return json.dumps(text, ensure_ascii=False) + more
    return f"base64:{base64.b64encode(cut).decode()}{more}"


def _json_line(arrival: Arrival) -> str:
    task = arrival.task
    shown = json.dumps(
        {
            "taskUuid": task.taskUuid,
            "parameter": {key: value.decode(errors="replace") for key, value in sorted(task.header.items())},
            "pyload": base64.b64encode(task.payload).decode(),
            "receivedMs": round(arrival.at_ms, 3),
            "lateMs": None if arrival.late_ms is None else round(arrival.late_ms, 3),
        },
        ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"),
    )
    # JSON leaves in what some terminals obey: C1 controls, marks that turn the direction of writing.
    return shown if shown.isprintable() else json.dumps(json.loads(shown))
