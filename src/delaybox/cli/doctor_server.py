"""What `delaybox doctor` finds at the Redis or Valkey that this machine's configuration reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from delaybox.cli.findings import SKEW_MS, Finding
from delaybox.core.errors import ConfigError, DelayBoxError, StoreUnavailable
from delaybox.core.limits import MAX_PAYLOAD_BYTES
from delaybox.store.apart import Apart
from delaybox.store.durability_check import unfit
from delaybox.store.writable import SERVER_PATIENCE_S, writable

if TYPE_CHECKING:
    from delaybox.config import Config
    from delaybox.core.durability import Durability
    from delaybox.store.primaries import Primary
    from delaybox.store.probe import ServerReport
    from delaybox.store.servers import Servers


def at_server(load: Callable[[], Config], nodes: Collection[str] = ()) -> list[Finding]:
    """What is found at the server. ``nodes``: ids of the living nodes that the node named, which must work for it."""
    try:
        return asyncio.run(_asked(load(), nodes))
    except ConfigError as error:
        return [Finding("config", "problem", str(error), "`delaybox config check` shows every mistake")]
    except DelayBoxError as error:
        text, _, mend = str(error).partition("; " if "; " in str(error) else ". ")
        from delaybox.cli.server import NoServerHere

        # Where nodes live they have another server: each says itself when its store does not answer.
        if isinstance(error, NoServerHere) and (nodes or text.startswith("no node has run on")):
            return [
                Finding(
                    "server",
                    "skipped",
                    "this machine's configuration reaches no Redis or Valkey",
                    "on the node's machine, or with its --config, --redis or --data-dir, more is checked",
                )
            ]
        return [Finding("server", "problem", text, mend or _mend(error))]


def _mend(error: DelayBoxError) -> str:
    if isinstance(error, StoreUnavailable):
        return "start that server, or correct its address"
    return "docs/operations.md says what a server of yours needs"


async def _asked(config: Config, nodes: Collection[str]) -> list[Finding]:
    from delaybox.cli.server import running_server

    async with running_server(config) as (servers, place):
        features = await servers.probe()  # refuses another policy, a replica, a server that runs no scripts
        found = [
            Finding("server", "ok", f"{features.kind} {features.version} at {place}, scripts run"),
            Finding("policy", "ok", "maxmemory-policy noeviction: no task is thrown away"),
        ]
        reports = await servers.reports()
        if servers.primaries():
            found += primaries(servers.primaries(), reports)
        for one in reports:
            aof = bool(int(one.info.get("aof_enabled", 0))) if one.info else features.aof
            at = [*persistence(aof, one.info, one.fsync), *replication(one, config.durability.rules())]
            at += [memory(one.info), *buffers(one.uncounted_from), server_clock(one.clock_offset_ms)]
            found += [replace(finding, says=f"{one.place}: {finding.says}") if one.place else finding for finding in at]
        found += await _opened(servers, config.storage.prefix, nodes)
    return found


def primaries(known: Sequence[Primary], reports: Sequence[ServerReport]) -> list[Finding]:
    """The servers of a cluster that have a part of the store."""
    found: list[Finding] = []
    for one in known:
        place = f"{one.address[0]}:{one.address[1]}"
        text = f"{place}: {one.slots} slots, {one.replicas} replica{'' if one.replicas == 1 else 's'}"
        if one.away:
            mend = "bring it back, or promote its replica: until then its part of the store is away"
            found.append(Finding("primary", "problem", f"{text}, does not answer", mend))
        elif not one.replicas:
            mend = "give it a replica: without one its part of the store is away for as long as it is"
            found.append(Finding("primary", "warning", text, mend))
        else:
            found.append(Finding("primary", "ok", text))
    if any(one.full_coverage == "yes" for one in reports):
        found.append(
            Finding(
                "cluster",
                "warning",
                "cluster-require-full-coverage is yes: while one primary is away, all others refuse as well",
                "`CONFIG SET cluster-require-full-coverage no` on each server, and in its configuration file",
            )
        )
    return found


def partitions(counts: Sequence[int]) -> Finding:
    """How evenly the store's partitions lie on the primaries of a cluster. ``counts``: partitions of each primary."""
    most, mean = max(counts), sum(counts) / len(counts)
    text = f"{sum(counts)} on {len(counts)} primaries: {', '.join(map(str, counts))}"
    if most <= 1.5 * mean:
        return Finding("partitions", "ok", text)
    return Finding(
        "partitions",
        "warning",
        f"{text}; one primary has {most / mean:.1f} times the mean",
        "move slots between the servers, or make the next store with more partitions (64 are advised for a cluster)",
    )


def persistence(aof: bool, info: Mapping[str, Any], fsync: str) -> list[Finding]:
    """Whether tasks outlive the server."""
    if not aof:
        return [
            Finding(
                "persistence",
                "problem",
                "the server keeps no append-only file: tasks are gone when it stops",
                "`CONFIG SET appendonly yes` on it, and in its configuration file",
            )
        ]
    bad = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if bad:
        return [
            Finding(
                "persistence",
                "problem",
                f"the append-only file cannot be written ({', '.join(bad)})",
                "look at the server's disk (full?) and its log",
            )
        ]
    if fsync == "no":
        return [
            Finding(
                "persistence",
                "warning",
                "append-only file, synced when the kernel likes (appendfsync no)",
                "`CONFIG SET appendfsync everysec`, or always",
            )
        ]
    lost = {"always": "nothing acknowledged is lost", "everysec": "power loss costs the last one to two seconds"}
    text = f"append-only file, appendfsync {fsync}: {lost[fsync]}" if fsync in lost else "append-only file"
    return [Finding("persistence", "ok", text)]


def replication(report: ServerReport, durability: Durability) -> list[Finding]:
    """Whether tasks outlive the server's machine, as far as that is asked for."""
    found: list[Finding] = []
    if durability.waits and (why := unfit(report, durability)):
        says, _, mend = why.partition(": ")
        says = f"durability.mode is {durability.mode}, and it {says}"
        found.append(Finding("durability", "problem", says, f"{mend}, or set durability.mode: fast"))
    count = int(report.info.get("connected_slaves", 0))
    text = f"{count} replica{'' if count == 1 else 's'}"
    if count and report.min_replicas == "0":
        found.append(
            Finding(
                "replicas",
                "warning",
                f"{text}, and min-replicas-to-write is 0: cut off from them it goes on to take tasks, which are lost "
                "when one of them is promoted",
                "`CONFIG SET min-replicas-to-write 1` and `CONFIG SET min-replicas-max-lag 10` on it and on its "
                "replicas, and in their configuration files: it then refuses writes about 10 s after it was cut off",
            )
        )
    elif count:
        found.append(Finding("replicas", "ok", text))
    return found


def memory(info: Mapping[str, Any]) -> Finding:
    """Room for tasks."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    shown = f"{used / 2**20:,.0f} MiB used"
    if not most:
        text = f"{shown}, no maxmemory set"
        there = int(info.get("total_system_memory", 0))
        if not there or used < 0.8 * there:
            return Finding("memory", "ok", text)
        return Finding(
            "memory",
            "problem",
            f"{text}, and its machine has {there / 2**20:,.0f} MiB: the system ends it when that is used up",
            "give it more, and set maxmemory to two thirds: a full server refuses new tasks, and lives",
        )
    share = used / most
    text = f"{shown} of {most / 2**20:,.0f} ({share:.0%})"
    if share < 0.8:
        return Finding("memory", "ok", text)
    return Finding(
        "memory",
        "problem" if share >= 0.98 else "warning",
        text,
        "a full server takes no new tasks (503): raise maxmemory, or shorten what is kept",
    )


def buffers(uncounted_from: str) -> list[Finding]:
    """Whether the server bounds what it holds for a listener that does not read."""
    size = int(uncounted_from) if uncounted_from.isdecimal() else 0
    # 0: it copies them all.
    if not 0 < size <= MAX_PAYLOAD_BYTES:
        return []
    return [
        Finding(
            "buffers",
            "warning",
            f"messages of {size:,} bytes and more are not counted in a listener's output buffer: one that does not "
            "read them fills the server's memory, whatever client-output-buffer-limit says",
            "`CONFIG SET min-string-size-avoid-copy-reply 2147483647` on it, and in its configuration file",
        )
    ]


def server_clock(offset_ms: float) -> Finding:
    """The server's clock, by which tasks are due, against this machine's."""
    if abs(offset_ms) <= SKEW_MS:
        return Finding("server clock", "ok", f"{offset_ms:+.1f} ms against this machine's")
    way = "ahead of" if offset_ms > 0 else "behind"
    return Finding(
        "server clock",
        "warning",
        f"{abs(offset_ms) / 1000:.1f} s {way} this machine's",
        "set both by NTP: tasks fire by the server's clock",
    )


async def _opened(servers: Servers, prefix: str, nodes: Collection[str]) -> list[Finding]:
    from delaybox.store.identity import another, gone, living_shapes, read_meta
    from delaybox.store.nodes import live
    from delaybox.store.store import Store

    known = {shape.store_id for shape in await living_shapes(servers, prefix)}
    meta = await read_meta(servers, prefix)
    if lost := sorted(known - ({meta.shape.store_id, *meta.replaces} if meta else set())):
        error = another(prefix, lost[0], meta.shape) if meta else gone(prefix, lost[0])
        text, _, mend = str(error).partition(". ")
        return [Finding("store", "problem", text, mend)]
    # Opening would create it.
    if meta is None:
        return [
            Finding(
                "store",
                "warning",
                f"there is no store with storage.prefix {prefix!r} on this server",
                "name the node's --config, or start a node once",
            )
        ]
    store = await Store.open(servers, prefix=prefix)
    spread: list[Finding] = []
    if known_primaries := servers.primaries():
        groups = store.shards.group(range(store.partitions))
        spread.append(partitions([len(groups.get(one.shard, ())) for one in known_primaries]))
    if nodes and not {member.parent for member in await live(store)}.intersection(nodes):
        return [
            Finding(
                "store",
                "problem",
                f"the nodes that were asked work for another store than {prefix!r} on this server",
                "name their server with --redis, --data-dir or --config, or their node with --server",
            )
        ]
    sent = time.perf_counter()
    try:
        now_ms, refusing, _ = await writable(store, Apart(lambda: store.shards.of, patience_s=SERVER_PATIENCE_S))
    except DelayBoxError as error:
        text, _, mend = str(error).partition("; ")
        return [Finding("store", "problem", text, mend or _mend(error))]
    took_ms = (time.perf_counter() - sent) * 1000
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    return [
        *spread,
        *(Finding("store", "problem", why, "start that server, or promote its replica") for why in refusing),
        Finding(
            "store",
            "ok",
            f"{prefix!r}, {store.partitions} partitions; a script took {took_ms:.1f} ms, "
            f"the server's time is {at:%H:%M:%S}Z",
        ),
    ]
