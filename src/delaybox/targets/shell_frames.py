"""The messages between a node and a shell slot: datagrams on a SOCK_SEQPACKET pair, one pair for each slot.

Node to slot: `HELLO`, then jobs (head, then payload, in as many datagrams as it takes), and `CANCEL`. Slot to node:
`END` with its head and output; or `LOST`, which the host sends for a slot that died. A slot ignores everything before
`HELLO`, so that it does not run a job that was sent to the slot that died before it, and that counts as lost.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

HELLO = b"H"
JOB = b"J"
MORE = b"P"
CANCEL = b"C"
END = b"E"
LOST = b"L"

DATAGRAM = 128 * 1024
"""Largest datagram, so that one fits at either end; a socket buffer takes half as much again by default."""
_CHUNK = 64 * 1024
_SIZES = struct.Struct("!II")
_encode = json.JSONEncoder(separators=(",", ":")).encode
"""Made once, because json.dumps makes an encoder each time: 15 us instead of 11."""


def job(head: Mapping[str, Any], payload: bytes) -> Iterator[bytes]:
    """The datagrams of one job."""
    raw = _encode(head).encode()
    yield JOB + _SIZES.pack(len(raw), len(payload)) + raw + payload[:_CHUNK]
    for at in range(_CHUNK, len(payload), _CHUNK):
        yield MORE + payload[at : at + _CHUNK]


def job_head(datagram: bytes) -> tuple[dict[str, Any], int, bytes]:
    """From a job's first datagram: its head, the size of the whole payload, and the payload's start."""
    size, total = _SIZES.unpack_from(datagram, 1)
    start = 1 + _SIZES.size
    return json.loads(datagram[start : start + size]), total, datagram[start + size :]


def end(head: Mapping[str, Any], output: bytes) -> bytes:
    """The datagram that reports how a command ended."""
    raw = _encode(head).encode()
    return END + _SIZES.pack(len(raw), len(output)) + raw + output


def read_end(datagram: bytes) -> tuple[dict[str, Any], bytes]:
    """Head and output of an `end` datagram."""
    head, _, output = job_head(datagram)
    return head, output
