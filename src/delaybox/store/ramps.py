"""What waited during a pause of a queue: how much of it is left, and until when it has begun at its resume rate.

Read with plain commands where a pause ends, and again where a ramp should: what could not begin in its time, because
nobody was there to take it, makes the ramp longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from delaybox.core.lane import queue_of_lane
from delaybox.core.queue import DEFAULT_SLACK, NO_RULES, OTHERS, QueueRules, Ramp, Slack
from delaybox.core.task import DEFAULT_QUEUE
from delaybox.store import keys
from delaybox.store.record import of_hint
from delaybox.store.servers import Command
from delaybox.store.store import Store

_LANES = 2_000
"""Lanes of each kind, and due tasks of each near index, that are looked at in one partition."""
_AT_ONCE = 1_000


def every_lane(_: bytes) -> bool:
    """That tasks of all lanes make a ramp longer."""
    return True


async def ramp(
    store: Store,
    stored: Mapping[str, QueueRules],
    queue: str,
    own: QueueRules,
    since_ms: int,
    now_ms: int,
    counts: Callable[[bytes], bool] = every_lane,
) -> Ramp | None:
    """The ramp of a queue whose pause ended at ``since_ms``; None where nothing of that time is left.

    ``stored``: the rules of all queues; ``own``: those that this one has from now on. With `OTHERS` it is that of all
    queues without a pause rule of their own: as long as that of the queue that needs the longest. ``counts``: whether
    tasks of a lane make it longer. StoreUnavailable.
    """
    others = own if queue == OTHERS else stored.get(OTHERS, NO_RULES)

    def effect(name: str) -> QueueRules:
        return (own if name == queue else stored.get(name, NO_RULES)).over(others)

    def meant(lane: bytes) -> bool:
        name = _queue(lane)
        return (stored.get(name, NO_RULES).paused is None if queue == OTHERS else name == queue) and counts(lane)

    spans = [0]
    for name, count in (await _left(store, meant, effect, since_ms)).items():
        pace = replace(effect(name), ramp=Ramp(since_ms, since_ms)).pace
        if pace is not None:
            spans.append(math.ceil(count * pace.interval_ms / pace.count))
    return Ramp(since_ms, now_ms + max(spans)) if max(spans) else None


async def _left(
    store: Store, meant: Callable[[bytes], bool], effect: Callable[[str], QueueRules], since_ms: int
) -> Counter[str]:
    """By queue, tasks that were due then and wait still: by their virtual deadlines, so some that became due within
    the queue's longest slack count too."""
    asked: list[Command] = []
    for tag in store.tags:
        asked += [("ZRANGE", near, "-inf", since_ms, "BYSCORE", "LIMIT", 0, _LANES) for near in keys.nears(tag)]
        asked += [("ZRANGE", active, 0, _LANES - 1) for active, _ in keys.actives(tag)]
        asked += [("ZRANGE", key, 0, _LANES - 1) for key in (keys.parked(tag), keys.limited(tag), keys.apart(tag))]
    replies = iter(await store.servers.ask_many(asked))
    left: Counter[str] = Counter()
    counts: dict[str | bytes, tuple[str, int]] = {}

    def add(key: str | bytes, lane: bytes) -> None:
        if meant(lane):
            name = _queue(lane)
            counts[key] = name, since_ms + _longest(effect(name).slack or DEFAULT_SLACK)

    for tag in store.tags:
        for _ in keys.nears(tag):
            lanes = (of_hint(hint)[1] for hint in next(replies))
            left.update(_queue(lane) for lane in lanes if meant(lane))
        for _, critical in keys.actives(tag):
            for lane in next(replies):
                add(keys.ready(tag, lane, critical=critical), lane)
        for _ in ("parked", "limited"):
            for lane, critical in map(keys.parked_lane, next(replies)):
                add(keys.ready(tag, lane, critical=critical), lane)
        for member in next(replies):
            add(keys.waits(tag, member), keys.parked_lane(member)[0])
    wanted = list(counts.items())
    for at in range(0, len(wanted), _AT_ONCE):
        some = wanted[at : at + _AT_ONCE]
        found = await store.servers.ask_many([("ZCOUNT", key, "-inf", upto) for key, (_, upto) in some])
        for (_, (name, _)), count in zip(some, found, strict=True):
            left[name] += count
    return left


def _queue(lane: bytes) -> str:
    return queue_of_lane(lane).decode("utf-8", "replace") or DEFAULT_QUEUE


def _longest(slack: Slack) -> int:
    default = DEFAULT_SLACK
    own = ((slack.high_ms, default.high_ms), (slack.normal_ms, default.normal_ms), (slack.low_ms, default.low_ms))
    return max((standard if ms is None else ms) or 0 for ms, standard in own)
