"""How a store is divided, and which partition a task goes to."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from delaybox.core import ids
from delaybox.core.limits import BY_SERVER, CLUSTER_PARTITIONS, DEFAULT_PARTITIONS


@dataclass(frozen=True, slots=True)
class Shape:
    """What is fixed for the life of a store, and its id."""

    store_id: str
    partitions: int
    bucket_ms: int


def chosen(partitions: int, *, cluster: bool) -> int:
    """The number that a new store gets: as it is asked for, or `BY_SERVER`."""
    if partitions != BY_SERVER:
        return partitions
    return CLUSTER_PARTITIONS if cluster else DEFAULT_PARTITIONS


def of_key(key: bytes, partitions: int) -> int:
    """The partition an idempotency key decides. Part of the stored format: never change the hash."""
    return int.from_bytes(blake2b(key, digest_size=4).digest(), "big") & (partitions - 1)


def of_id(task_id: bytes, partitions: int) -> int:
    """The partition that a task's id names. One of another store may name one that is not here: any will do for it."""
    return ids.partition(task_id) % partitions
