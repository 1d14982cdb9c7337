"""A DNS server of our own over UDP, whose answers change from one question to the next; and one that asks it."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

from delaybox.core.addresses import Address
from delaybox.targets.http_client import Resolve

_A = 1


class DnsServer(asyncio.DatagramProtocol):
    """``answers``: by name, the addresses of one answer after the other; the last one stays. Other names have none."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: Counter[str] = Counter()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        made = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, ("127.0.0.1", port))
        self._transport: Any = made[0]
        self.port = self._transport.get_extra_info("sockname")[1]

    def stop(self) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        name, at = _name(data, 12)
        (kind,) = struct.unpack(">H", data[at : at + 2])
        found: list[str] = []
        known = name in self.answers
        if known and kind == _A:
            self.asked[name] += 1
            turns = self.answers[name]
            found = turns.pop(0) if len(turns) > 1 else turns[0]
        head = data[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, len(found), 0, 0)
        records = [b"\xc0\x0c" + struct.pack(">HHIH", _A, 1, 0, 4) + IPv4Address(one).packed for one in found]
        self._transport.sendto(head + data[12 : at + 4] + b"".join(records), addr)


def asking(server: DnsServer) -> Resolve:
    """Looks names up at the server, anew each time."""

    async def resolve(host: str) -> Sequence[Address]:
        if host.replace(".", "").isdigit():
            return [ip_address(host)]
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        class Asked(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                answer.set_result(data)

        transport, _ = await loop.create_datagram_endpoint(Asked, remote_addr=("127.0.0.1", server.port))
        try:
            labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
            transport.sendto(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", _A, 1))
            data = await answer
        finally:
            transport.close()
        (count,) = struct.unpack(">H", data[6:8])
        if not count:
            raise OSError(0, "no such name")
        return [IPv4Address(data[len(data) - 16 * n + 12 : len(data) - 16 * n + 16]) for n in range(count, 0, -1)]

    return resolve


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode().lower())
        at += 1 + size
    return ".".join(labels), at + 1
