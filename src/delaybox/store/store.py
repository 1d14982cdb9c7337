"""The store: one typed method for each script. Ids and lease ids are bytes; times are integer ms of Redis's clock."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

from delaybox.core import ids
from delaybox.core.durability import FAST, Durability
from delaybox.core.errors import StoreLost, StoreRefused
from delaybox.core.limits import BY_SERVER, KEY_KEEP_MS, MAX_PARTITIONS
from delaybox.core.partition import Shape, chosen, of_key
from delaybox.store import keys
from delaybox.store.batches import answers, by_bytes, schedule_args
from delaybox.store.durability_check import confirmed_of
from delaybox.store.event_writer import EventWriter
from delaybox.store.identity import open_store
from delaybox.store.loader import REPEATED_WITHIN_MS, Observer, ScriptCall, ScriptRunner
from delaybox.store.presence import OnLost, Presence
from delaybox.store.replies import (
    MAX_ITEMS,
    Batch,
    Claimed,
    ClaimLimits,
    Counts,
    Found,
    Horizon,
    Reaped,
    Stored,
    Verdict,
    read_claim,
)
from delaybox.store.servers import Send, Servers
from delaybox.store.settling import acked, fail_calls, failed, lose_calls, lost, release_calls
from delaybox.store.shards import Shards
from delaybox.store.subscription import Subscribed
from delaybox.store.unforeseen import Unforeseen

MAX_RECORD_BYTES = 256 * 1024
COMMAND_TTL_MS = 2 * REPEATED_WITHIN_MS
DEAD_CAP = 100_000


class Store:
    """A store in a server. Made by `Store.open`."""

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        shape: Shape,
        observe: Observer | None = None,
        on_lost: OnLost = lambda _: None,
        key_keep_ms: int = KEY_KEEP_MS,
        confirmed: Send | None = None,
    ) -> None:
        self.key_keep_ms = key_keep_ms
        """How long idempotency keys outlive their task."""
        self.servers = servers
        """For the modules of `store` that read with plain commands."""
        self.prefix = prefix
        self.partitions = shape.partitions
        self.bucket_ms = shape.bucket_ms
        self.presence = Presence(servers, prefix, shape, on_lost)
        self.runner = ScriptRunner(
            servers.send, observe=observe, gate=self.presence, sharded=servers.sharded, confirmed=confirmed
        )
        self.control_channel = keys.control_channel(prefix)
        self.unforeseen = Unforeseen()
        self.tags = [keys.tag(prefix, p) for p in range(shape.partitions)]
        self.shards = Shards(servers, self.tags)
        self.events = EventWriter(self.runner, servers, self.tags, self.now_ms)
        """What this process adds to the feed of events."""
        own = servers.sharded
        self.ended = [keys.ended_at(tag) if own else keys.ended_channel(prefix) for tag in self.tags]
        """The channel of ended tasks of each partition; of one server all are the same."""
        self.wakes = [keys.wake(tag) for tag in self.tags]
        """The wake channel of each partition."""

    @classmethod
    async def open(
        cls,
        servers: Servers,
        *,
        prefix: str = "delaybox",
        partitions: int = BY_SERVER,
        bucket_ms: int = 60_000,
        expected: str = "",
        observe: Observer | None = None,
        on_lost: OnLost = lambda _: None,
        key_keep_ms: int = KEY_KEEP_MS,
        durability: Durability = FAST,
    ) -> Store:
        """Creates the store or takes the one that is there, whose partitions and bucket width then count.

        ``partitions``: a number, or `BY_SERVER`.
        ``expected``: the id that it must have; no store is created then. ``on_lost``: called after each look, with
        whether the store is gone from its server. StoreRefused for a store of a newer format; StoreLost where the one
        that is expected, or that living nodes work for, is gone; StoreUnavailable when the server does not answer.
        """
        if partitions != BY_SERVER and (partitions & (partitions - 1) or not 1 <= partitions <= MAX_PARTITIONS):
            raise StoreRefused(f"partitions is {partitions}; it must be a power of two from 1 to {MAX_PARTITIONS}")
        await servers.find()
        wanted = Shape(os.urandom(8).hex(), chosen(partitions, cluster=servers.sharded), bucket_ms)
        shape = await open_store(servers, prefix, wanted, expected=expected)
        own: dict[str, Any] = {"key_keep_ms": key_keep_ms, "confirmed": await confirmed_of(servers, durability)}
        return cls(servers, prefix=prefix, shape=shape, observe=observe, on_lost=on_lost, **own)

    @property
    def store_id(self) -> str:
        """The id of the store that this process works for."""
        return self.presence.shape.store_id

    async def close(self) -> None:
        """Closes the connections."""
        await self.servers.close()
        # Imported late, as in `connections`.
        from delaybox import metrics

        metrics.add_all()

    async def prepare(self, *scripts: str) -> None:
        """Has the servers compile scripts that are needed soon. One that does not answer is not waited for again."""
        for name in scripts:
            if not await self.servers.prepare(self.runner.source(name)):
                return

    def subscribe(self, *channels: str) -> Subscribed:
        """A subscription to channels of the store's servers, not opened yet."""
        return self.servers.subscribe(*channels)

    async def hold_role(self, role: str, node_id: str, for_ms: int) -> bool:
        """Takes a role that one node has at a time, or keeps it, for so long; 0 gives it up. Whether the node has it.

        ``role``: one word, which names it in the store.
        """
        return bool(await self.runner.run(ScriptCall("hold", keys.role(self.prefix, role), (node_id, for_ms))))

    # -- scheduling ---------------------------------------------------------------------------------------------

    def partition_of(self, key: bytes) -> int:
        """The partition an idempotency key decides."""
        return of_key(key, self.partitions)

    async def schedule(self, batches: Sequence[Batch]) -> list[list[Stored] | BaseException]:
        """Stores batches in one round trip. Per batch: the answers in order, or the error (whether it was stored is
        unknown)."""
        calls = [
            self.schedule_call(batch, ids.tails(batch.partition, os.urandom(8 * len(batch.drafts))))
            for batch in batches
        ]
        replies = await self.run_new(calls)
        for batch, reply in zip(batches, replies, strict=True):
            if not isinstance(reply, BaseException) and not batch.replace:
                self.shards.observe(batch.partition, reply[0])
                self.unforeseen.stored(batch.drafts, reply[0])
        return [
            reply if isinstance(reply, BaseException) else answers(batch, call.args, reply)
            for batch, call, reply in zip(batches, calls, replies, strict=True)
        ]

    def schedule_call(self, batch: Batch, tails: list[bytes]) -> ScriptCall:
        """One batch's call. ``tails``: the ends of the new ids. Sent again it creates nothing, for it carries an id."""
        head = (self.store_id, os.urandom(16), self.bucket_ms, COMMAND_TTL_MS, self.wakes[batch.partition])
        script = "replace" if batch.replace else "schedule"
        return ScriptCall(script, self.tags[batch.partition], schedule_args(head, batch, tails), batch.extended)

    async def run_new(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Runs scripts that store new tasks, whose first argument is the store's id; per call reply or exception.

        If the server holds another store, `Presence` looks again, and the scripts are sent once more if that store was
        accepted meanwhile.
        """
        replies = await self.runner.run_many(calls)
        refused = [i for i, reply in enumerate(replies) if isinstance(reply, StoreLost)]
        if refused and await self.presence.again(self.runner) is None:
            again = [calls[i]._replace(args=(self.store_id, *calls[i].args[1:])) for i in refused]
            for i, reply in zip(refused, await self.runner.run_many(again), strict=True):
                replies[i] = reply
        return replies

    # -- firing -------------------------------------------------------------------------------------------------

    def claim_call(self, partition: int, lease_id: bytes, limits: ClaimLimits) -> ScriptCall:
        """A claim to send with others in one round trip; read the reply with `read_claim`."""
        args = (
            lease_id, self.bucket_ms, limits.lease_ms, limits.slots, limits.items, MAX_RECORD_BYTES, limits.types,
            limits.channel, limits.stream, limits.poll_ms, self.key_keep_ms, limits.fresh_ms, int(limits.guest),
            limits.looker, limits.plan, limits.names, *limits.lanes,
        )  # fmt: skip
        return ScriptCall("claim", self.tags[partition], args)

    async def claim(self, partition: int, lease_id: bytes, limits: ClaimLimits) -> Claimed:
        """Takes what is due: leased to the caller under ``lease_id``, or fired in place."""
        return read_claim(await self.runner.run(self.claim_call(partition, lease_id, limits)))

    def ack_call(self, partition: int, lease_id: bytes, ids: Sequence[bytes]) -> ScriptCall:
        """Completion of at most MAX_ITEMS tasks of one lease; the reply is for `settling.acked`."""
        args = (lease_id, self.key_keep_ms, self.bucket_ms, self.wakes[partition], *ids)
        return ScriptCall("ack", self.tags[partition], args)

    async def ack(self, partition: int, lease_id: bytes, ids: Sequence[bytes]) -> list[bytes]:
        """Completes tasks of one lease; returns the ids that were not in it (stale)."""
        stale: list[bytes] = []
        for at in range(0, len(ids), MAX_ITEMS):
            call = self.ack_call(partition, lease_id, ids[at : at + MAX_ITEMS])
            stale += acked(await self.runner.run(call))[0]
        return stale

    async def complete(
        self,
        partition: int,
        lease_id: bytes,
        items: Sequence[tuple[bytes, int, bytes]],
        cancelled: Collection[bytes] = (),
    ) -> list[bytes]:
        """Completes tasks and keeps their results (id, how long ms, stored result); returns the stale ids.

        ``cancelled``: ids of tasks that were cancelled while they ran. Their idempotency keys are marked as in
        `cancel`.
        """
        stale: list[bytes] = []
        for group in by_bytes(items, lambda item: len(item[2])):
            stale += acked(await self.runner.run(self.complete_call(partition, lease_id, group, cancelled)))[0]
        return stale

    def complete_call(
        self,
        partition: int,
        lease_id: bytes,
        items: Sequence[tuple[bytes, int, bytes]],
        cancelled: Collection[bytes] = (),
    ) -> ScriptCall:
        """As `complete`, one group of `by_bytes`; the reply is for `settling.acked`."""
        gone = [item[0] for item in items if item[0] in cancelled] if cancelled else []
        args: list[Any] = [lease_id, self.key_keep_ms, self.ended[partition], self.bucket_ms, self.wakes[partition]]
        args += (len(gone), *gone, *chain.from_iterable(items))
        return ScriptCall("complete", self.tags[partition], args, bool(gone))

    async def fail(
        self,
        partition: int,
        lease_id: bytes,
        items: Sequence[Verdict | tuple[bytes, int | None, str]],
        *,
        dead_cap: int = DEAD_CAP,
    ) -> tuple[list[bytes], int]:
        """Reports failures; returns (stale ids, dead letters that the cap dropped)."""
        return failed(await self._replies(fail_calls(self, partition, lease_id, items, dead_cap=dead_cap)))

    async def release(
        self, partition: int, lease_id: bytes, task_ids: Sequence[bytes], *, delay_ms: int = 0, until_ms: int = 0
    ) -> list[bytes]:
        """Hands tasks back, charging nothing; returns the stale ids."""
        calls = release_calls(self, partition, lease_id, task_ids, delay_ms=delay_ms, until_ms=until_ms)
        replies = await self._replies(calls)
        return [task_id for stale in replies for task_id in stale]

    async def lose(
        self,
        partition: int,
        lease_id: bytes,
        task_ids: Sequence[bytes],
        *,
        losses_cap: int,
        dead_cap: int = DEAD_CAP,
        lease_ms: int = 15_000,
        failing: bool = False,
    ) -> tuple[list[bytes], int, int]:
        """Takes tasks back from a doer that went away; (stale ids, dead-lettered, dropped by their cap).

        ``failing``: most doers of the store went away within one lease (`core.membership`).
        """
        calls = lose_calls(
            self,
            partition,
            lease_id,
            task_ids,
            losses_cap=losses_cap,
            dead_cap=dead_cap,
            lease_ms=lease_ms,
            failing=failing,
        )
        return lost(await self._replies(calls))

    async def _replies(self, calls: Sequence[ScriptCall]) -> list[Any]:
        replies = await self.runner.run_many(calls)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    def extend_call(self, partition: int, lease_ids: Sequence[bytes], lease_ms: int) -> ScriptCall:
        """Heartbeat of at most MAX_ITEMS leases; the reply lists those that are gone. ``lease_ms``: for leases whose id
        does not carry their length."""
        return ScriptCall("extend", self.tags[partition], (lease_ms, *lease_ids))

    async def extend(self, partition: int, lease_ids: Sequence[bytes], lease_ms: int) -> list[bytes]:
        """As `extend_call`, any number of leases."""
        missing: list[bytes] = []
        for at in range(0, len(lease_ids), MAX_ITEMS):
            missing += await self.runner.run(self.extend_call(partition, lease_ids[at : at + MAX_ITEMS], lease_ms))
        return missing

    def reap_call(
        self,
        partition: int,
        *,
        lease_ms: int,
        losses_cap: int,
        dead_cap: int = DEAD_CAP,
        every_ms: int = 500,
        failing: bool = False,
    ) -> ScriptCall:
        """A look for expired leases, to send with others in one round trip; the reply is for `Reaped`.

        What they hold is put back, or dead-lettered past the cap of losses. After an outage nothing is reaped for one
        lease. ``every_ms``: how often the caller looks. ``failing``: most holders went away within one lease, so
        dead-lettering is held (`core.membership`).
        """
        args = (
            self.bucket_ms, lease_ms, losses_cap, self.wakes[partition], dead_cap, self.key_keep_ms, every_ms,
            int(failing),
        )  # fmt: skip
        return ScriptCall("reap", self.tags[partition], args)

    async def reap(self, partition: int, **how: Any) -> Reaped:
        """One `reap_call`, which takes the same."""
        return Reaped(*await self.runner.run(self.reap_call(partition, **how)))

    async def expand(self, partition: int, *, lead_ms: int, done: int = -1) -> Horizon:
        """Moves the horizon; ``done`` is the bucket whose indexing just ended."""
        call = ScriptCall("expand", self.tags[partition], (self.bucket_ms, lead_ms, done))
        return Horizon(*await self.runner.run(call))

    async def index(self, partition: int, bucket: int, cursor: bytes, *, count: int = 250) -> tuple[bytes, int, int]:
        """Asserts the hints of one chunk; returns (next cursor, fields seen, quarantined)."""
        call = ScriptCall("index", self.tags[partition], (bucket, cursor, count, self.bucket_ms))
        reply = await self.runner.run(call)
        return reply[0], reply[1], reply[4]

    async def reindex(
        self, partition: int, cursor: bytes, lease_ids: Sequence[bytes], *, count: int = 250
    ) -> tuple[bytes, int, int, int]:
        """Asserts the index of what is leased; (next cursor, entries dropped, added, leases looked at).

        ``cursor``: b"" leaves alone what the index names, and only the leases' tasks are looked at.
        """
        reply = await self.runner.run(ScriptCall("reindex", self.tags[partition], (cursor, count, *lease_ids)))
        return reply[0], reply[1], reply[2], reply[3]

    # -- control ------------------------------------------------------------------------------------------------

    async def cancel(self, task_ids: Sequence[bytes], *, free_key: bool = False, group: str = "") -> list[str]:
        """Per id: cancelled, running, dead, quarantined, newer or unknown. All must be of one partition.

        ``free_key``: their idempotency keys name no task from now on, also of tasks cancelled before.
        ``group``: only those of that group."""
        args = (os.urandom(16), self.bucket_ms, self.key_keep_ms, COMMAND_TTL_MS, int(free_key), group, *task_ids)
        reply = await self.runner.run(ScriptCall("cancel", self.tags[self._partition(task_ids[0])], args))
        return [word.decode() for word in reply]

    async def reschedule(
        self, task_id: bytes, *, due_ms: int | None = None, delay_ms: int | None = None, priority: int | None = None
    ) -> tuple[str, int]:
        """Moves one pending task; ('moved', due) or (why not, 0)."""
        how, value = ("at", due_ms) if due_ms is not None else ("delay", delay_ms)
        if value is None:
            how, value = "keep", 0
        return (await self._move([task_id], how, value, priority))[0]

    async def reschedule_many(self, task_ids: Sequence[bytes], due_ms: int, group: str = "") -> list[tuple[str, int]]:
        """As `reschedule`, of up to MAX_ITEMS ids of one partition; with ``group`` only those of that group."""
        return await self._move(task_ids, "at", due_ms, None, group)

    async def _move(
        self, task_ids: Sequence[bytes], how: str, value: int, priority: int | None, group: str = ""
    ) -> list[tuple[str, int]]:
        p = self._partition(task_ids[0])
        args = (self.bucket_ms, self.wakes[p], how, value, -1 if priority is None else int(priority), group, *task_ids)
        reply = await self.runner.run(ScriptCall("reschedule", self.tags[p], args))
        return [("moved", one) if isinstance(one, int) else (one.decode(), 0) for one in reply]

    async def get(self, task_id: bytes) -> Found:
        """Where one task stands."""
        reply = await self.runner.run(ScriptCall("get", self.tags[self._partition(task_id)], (task_id, self.bucket_ms)))
        if len(reply) == 1:
            return Found(reply[0])
        return Found(reply[0], reply[1].decode(), *reply[2:])

    async def update(self, task_id: bytes, old: bytes, new: bytes, body: bytes) -> tuple[str, int]:
        """Replaces a pending record that still is ``old``; ('moved', due) or (why not, 0). ``body``: lies apart."""
        p = self._partition(task_id)
        reply = await self.runner.run(
            ScriptCall("update", self.tags[p], (task_id, self.bucket_ms, self.wakes[p], old, new, body))
        )
        return reply[0].decode(), reply[1] if len(reply) > 1 else 0

    async def forecast(self, first_bucket: int, past_bucket: int, buckets_a_step: int) -> dict[int, int]:
        """Tasks by step index, all partitions together; steps without tasks are left out."""
        sums: dict[int, int] = {}
        starts = dict.fromkeys(range(self.partitions), first_bucket)
        while starts:
            # A continued call starts on a bucket that need not begin a step, so steps are counted from the first one.
            calls = [
                ScriptCall("forecast", self.tags[p], (first_bucket, past_bucket, buckets_a_step, at))
                for p, at in starts.items()
            ]
            replies = await self.runner.run_many(calls)
            for p, reply in zip(list(starts), replies, strict=True):
                if isinstance(reply, BaseException):
                    raise reply
                for i in range(1, len(reply), 2):
                    sums[reply[i]] = sums.get(reply[i], 0) + reply[i + 1]
                if reply[0] < 0:
                    del starts[p]
                else:
                    starts[p] = reply[0]
        return sums

    async def replay(self, task_ids: Sequence[bytes]) -> list[str]:
        """Per dead letter: replayed, newer or unknown. All must be of one partition."""
        p = self._partition(task_ids[0])
        reply = await self.runner.run(ScriptCall("replay", self.tags[p], (self.bucket_ms, self.wakes[p], *task_ids)))
        return [word.decode() for word in reply]

    async def discard(self, partition: int, task_ids: Sequence[bytes] = (), *, died_before_ms: int = 0) -> int:
        """Deletes dead letters: those named, or the oldest 500 that died before a moment. Returns how many."""
        args = (self.key_keep_ms, died_before_ms, *task_ids)
        deleted: int = await self.runner.run(ScriptCall("discard", self.tags[partition], args))
        return deleted

    async def expire(self, partition: int) -> int:
        """Deletes the first MAX_ITEMS results whose time is over. Returns how many."""
        return int(await self.runner.run(ScriptCall("expire", self.tags[partition], (MAX_ITEMS,))))

    async def counts(self) -> list[Counts]:
        """One entry a partition."""
        replies = await self.runner.run_many([ScriptCall("counts", tag, ()) for tag in self.tags])
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return [Counts(*reply) for reply in replies]

    async def ping(self) -> int:
        """As `look`; StoreLost where the store is not there any more."""
        now = await self.look()
        self.present()
        return now

    def now_ms(self, partition: int = 0) -> int:
        """The time (Unix ms) on the server of a partition, by this machine's clock and how far that was off at the
        last schedule or look: for answers, never for decisions. ``partition``: 0 where a task has none yet."""
        return self.shards.now_ms(partition)

    def present(self) -> None:
        """Raises StoreLost if the last look did not find the store: for those who read without scripts."""
        if self.presence.refusal is not None:
            raise self.presence.refusal

    async def look(self) -> int:
        """Runs one real script; Redis's clock in ms. StoreUnavailable when it does not answer."""
        return self.shards.observe(0, await self.presence.look(self.runner))

    async def glance(self) -> int:
        """As `look`, with plain reads, which cost the server less: for those who run scripts anyway."""
        return self.shards.observe(0, await self.presence.glance())

    async def bodies(self, partition: int, task_ids: Sequence[bytes]) -> list[bytes | None]:
        """Bodies that lie apart, fetched outside the claim; None for one that is gone."""
        tag = self.tags[partition]
        reply: list[bytes | None] = await self.servers.ask("MGET", *[keys.body(tag, i) for i in task_ids])
        return reply

    def _partition(self, task_id: bytes) -> int:
        p = ids.partition(task_id)
        if p >= self.partitions:
            # An id of another store: no key of ours can hold it, partition 0 will answer "unknown".
            return 0
        return p


__all__ = [
    "MAX_ITEMS",
    "Batch",
    "ClaimLimits",
    "Claimed",
    "Counts",
    "Found",
    "Horizon",
    "Reaped",
    "Store",
    "Stored",
    "Verdict",
    "read_claim",
]
