"""Names whose address changes between the look-up and the connection, against the target of HTTP tasks.

127.0.0.2 stands for a public address (it is allowed), 127.0.0.1 for a private one; a receiver listens at the same port
of each. Run as a program it asks the machine's own resolver; the caller has put our server into resolv.conf.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from unittest.mock import patch

from delaybox.core.delivery import Delivery, Failed, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.targets import http_client
from delaybox.targets.http import HttpOptions, HttpTarget
from delaybox.targets.http_client import Resolve
from delaybox.wire import body
from tests.dns import DnsServer, asking
from tests.receivers import Receiver, receiver

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
TURNS = 40


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it. ``hits``: connections to the private address."""

    first: str
    again: str
    later: str
    mixed: str
    turning: int
    refused: int
    asked: int
    arrived: int
    hosts: Sequence[str]
    hits: int


@contextlib.contextmanager
def two_receivers() -> Iterator[tuple[Receiver, Receiver]]:
    """At the public and at the private address, with the same port."""
    for _ in range(20):
        with receiver(host=PUBLIC) as public:
            with socket.socket() as probe:
                try:
                    probe.bind((PRIVATE, public.port))
                except OSError:
                    continue
            with receiver(host=PRIVATE, port=public.port) as private:
                yield public, private
                return
    raise RuntimeError("no port is free at both addresses")


async def attack(*, system: bool = False) -> Found:
    """``system``: by the machine's own resolver."""
    dns = DnsServer()
    await dns.start(53 if system else 0)
    try:
        with two_receivers() as (public, private):
            return await _attack(dns, None if system else asking(dns), public, private)
    finally:
        dns.stop()


async def _attack(dns: DnsServer, resolve: Resolve | None, public: Receiver, private: Receiver) -> Found:
    dns.answers["rebound.example"] = [[PUBLIC], [PRIVATE]]
    dns.answers["mixed.example"] = [[PUBLIC, PRIVATE]]
    for turn in range(TURNS):
        dns.answers[f"turn-{turn}.example"] = [[PUBLIC], [PRIVATE]] if turn % 2 else [[PRIVATE], [PUBLIC]]
    names = [f"turn-{turn}.example" for turn in range(TURNS)]
    async with _target(public.port, resolve) as target:
        first = await _send(target, f"http://rebound.example:{public.port}/first")
        asked = dns.asked["rebound.example"]
        # The name is private by now; the answer that was checked still counts, and nothing asks again.
        again = await _send(target, f"http://rebound.example:{public.port}/again")
        target._client._names.clear()  # as if five seconds had gone by
        later = await _send(target, f"http://rebound.example:{public.port}/later")
        mixed = await _send(target, f"http://mixed.example:{public.port}/mixed")
        ends = await asyncio.gather(*(_send(target, f"http://{name}:{public.port}/turn") for name in names * 3))
    turned = [end for end in ends if isinstance(end, Failed) and "loopback" in end.reason and not end.retryable]
    return Found(
        first=_word(first),
        again=_word(again),
        later=_word(later),
        mixed=_word(mixed),
        turning=len(ends) - len(turned),
        refused=len(turned),
        asked=asked,
        arrived=len(public.to("/turn")),
        hosts=sorted({one.headers["host"].partition(":")[0] for one in public.requests}),
        hits=private.connections,
    )


@contextlib.asynccontextmanager
async def _target(port: int, resolve: Resolve | None) -> AsyncIterator[HttpTarget]:
    rules = WebhookRules(enabled=True, allow=(f"{PUBLIC}/32",), ports=(port,))
    target = HttpTarget(HttpOptions(rules=rules, timeout_ms=600_000), resolve=resolve)
    try:
        # However slow the machine is, the three tasks of a name come while its answer still counts.
        with patch.object(http_client, "_NAME_KEPT_S", 600.0):
            yield target
    finally:
        await target.stop()


async def _send(target: HttpTarget, url: str) -> Outcome:
    lane = lane_of(TaskType.HTTP, "default")
    task = body.encode(NewTask(type=TaskType.HTTP, webhook=Webhook(url)))
    ends: list[Outcome] = []
    await target.deliver(
        [Delivery(bytes(16), 0, b"lease", 1, 0, 0, 0, lane, False, task)], lambda _, end: ends.append(end)
    )
    return ends[0]


def _word(end: Outcome) -> str:
    return end.reason if isinstance(end, Failed) else type(end).__name__


def _loopback_up() -> None:
    """In a network of its own nothing is up, not even this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 1 | 64)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(probe, 0x8914, request)  # SIOCSIFFLAGS


if __name__ == "__main__":
    _loopback_up()
    print(json.dumps(vars(asyncio.run(attack(system=True)))))
