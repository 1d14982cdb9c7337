"""Task ids: 16 bytes, shown as a UUID version 8 (RFC 9562), that carry the due time and the partition.

Layout: 48 bits due time in Unix ms, 4 bits version (8), 12 bits partition, 2 bits variant, 62 random bits.
Ids sort by due time. The partition in an id is literal and permanent.
"""

from __future__ import annotations

from struct import Struct
from uuid import UUID

from delaybox.core.errors import InvalidTask

ID_BYTES = 16
RELATIVE = 1 << 47
"""When this bit is set in a template's 48 bits, they are a delay, to which the script adds Redis's clock. 10^14 stays
below."""

_LONGEST_UUID = 60
"""Characters: more than any way of writing one has."""

_TAIL = Struct("10s")
# The first of the eight random bytes becomes the variant and keeps six random bits.
_VARIANT = bytes(0x80 | (byte & 0x3F) for byte in range(256))


def tails(partition: int, randomness: bytes) -> list[bytes]:
    """Ten-byte id endings for ``partition``, one for each 8 bytes of ``randomness``, ascending.

    So tasks that are stored together and due at the same moment run in the order in which they were given.
    """
    head = (0x8000 | partition).to_bytes(2, "big")
    words = bytearray(randomness)
    words[::8] = words[::8].translate(_VARIANT)
    count = len(words) // 8
    # All at once: a slice and a sum for each took twice as long.
    raw = bytearray(10 * count)
    raw[::10], raw[1::10] = head[:1] * count, head[1:] * count
    for at in range(8):
        raw[2 + at :: 10] = words[at::8]
    return sorted([tail for (tail,) in _TAIL.iter_unpack(raw)])


def due_ms(task_id: bytes) -> int:
    """The due time the id was made with (Unix ms): it names the home bucket for ever."""
    return int.from_bytes(task_id[:6], "big")


def bucket(task_id: bytes, bucket_ms: int) -> int:
    """The number of the home bucket, where buckets are so wide."""
    return due_ms(task_id) // bucket_ms


def partition(task_id: bytes) -> int:
    """The partition the task lives in."""
    return int.from_bytes(task_id[6:8], "big") & 0x0FFF


def render(task_id: bytes) -> str:
    """The id as callers see it."""
    # With dashes from the beginning four slices are enough; five took a quarter longer.
    h = task_id.hex("-", 2)
    return f"{h[:4]}{h[5:29]}{h[30:34]}{h[35:]}"


def parse(text: str) -> bytes:
    """The 16 bytes of an id in UUID form; refuses what DelayBox cannot have made."""
    try:
        if len(text) > _LONGEST_UUID:
            raise ValueError
        raw = _usual(text) or UUID(text).bytes
    except ValueError:
        raise InvalidTask(
            "id", f"id {text[:_LONGEST_UUID]!r} is not a UUID; use the id that scheduling answered"
        ) from None
    if raw[6] >> 4 != 8:
        raise InvalidTask(
            "id", f"id {text[:_LONGEST_UUID]!r} is not one of DelayBox's (UUID version 8); use the id as answered"
        )
    return raw


def _usual(text: str) -> bytes | None:
    """The 16 bytes of 8-4-4-4-12 hex digits; None for any other spelling."""
    if len(text) != 36 or not text[8] == text[13] == text[18] == text[23] == "-":
        return None
    # fromhex ignores spaces, so there may be fewer bytes.
    raw = bytes.fromhex(text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:])
    return raw if len(raw) == ID_BYTES else None
