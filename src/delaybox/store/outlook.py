"""How many tasks are due when, for a picture of any length, in bounded time.

`Store.forecast` counts every bucket: a year in which each minute holds tasks has 8 million of them over 16 partitions.
Here the buckets of a step are counted by the index of buckets, and the tasks of a few of them stand for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.core.errors import InvalidTask
from delaybox.core.query import ForecastStep
from delaybox.store import keys
from delaybox.store.servers import Command
from delaybox.store.store import Store

MAX_STEPS = 400
_EXACT = 10_000
"""Up to so many buckets all are counted."""
_SAMPLE = 12
"""Buckets of one step whose tasks are counted."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """``estimated``: the counts are about right. Times in ms."""

    step_ms: int
    steps: list[ForecastStep]
    estimated: bool = False


async def outlook(store: Store, first: int, steps: int, size: int) -> Outlook:
    """Tasks due in ``steps`` steps of ``size`` buckets, from the bucket with the number ``first``. StoreUnavailable,
    InvalidTask."""
    if not 1 <= steps <= MAX_STEPS:
        raise InvalidTask("step", f"the picture has {steps} steps, over {MAX_STEPS}; give a longer step")
    width = store.bucket_ms
    past = first + steps * size
    indexes = [keys.buckets(tag) for tag in store.tags]
    in_all = sum(await store.servers.ask_many([("ZCOUNT", index, first, f"({past}") for index in indexes]))
    if in_all <= _EXACT:
        exact = await store.forecast(first, past, size)
        counts = [exact.get(step, 0) for step in range(steps)]
    else:
        counts = await _estimated(store, first, steps, size)
    return Outlook(
        size * width,
        [ForecastStep((first + step * size) * width, count) for step, count in enumerate(counts)],
        in_all > _EXACT,
    )


async def _estimated(store: Store, first: int, steps: int, size: int) -> list[int]:
    asked: list[Command] = []
    for step in range(steps):
        begin = first + step * size
        asked += [("ZCOUNT", keys.buckets(tag), begin, f"({begin + size}") for tag in store.tags]
    found = await store.servers.ask_many(asked)
    wide = len(store.tags)
    held = [found[step * wide : (step + 1) * wide] for step in range(steps)]
    looked: list[tuple[int, str]] = []
    picks: list[Command] = []
    for step, by_partition in enumerate(held):
        begin, in_step = first + step * size, sum(by_partition)
        sample = min(_SAMPLE, in_step)
        for number in range(sample):
            # Spread over the step and over the partitions, because both may be uneven.
            at = number * in_step // sample
            for tag, count in zip(store.tags, by_partition, strict=True):
                if at < count:
                    looked.append((step, tag))
                    picks.append(("ZRANGE", keys.buckets(tag), begin, f"({begin + size}", "BYSCORE", "LIMIT", at, 1))
                    break
                at -= count
    chosen: list[tuple[int, Command]] = []
    for (step, tag), reply in zip(looked, await store.servers.ask_many(picks), strict=True):
        chosen += [(step, ("HLEN", keys.bucket(tag, int(number)))) for number in reply]
    sums, seen = [0] * steps, [0] * steps
    for (step, _), length in zip(chosen, await store.servers.ask_many([c for _, c in chosen]), strict=True):
        sums[step] += length
        seen[step] += 1
    return [round(sum(held[step]) * sums[step] / seen[step]) if seen[step] else 0 for step in range(steps)]
