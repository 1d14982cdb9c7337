"""Moments as calls return them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ms: int) -> datetime:
    """A Unix time in ms as an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)
