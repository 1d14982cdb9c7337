"""Hash slots of a Redis or Valkey Cluster: which slot a key lies in, and which server has which slots."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

SLOTS = 16_384

Address = tuple[str, int]
"""Host and port."""

_SCRIPTS = frozenset({"EVALSHA", "EVAL"})
_NO_KEY = frozenset(
    {
        "TIME",
        "INFO",
        "CONFIG",
        "SCAN",
        "PUBSUB",
        "PUBLISH",
        "COMMAND",
        "SCRIPT",
        "PING",
        "CLUSTER",
        "ROLE",
        "WAIT",
        "WAITAOF",
    }
)


@lru_cache(maxsize=16_384)
def slot_of(key: str | bytes) -> int:
    """The slot of a key: that of what stands between its first { and the next }, if anything does."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return crc_hqx(raw, 0) % SLOTS


def is_script(command: Sequence[Any]) -> bool:
    """Whether a command runs a script."""
    return command[0] in _SCRIPTS


def key_of(command: Sequence[Any]) -> str | bytes | None:
    """The key that decides where a command is sent; None: any server will do."""
    key: str | bytes | None = None
    if command[0] in _SCRIPTS:
        key = command[3]
    elif command[0] not in _NO_KEY and len(command) > 1:
        key = command[1]
    return key


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots ``first`` to ``last``, both included, of one primary. ``epoch``: the higher it is, the newer the claim."""

    first: int
    last: int
    primary: Address
    node_id: str
    epoch: int
    replicas: int


def parse_slots(reply: Sequence[Any], nodes: str, asked: Address) -> list[SlotRange]:
    """Reads the replies to CLUSTER SLOTS and CLUSTER NODES of one server. ``asked``: that server, which may leave out
    its own host. Ranges whose primary has no known address are left out."""
    epochs = _epochs(nodes)
    found: list[SlotRange] = []
    for first, last, primary, *replicas in reply:
        host, port, node_id = _text(primary[0]), int(primary[1]), _text(primary[2])
        if host == "?":
            continue
        address = (host or asked[0], port)
        found.append(SlotRange(int(first), int(last), address, node_id, epochs.get(node_id, 0), len(replicas)))
    return found


def _epochs(nodes: str) -> Mapping[str, int]:
    """Node id -> its configuration epoch."""
    lines = (line.split() for line in nodes.splitlines())
    return {words[0]: int(words[6]) for words in lines if len(words) > 7 and words[6].isdigit()}


def uncovered(ranges: Sequence[SlotRange]) -> list[tuple[int, int]]:
    """The slots that nobody has, as ranges."""
    have = bytearray(SLOTS)
    for one in ranges:
        have[one.first : one.last + 1] = b"\1" * (one.last + 1 - one.first)
    return list(_gaps(have))


def _gaps(have: bytearray) -> Iterator[tuple[int, int]]:
    at = 0
    while (start := have.find(b"\0", at)) >= 0:
        end = have.find(b"\1", start)
        at = len(have) if end < 0 else end
        yield start, at - 1


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
