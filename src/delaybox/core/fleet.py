"""Decides whether most holders of leases went away at once, because then the tasks that they held are not to blame.
Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HELPER = ".workers"
"""What a node's process that serves workers appends to the node's id, for a heartbeat of its own."""

LEAST = 3
"""Least number of holders. Fewer that go away together may be chance, or the work of one task."""
_QUIET_MS = 2_500
"""Nodes beat once a second: two beats were missed."""


def holders(beats: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(started ms, last seen ms) of every node. A node and the engine beside its workers (``<id>.workers``) are one."""
    found: dict[str, tuple[int, int]] = {}
    for name, facts in beats.items():
        started, seen = facts.get("started_ms", 0), facts.get("seen_ms", 0)
        if not isinstance(started, int) or not isinstance(seen, int):
            continue
        node = name.removesuffix(HELPER)
        first, last = found.get(node, (started, seen))
        found[node] = (min(first, started), max(last, seen))
    return list(found.values())


def most_left(lives: Sequence[tuple[int, int]], now_ms: int, lease_ms: int, *, quiet_ms: int = _QUIET_MS) -> bool:
    """Whether at least three, and more than half of all that lived then, went away within one lease, not long ago.

    ``lives``: (began ms, last seen ms); any unit will do if all times share it. A holder that has not been seen for
    ``quiet_ms`` went away when it was last seen. Its tasks are judged when the lease is over and a grace has passed, so
    "not long ago" means four leases.
    """
    gone = sorted(seen for _, seen in lives if now_ms - quiet_ms > seen >= now_ms - 4 * lease_ms - quiet_ms)
    for first in range(len(gone)):
        together = [seen for seen in gone[first:] if seen <= gone[first] + lease_ms]
        # Holders that began only afterwards, in the place of those that went, count on neither side.
        alive = sum(began < together[-1] and seen > together[-1] for began, seen in lives)
        if len(together) >= LEAST and len(together) > alive:
            return True
    return False
