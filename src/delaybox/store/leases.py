"""The one speller of lease ids; scripts/lib/lease.lua reads the same."""

from __future__ import annotations

import os

_LONGEST_MS = 2**32 - 1


def new_lease(lease_ms: int) -> bytes:
    """An id for a new lease: its length (u32, ms) and 16 random bytes.

    So the length belongs to the lease, and no node judges it by a setting of its own.
    """
    return min(lease_ms, _LONGEST_MS).to_bytes(4, "big") + os.urandom(16)
