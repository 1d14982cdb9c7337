"""Which partition a task goes to."""

from __future__ import annotations

from hashlib import blake2b


def of_key(key: bytes, partitions: int) -> int:
    """The partition an idempotency key decides. Part of the stored format: never change the hash."""
    return int.from_bytes(blake2b(key, digest_size=4).digest(), "big") & (partitions - 1)
