"""Which node the dashboard shows for a partition, and who is silent."""

from __future__ import annotations

from delaybox.api.dashboard.pages.now import _owners
from delaybox.core.membership import Activity, Member, nodes_of
from delaybox.core.partition import Shape

NOW = 1_800_000_000_000


def member(node: str, seen_ms: int, *partitions: int) -> Member:
    activity = Activity(types="p", partitions=partitions, partition_count=len(partitions))
    return Member(
        id=f"{node}.clock1",
        node=node,
        kind="clock",
        roles=("clock",),
        seen_ms=seen_ms,
        activity=activity,
        store=Shape("s", 4, 60_000),
    )


def test_a_partition_is_shown_as_kept_by_who_beat_last() -> None:
    killed, heir = member("z", NOW - 4_000, 0, 1, 2), member("a", NOW - 300, 1, 2, 3)
    busy = member("m", NOW - 1_000)
    for order in ([killed, heir, busy], [busy, heir, killed]):
        found = _owners(nodes_of(order))
        assert [owner for _, _, owner in found["cells"]] == ["z", "a", "a", "a"]
        assert found["silent"] == {"z": 3_700}
