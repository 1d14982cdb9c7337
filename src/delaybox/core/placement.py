"""Which member claims WORKER tasks where: for each lane and partition one of the members that serve the lane. Pure.

If all members that serve a lane claimed it in every partition, all of them would ask for one task. So each lane has one
placer in each partition, chosen by rendezvous hashing; members that can run more at once are chosen more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from delaybox.core.ownership import scores


class Server(NamedTuple):
    """A member that workers are connected to. ``places``: how many tasks all of these can run at once."""

    id: str
    places: int
    lanes: frozenset[bytes]


def placed(me: str, servers: Sequence[Server], partitions: int) -> list[frozenset[bytes]]:
    """For each partition the lanes that ``me`` claims there; none if it is not among ``servers``."""
    mine = next((server.lanes for server in servers if server.id == me), frozenset())
    # Most members serve many lanes, and most lanes are served by the same few members.
    together: dict[tuple[Server, ...], list[bytes]] = {}
    known = sorted(servers)
    for lane in mine:
        among = tuple(server for server in known if lane in server.lanes)
        together.setdefault(among, []).append(lane)
    found: list[set[bytes]] = [set() for _ in range(partitions)]
    for among, lanes in together.items():
        table = [scores(server.id, float(max(server.places, 1)), partitions) for server in among]
        own = next(at for at, server in enumerate(among) if server.id == me)
        for p in range(partitions):
            if max((row[p], at) for at, row in enumerate(table))[1] == own:
                found[p].update(lanes)
    return [frozenset(lanes) for lanes in found]
