"""How long gRPC calls with one answer took, added to the metrics ten times a second, because a step for each costs
more."""

from __future__ import annotations

import asyncio
from typing import Final

from delaybox import metrics

_EVERY_S: Final = 0.1
_took: dict[str, list[float]] = {}


def one(method: str, seconds: float) -> None:
    """A call ended; it is in the metrics within _EVERY_S."""
    if not _took:
        asyncio.get_running_loop().call_later(_EVERY_S, _add)
    known = _took.get(method)
    if known is None:
        _took[method] = [seconds]
    else:
        known.append(seconds)


def _add() -> None:
    for method, seconds in _took.items():
        metrics.rpcs_took(method, seconds)
    _took.clear()
