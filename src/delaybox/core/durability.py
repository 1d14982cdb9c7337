"""What must have happened to a write before its caller is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class DurabilityMode(StrEnum):
    """``FAST``: the server has it. ``DURABLE``: it is on the server's disk too. ``STRICT``: so many replicas have it
    too."""

    FAST = "fast"
    DURABLE = "durable"
    STRICT = "strict"


WITHIN_MS: Final = 2_000
"""The longest time for which a write waits to be confirmed: a file that is synced once a second takes up to two."""
MOST_REPLICAS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """``replicas``: how many must have a write in ``strict``. ``within_ms``: a write that is not confirmed by then is
    reported as unconfirmed; at most `WITHIN_MS`."""

    mode: DurabilityMode = DurabilityMode.FAST
    replicas: int = 1
    within_ms: int = WITHIN_MS

    @property
    def waits(self) -> bool:
        """Whether anything is waited for."""
        return self.mode is not DurabilityMode.FAST


FAST: Final = Durability()
