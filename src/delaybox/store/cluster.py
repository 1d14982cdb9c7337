"""A Redis or Valkey Cluster: one client for each primary, and each command on its way to the primary of its key's slot.

The map of slots is read from the cluster once a second, more often while something is wrong, and corrected by every
redirection. Where a server does not answer, or a slot is on its way to another server, commands for it are not sent at
all until a probe got through: so they cost no time-out, and commands for the other servers do not wait for them.
Replicas are never asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.asyncio_end import end
from delaybox.store.connect import make_client
from delaybox.store.durability_waits import Confirmation
from delaybox.store.primaries import PROBE_S, Link, Primary, ask_any, probed, read_slots
from delaybox.store.roundtrips import NotSent
from delaybox.store.slots import SLOTS, Address, SlotRange, is_script, key_of, slot_of, uncovered

log = logging.getLogger("delaybox.store")

_LOOK_S = 1.0
"""How often the map of slots is read."""
_LOOK_SOON_S = 0.1
"""The same while a server does not answer, or a slot has none."""
_PROBES_S = (0.0, 0.02, 0.05, 0.1)
"""Pauses before the probes of a server or slot; the last one goes on."""
_HOPS = 5
"""Most redirections that one command follows."""
_TRY_AGAIN_S = 0.02
_TOGETHER_S = 2.0
"""How long a transaction waits for its slot to have arrived."""
_LEAVE_S = 0.25
"""What is under way at a server that has lost all of its slots may still be answered for this long."""
_NOT_NOW = (ClusterDownError, BusyLoadingError)


class ServerCluster:
    """The primaries of one cluster. Made by `found`."""

    def __init__(self, settings: ServerSettings, *, timeout_s: float, max_connections: int) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._links: dict[Address, Link] = {}
        self._by_slot: list[Link | None] = [None] * SLOTS
        self._epochs = [0] * SLOTS
        self._blocked: set[int] = set()
        self._followers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._turn = 0
        self._shards = 0
        self._taken: Sequence[SlotRange] = ()
        self._closed = False

    @classmethod
    async def found(
        cls, first: Redis, settings: ServerSettings, *, timeout_s: float, max_connections: int
    ) -> ServerCluster | None:
        """The cluster that ``first`` is a part of; None: a server of its own, or an ACL hides it.

        The servers in ``settings.more`` are asked again when none answers that the cluster named: all may have other
        addresses by then. RedisError or OSError when it does not answer.
        """
        ranges = await read_slots(roundtrips.of(first).send, (settings.host, settings.port))
        if ranges is None:
            return None
        cluster = cls(settings, timeout_s=timeout_s, max_connections=max_connections)
        cluster._take(ranges)
        cluster._spawn(cluster._watch())
        return cluster

    async def close(self) -> None:
        """Closes all connections. Twice is harmless."""
        self._closed = True
        for task in list(self._tasks):
            await end(task)
        for link in self._links.values():
            await link.client.aclose()

    # -- which server -------------------------------------------------------------------------------------------

    def follow(self, follower: Callable[[], None]) -> None:
        """Calls ``follower`` whenever slots have moved to another server."""
        self._followers.append(follower)

    def unfollow(self, follower: Callable[[], None]) -> None:
        """Calls it no more. Twice is harmless."""
        with contextlib.suppress(ValueError):
            self._followers.remove(follower)

    def look_soon(self) -> None:
        """The map of slots may be wrong: reads it again."""
        self._hurry.set()

    def link_of(self, key: str | bytes) -> Link | None:
        """The primary that has the key's slot; None: nobody has it now."""
        return self._by_slot[slot_of(key)]

    def shard_of(self, key: str | bytes) -> int:
        """The number of the shard that has the key's slot. After a fail-over the new primary has the number of the old
        one. A slot that nobody has counts to shard 0."""
        link = self._by_slot[slot_of(key)]
        return 0 if link is None else link.shard

    def reachable(self, key: str | bytes) -> bool:
        """Whether commands for this key would be sent now."""
        slot = slot_of(key)
        link = self._by_slot[slot]
        return link is not None and not link.away and slot not in self._blocked

    @property
    def links(self) -> list[Link]:
        """The links to primaries that have slots."""
        return [link for link in self._links.values() if link.slots]

    def primaries(self) -> list[Primary]:
        """The primaries, by address."""
        found = [Primary(link.address, link.shard, link.slots, link.replicas, link.away) for link in self.links]
        return sorted(found, key=lambda one: one.address)

    def uncovered(self) -> list[tuple[int, int]]:
        """Ranges of slots that no primary has."""
        have = [SlotRange(i, i, link.address, "", 0, 0) for i, link in enumerate(self._by_slot) if link is not None]
        return uncovered(have)

    def any_link(self) -> Link:
        """A primary for what needs no key, each in turn. NotSent when none answers."""
        answering = [link for link in self.links if not link.away]
        if not answering:
            raise NotSent("no server of the cluster answers")
        self._turn += 1
        return answering[self._turn % len(answering)]

    # -- commands -----------------------------------------------------------------------------------------------

    async def send(self, commands: Sequence[tuple[Any, ...]], confirmation: Confirmation | None = None) -> list[Any]:
        """As `Servers.send`, each command to its key's server, all servers at once; what went wrong stands in the
        reply's place. A command without a key goes where the next one goes that has one. ``confirmation``: of what is
        carried out at each server."""
        replies: list[Any] = [None] * len(commands)
        groups: dict[Link, list[int]] = {}
        without: list[int] = []
        last: Link | None = None
        for i, command in enumerate(commands):
            key = key_of(command)
            if key is None:
                without.append(i)
                continue
            slot = slot_of(key)
            link = self._by_slot[slot]
            if link is None or link.away or slot in self._blocked:
                replies[i] = self._not_sent(link)
                continue
            last = link
            group = groups.setdefault(link, [])
            if without:
                group += without
                without = []
            group.append(i)
        if without:
            try:
                groups.setdefault(last or self.any_link(), []).extend(without)
            except NotSent as error:
                for i in without:
                    replies[i] = error
        if len(groups) == 1:
            ((link, where),) = groups.items()
            await self._fill(link, where, commands, replies, confirmation)
        elif groups:
            await asyncio.gather(
                *(self._fill(link, where, commands, replies, confirmation) for link, where in groups.items())
            )
        if any(isinstance(reply, ResponseError) for reply in replies):
            await self._redirected(commands, replies, confirmation)
        return replies

    async def together(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Commands between MULTI and EXEC, for keys of one slot; the replies to all of them, MULTI's first.

        RedisError or OSError when it failed.
        """
        key = next(key for command in commands if (key := key_of(command)) is not None)
        block = [("MULTI",), *commands, ("EXEC",)]
        give_up = asyncio.get_running_loop().time() + _TOGETHER_S
        while True:
            link = self.link_of(key)
            replies = await self._at(link, block) if link is not None and not link.away else [self._not_sent(link)]
            error = next((reply for reply in replies if isinstance(reply, BaseException)), None)
            if isinstance(error, MovedError):
                self._moved(slot_of(key), error)
            elif not isinstance(error, AskError | TryAgainError | NotSent | ClusterDownError):
                if error is not None:
                    raise error
                return replies
            if asyncio.get_running_loop().time() > give_up:
                assert error is not None
                raise error
            await asyncio.sleep(_TRY_AGAIN_S)

    async def keys_like(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """See `Servers.keys_like`: over all primaries, one after another. RedisError or OSError."""
        for link in self.links:
            cursor: bytes | int = 0
            while True:
                (reply,) = await self._at(link, [("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
                if isinstance(reply, BaseException):
                    raise reply
                cursor, found = reply
                yield found
                if int(cursor) == 0:
                    break

    async def at_each(self, *command: Any) -> list[Any]:
        """The reply of each primary, or the error in its place."""
        replies = await asyncio.gather(*(self._at(link, [command]) for link in self.links))
        return [reply for (reply,) in replies]

    async def _fill(
        self,
        link: Link,
        where: list[int],
        commands: Sequence[Any],
        replies: list[Any],
        confirmation: Confirmation | None = None,
    ) -> None:
        sent = commands if len(where) == len(commands) else [commands[i] for i in where]
        for i, reply in zip(where, await self._at(link, sent, confirmation), strict=True):
            replies[i] = reply

    async def _at(
        self, link: Link, commands: Sequence[tuple[Any, ...]], confirmation: Confirmation | None = None
    ) -> list[Any]:
        try:
            if confirmation is not None:
                return await confirmation.send(link.send, commands)
            return await link.send(commands)
        except (RedisError, OSError) as error:
            self._lost(link, next((key for command in commands if (key := key_of(command)) is not None), None))
            return [error] * len(commands)

    async def _redirected(
        self, commands: Sequence[tuple[Any, ...]], replies: list[Any], confirmation: Confirmation | None = None
    ) -> None:
        """Sends again what is at another server by now, and leaves in the reply's place what is nowhere at the
        moment."""
        for hop in range(_HOPS):
            groups: dict[Link, list[int]] = {}
            asking: dict[Link, list[int]] = {}
            for i, reply in enumerate(replies):
                if not isinstance(reply, ResponseError):
                    continue
                key = key_of(commands[i])
                if key is None:
                    continue
                slot = slot_of(key)
                if isinstance(reply, MovedError):
                    groups.setdefault(self._moved(slot, reply), []).append(i)
                elif isinstance(reply, AskError) and is_script(commands[i]):
                    # The other server has a part of the slot's keys, and a script there would not see the others.
                    self._block(slot, key)
                    replies[i] = NotSent("a part of the store moves to another server at the moment")
                elif isinstance(reply, AskError):
                    asking.setdefault(self._link(reply.node_addr), []).append(i)
                elif isinstance(reply, TryAgainError) and not is_script(commands[i]):
                    # Keys of one command lie at two servers while their slot moves.
                    if (link := self._by_slot[slot]) is not None:
                        groups.setdefault(link, []).append(i)
                elif isinstance(reply, _NOT_NOW) or str(reply).startswith("LOADING"):
                    link = self._by_slot[slot]
                    if link is not None:
                        self._lost(link, key)
                    replies[i] = self._not_sent(link)
            if not groups and not asking:
                return
            if hop > 1:
                await asyncio.sleep(_TRY_AGAIN_S * hop)
            for link, where in groups.items():
                await self._fill(link, where, commands, replies, confirmation)
            for link, where in asking.items():
                got = await self._at(link, [part for i in where for part in (("ASKING",), commands[i])])
                for i, reply in zip(where, got[1::2], strict=True):
                    replies[i] = reply

    @staticmethod
    def _not_sent(link: Link | None) -> NotSent:
        if link is None:
            return NotSent("no server of the cluster has this part of the store at the moment; try again shortly")
        if link.away:
            return NotSent(f"the server {link} does not answer, and none has taken its place yet; try again shortly")
        return NotSent("a part of the store moves to another server at the moment; try again shortly")

    # -- what is where ------------------------------------------------------------------------------------------

    def _link(self, address: Address, shard: int | None = None) -> Link:
        link = self._links.get(address)
        if link is None:
            there = replace(self._settings, host=address[0], port=address[1], more=())
            client = make_client(there, timeout_s=self._timeout_s, max_connections=self._max_connections)
            if shard is None:
                shard, self._shards = self._shards, self._shards + 1
            link = self._links[address] = Link(address, client, shard)
        return link

    def _moved(self, slot: int, error: MovedError) -> Link:
        """Takes the word of a server that a slot is at another one."""
        before = self._by_slot[slot]
        host, port = error.node_addr
        if not host and before is not None:
            host = before.address[0]
        link = self._links.get((host, port))
        if link is None:
            # As after a fail-over; where it is another one, the map of slots says so in a moment.
            link = self._link((host, port), None if before is None else before.shard)
            link.heir_of = before
        if link is not before:
            self._taken = ()
            self._by_slot[slot] = link
            link.slots += 1
            if before is not None:
                before.slots -= 1
            self._hurry.set()
            self._tell()
        return link

    def _take(self, ranges: Sequence[SlotRange]) -> None:
        """Takes a map that a server answered. A slot that another server took over in a newer epoch stays there: a
        primary that was cut off does not know that it is none any more."""
        if ranges == self._taken:
            return
        self._taken = ranges
        changed = False
        have = {link for link in self._links.values() if link.slots}
        for one in ranges:
            fresh = any(
                (at := self._by_slot[slot]) is None or at.address != one.primary
                for slot in range(one.first, one.last + 1)
                if one.epoch >= self._epochs[slot]
            )
            if not fresh:
                if (known := self._links.get(one.primary)) is not None:
                    known.replicas = one.replicas
                continue
            link = self._links.get(one.primary) or self._link(one.primary, self._heir_of(one, ranges))
            link.replicas = one.replicas
            for slot in range(one.first, one.last + 1):
                if one.epoch >= self._epochs[slot]:
                    self._epochs[slot] = one.epoch
                    self._by_slot[slot] = link
            changed = True
        if changed:
            for link in self._links.values():
                link.slots = 0
            for at in self._by_slot:
                if at is not None:
                    at.slots += 1
            for link in have:
                if not link.slots:
                    log.warning("the server %s has no part of the store any more", link)
                    self._spawn(self._leave(link))
        for link in self._links.values():
            if link.slots and link.heir_of is not None:
                if link.heir_of.slots:
                    link.shard, self._shards, changed = self._shards, self._shards + 1, True
                link.heir_of = None
        if changed:
            self._tell()

    def _heir_of(self, one: SlotRange, ranges: Sequence[SlotRange]) -> int | None:
        """The number of the shard whose primary is replaced by a new one; None: the shard is new."""
        before = self._by_slot[one.first]
        if before is None or any(other.primary == before.address for other in ranges):
            return None
        return before.shard

    def _tell(self) -> None:
        for follower in list(self._followers):
            follower()

    async def _leave(self, link: Link) -> None:
        """Closes the connections to a server that is no primary any more. What waits for its answers gets an error, and
        is sent to the new one."""
        await asyncio.sleep(_LEAVE_S)
        if not link.slots:
            # It may have come and gone twice, and be back as another link by now.
            if self._links.get(link.address) is link:
                del self._links[link.address]
            await link.client.connection_pool.disconnect(inuse_connections=True)

    # -- what is wrong ------------------------------------------------------------------------------------------

    def _lost(self, link: Link, key: str | bytes | None) -> None:
        """A server did not answer, or cannot serve now."""
        if link.away or self._closed:
            return
        link.away = True
        self._hurry.set()
        self._spawn(self._mend(link, key))

    async def _mend(self, link: Link, key: str | bytes | None) -> None:
        tries = 0
        while link.slots and not self._closed:
            await asyncio.sleep(_PROBES_S[min(tries, len(_PROBES_S) - 1)])
            tries += 1
            if tries == len(_PROBES_S) and link.slots:
                log.warning("the server %s does not answer; the parts of the store at other servers go on", link)
            reply = await probed(link, key)
            # A redirection is an answer as well: the map of slots is wrong, and not the server.
            if not isinstance(reply, BaseException) or (
                isinstance(reply, ResponseError)
                and not isinstance(reply, _NOT_NOW)
                and not str(reply).startswith("LOADING")
            ):
                break
        link.away = False
        if tries >= len(_PROBES_S) and link.slots:
            log.warning("the server %s answers again", link)
        self._tell()

    def _block(self, slot: int, key: str | bytes) -> None:
        if slot not in self._blocked and not self._closed:
            self._blocked.add(slot)
            self._spawn(self._unblock(slot, key))

    async def _unblock(self, slot: int, key: str | bytes) -> None:
        """Waits until scripts can run in a slot again that was on its way to another server."""
        tries = 0
        while not self._closed:
            tries += 1
            await asyncio.sleep(_PROBES_S[min(tries, len(_PROBES_S) - 1)])
            link = self._by_slot[slot]
            if link is None or link.away:
                continue
            reply = await probed(link, key)
            if isinstance(reply, MovedError):
                self._moved(slot, reply)
            elif not isinstance(reply, AskError | TryAgainError | ClusterDownError | OSError) and not (
                isinstance(reply, RedisError) and not isinstance(reply, ResponseError)
            ):
                break
        self._blocked.discard(slot)
        self._tell()

    async def _watch(self) -> None:
        """Reads the map of slots again and again."""
        while True:
            wrong = None in self._by_slot or any(link.away for link in self.links)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _LOOK_SOON_S if wrong else _LOOK_S)
            self._hurry.clear()
            await self._look()
            # So that many errors at once do not make many looks.
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _look(self) -> None:
        answering = [link for link in self.links if not link.away]
        if not answering:
            if ranges := await ask_any(self._settings.more, self._settings):
                self._take(ranges)
                return
            answering = list(self._links.values())
        self._turn += 1
        for at in range(len(answering)):
            link = answering[(self._turn + at) % len(answering)]
            try:
                async with asyncio.timeout(PROBE_S):
                    ranges = await read_slots(link.send, link.address)
            except (RedisError, OSError) as error:
                log.debug("no map of slots from %s: %s", link, error)
                continue
            if ranges:
                self._take(ranges)
                return

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name="delaybox-cluster")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
