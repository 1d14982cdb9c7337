"""What is waited for at the servers that are there, and whether they can keep what the configuration promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.errors import StoreRefused, Unconfirmed
from delaybox.store.durability_waits import Confirmation
from delaybox.store.loader import translate
from delaybox.store.probe import ServerReport
from delaybox.store.servers import Send, Servers

_PATIENCE_S: Final = 5.0
"""So long a replica that is still on its way is waited for."""
_LOOK_AGAIN_S: Final = 0.2
_LEAST_SYNC_S: Final = 0.4


async def confirmed_of(servers: Servers, durability: Durability) -> Send | None:
    """How a process sends its callers' writes so that they are confirmed; None: nothing is waited for.
    StoreUnavailable, StoreRefused."""
    if not durability.waits:
        return None
    if durability.mode is DurabilityMode.STRICT or (await servers.probe()).waitaof:
        return servers.confirmed(Confirmation(durability))
    reports = await servers.reports()
    # With appendfsync always the server syncs before it answers.
    synced = bool(reports) and all(one.fsync == "always" for one in reports)
    return servers.confirmed(Confirmation(durability, waitaof=not synced))


async def check_durability(servers: Servers, tags: Sequence[str], durability: Durability) -> None:
    """Whether the servers can keep this: what they report, and a trial at each primary. ``tags``: those of the
    partitions. StoreRefused, with the mend; StoreUnavailable."""
    send = await confirmed_of(servers, durability)
    if send is None:
        return
    give_up = time.monotonic() + _PATIENCE_S
    while (why := await _refusal(servers, send, tags, durability)) is not None:
        if durability.mode is not DurabilityMode.STRICT or time.monotonic() > give_up:
            raise StoreRefused(f"durability.mode is {durability.mode}, but {why}, or set durability.mode: fast")
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _refusal(servers: Servers, send: Send, tags: Sequence[str], durability: Durability) -> str | None:
    reports = await servers.reports()
    for one in reports:
        if why := unfit(one, durability):
            return f"the server{' ' if one.place else ''}{one.place} {why}"
    trials = {servers.shard_of(tag): ("EVAL", "return 1", 1, tag) for tag in tags}
    failed, _ = await _tried(send, list(trials.values()))
    if failed is None and durability.mode is DurabilityMode.DURABLE:
        return None if all(one.fsync == "always" for one in reports) else await _early(send, list(trials.values()))
    if failed is None:
        return None
    if not isinstance(failed, Unconfirmed):
        raise translate(failed)
    if "unknown command" in failed.why.lower():
        return (
            "the server has no WAITAOF, by which a node waits for its disk: use Redis 7.2 or later, or any Valkey, set "
            "`appendfsync always` on this one"
        )
    mend = "bring its replicas back" if durability.mode is DurabilityMode.STRICT else "look at its disk"
    return f"a trial write was not confirmed ({failed.why}): {mend}"


async def _tried(send: Send, trials: Sequence[tuple[Any, ...]]) -> tuple[BaseException | None, float]:
    """(what went wrong, None when all is confirmed; how long it took)."""
    began = time.monotonic()
    try:
        replies = await send(trials)
    except (RedisError, OSError) as error:
        raise translate(error) from error
    took_s = time.monotonic() - began
    return next((reply for reply in replies if isinstance(reply, BaseException)), None), took_s


async def _early(send: Send, trials: Sequence[tuple[Any, ...]]) -> str | None:
    """Whether a server whose file is synced once a second says that its disk has a write before that can be.

    Redis 7.4.0 and Valkey 9.1.2 do: they answer at the next tick of their clock, a tenth of a second later.
    """
    for trial in trials:
        # Right behind one that the disk has, the next one has to wait for nearly a second.
        for _ in range(2):
            failed, took_s = await _tried(send, [trial])
        if failed is None and took_s < _LEAST_SYNC_S:
            return (
                "the server's WAITAOF answers before its disk has a write (a fault of some versions with appendfsync "
                "everysec, unless CONFIG GET is hidden from this user): `CONFIG SET appendfsync always` on it, and in "
                "its configuration file"
            )
    return None


def unfit(report: ServerReport, durability: Durability) -> str:
    """Why a server cannot keep this, as far as its own report shows, and the mend; '' when nothing shows it."""
    info = report.info
    strict = durability.mode is DurabilityMode.STRICT
    aof = bool(int(info.get("aof_enabled", 0)))
    if info and not aof and not strict:
        return "keeps no append-only file: `CONFIG SET appendonly yes` on it, and in its configuration file"
    if report.fsync == "no" and not strict:
        return (
            "has its append-only file synced when the kernel likes (appendfsync no): `CONFIG SET appendfsync "
            "everysec` on it, or always"
        )
    found = int(info.get("connected_slaves", 0))
    if strict and info and found < durability.replicas:
        return (
            f"has {found or 'no'} replica{'' if found == 1 else 's'}, and durability.replicas asks for "
            f"{durability.replicas}: give it more (`replicaof` on them), lower durability.replicas"
        )
    return ""
