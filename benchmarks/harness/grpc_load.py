"""Our own gRPC load client: ``python -m benchmarks.harness.grpc_load '<json options>'``.

HTTP/2 frames as bytes, no gRPC library: the caller runs on the node's cores, so what it costs is missing there. Calls
are serialized before the run; an answer counts when its stream brought data and ended, which a refusal does not.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.ours.grpc_client import VARIETY, batches
from delaybox.wire.gen import scheduler_pb2 as pb

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST = (1 << 31) - 1
_FIRST_WINDOW = 65_535


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


def _head(path: str, authority: str) -> bytes:
    """The header block of a call: indexed fields of RFC 7541's static table, and literals that are not indexed."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(path),
            b"\x01" + _text(authority),
            b"\x0f\x10" + _text("application/grpc"),
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


@dataclass(slots=True)
class _Run:
    """What all connections share: the calls, and what came of them."""

    head: bytes
    bodies: list[bytes]
    left: int
    under_way: int = 0
    accepted: int = 0
    refused: int = 0
    times: list[float] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self, seconds: float, *, ok: bool) -> None:
        self.under_way -= 1
        self.accepted += ok
        self.refused += not ok
        self.times.append(seconds)
        if not self.left and not self.under_way:
            self.over.set()


class _Connection(asyncio.Protocol):
    """So many calls at a time; each end begins the next call."""

    def __init__(self, run: _Run, places: int) -> None:
        self._run = run
        self._places = places
        self._transport: Any = None
        self._stream = -1
        self._begun: dict[int, float] = {}
        self._answered: set[int] = set()
        self._window = _FIRST_WINDOW
        self._rest = b""
        self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # No table for the server's headers, and room for all that it answers.
        wanted = (0x1, 0), (0x4, _LARGEST)
        settings = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in wanted)
        more = (_LARGEST - _FIRST_WINDOW).to_bytes(4, "big")
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, more))

    def begin(self) -> None:
        """Begins its first calls."""
        self._send(self._places)

    def _send(self, count: int) -> None:
        run, out = self._run, []
        now = time.perf_counter()
        for at in range(count):
            if not run.left:
                break
            body = run.bodies[run.left % len(run.bodies)]
            if self._window < len(body):
                self._waiting += count - at
                break
            run.left -= 1
            run.under_way += 1
            self._window -= len(body)
            self._stream += 2
            self._begun[self._stream] = now
            out.append(_frame(_HEADERS, _END_HEADERS, self._stream, run.head))
            out.append(_frame(_DATA, _END_STREAM, self._stream, body))
        if out:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end, ended = 0, len(data), 0
        now = time.perf_counter()
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if kind == _DATA:
                self._answered.add(stream)
            elif kind == _WINDOW and not stream:
                self._window += int.from_bytes(data[at + 9 : at + 13], "big")
            elif kind == _SETTINGS and not flags & _ACK:
                self._transport.write(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                self._transport.write(_frame(_PING, _ACK, 0, data[at + 9 : at + 17]))
            elif kind == _GOAWAY:
                raise RuntimeError(f"the node ended the connection: {data[at + 17 : at + 9 + size]!r}")
            if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RST:
                begun = self._begun.pop(stream, None)
                if begun is not None:
                    ended += 1
                    self._run.ended(now - begun, ok=stream in self._answered)
                self._answered.discard(stream)
            at += 9 + size
        self._rest = data[at:]
        count, self._waiting = ended + self._waiting, 0
        if count:
            self._send(count)

    def connection_lost(self, exc: Exception | None) -> None:
        for _ in self._begun:
            self._run.ended(0.0, ok=False)
        self._begun.clear()


async def main(options: dict[str, Any]) -> dict[str, Any]:
    host, port = options["address"].rsplit(":", 1)
    tasks = [batch.tasks[0] for batch in batches(int(options["seed"]), 1)]
    bodies = [pb.ScheduleRequest(task=task).SerializeToString() for task in tasks[:VARIETY]]
    run = _Run(
        _head("/delaybox.v1.Scheduler/Schedule", options["address"]),
        [b"\0" + len(body).to_bytes(4, "big") + body for body in bodies],
        int(options["n"]),
    )
    loop = asyncio.get_running_loop()
    connections = int(options["connections"])
    made: list[_Connection] = []
    for number in range(connections):
        places = int(options["under_way"]) // connections
        made.append(_Connection(run, places + (number < int(options["under_way"]) % connections)))
        await loop.create_connection(lambda at=number: made[at], host, int(port))
    await asyncio.sleep(0.3)  # until all of them are accepted and greeted
    started, used = time.perf_counter(), time.process_time()
    for connection in made:
        connection.begin()
    await run.over.wait()
    seconds = time.perf_counter() - started
    times = sorted(run.times)
    return {
        "seconds": seconds,
        "cpu_s": time.process_time() - used,
        "accepted": run.accepted,
        "refused": run.refused,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))), flush=True)
