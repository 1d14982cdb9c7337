"""The input channel: a serialized task published there is scheduled, by one node of the store at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from delaybox import metrics
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.core.task import NewTask, TaskType
from delaybox.processes.waking import rest
from delaybox.service import Service
from delaybox.store import nodes
from delaybox.store.asyncio_end import end
from delaybox.store.store import Store
from delaybox.wire.original import message
from delaybox.wire.original.request import OriginalRules

log = logging.getLogger("delaybox.channel")

ROLE = "intake"
HOLD_MS = 3_000
"""How long the role is held without a renewal. Messages that are published while a dead node still has it are lost."""
KEEP_S = HOLD_MS / 3000
TRY_S = 0.25
_MOST_WAITING = 10_000
_MOST_WAITING_BYTES = 32 << 20
"""With more messages or bytes waiting to be stored no further message is read; those wait at the server."""
_QUIET_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """``types``: letters of the task types that this node serves."""

    channel: str
    node_id: str
    types: str = ""
    max_payload_bytes: int = 1 << 20


class ChannelIntake:
    """Subscribes to the input channel while this node has the role, and stores what is published there.

    Only the holder of the role is subscribed, and it takes nothing once the role may have expired by its own clock, so
    no two nodes ever store one message. Messages that are published while nobody has the role are lost.
    Task types that other live nodes serve are accepted as well.
    """

    def __init__(self, store: Store, settings: ChannelSettings) -> None:
        self._store = store
        self._channel = settings.channel
        self._node_id = settings.node_id
        self._types = settings.types
        self._max_payload_bytes = settings.max_payload_bytes
        self._rules = self._rules_for(settings.types)
        self._service = Service(store, on_scheduled=metrics.scheduled)
        self._until = 0.0
        self._waiting: list[NewTask] = []
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._storing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused = 0
        self._warned_at_ms = -1e9

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run(), name="delaybox-intake")

    async def stop(self) -> None:
        """Stores what was received, then lets another node listen. Twice is harmless."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        if self._storing is not None:
            await asyncio.wait({self._storing}, timeout=5.0)
        if self._until > _now_ms():
            self._until = 0.0
            try:
                await self._hold(0)
            except DelayBoxError as error:
                log.warning("could not give up the role of reading the input channel: %s", error)

    async def _run(self) -> None:
        away = 0
        while True:
            try:
                if await self._keep():
                    await self._listen()
                away = 0
            except DelayBoxError as error:
                away += 1
                if away == 1:
                    log.warning("input channel: %s; trying again", error)
            except Exception:
                log.exception("input channel: unexpected error; going on")
                away += 1
            await asyncio.sleep(TRY_S * min(away + 1, 4))

    async def _keep(self) -> bool:
        sent = _now_ms()
        held = await self._hold(HOLD_MS)
        self._until = sent + HOLD_MS if held else 0.0
        return held

    async def _hold(self, ms: int) -> bool:
        return await self._store.hold_role(ROLE, self._node_id, ms)

    async def _listen(self) -> None:
        """Listens while the role is held."""
        subscription = self._store.subscribe(self._channel)
        keeping: asyncio.Task[None] | None = None
        try:
            await subscription.open()
            keeping = asyncio.create_task(self._keep_on(), name="delaybox-intake-role")
            while True:
                await self._room.wait()
                message = await subscription.next(KEEP_S)
                if _now_ms() >= self._until:
                    # Another node may have received this message.
                    log.warning("channel %s: the role ran out, another node may listen now", self._channel)
                    return
                if message is None:
                    continue
                if message.opened:
                    # Subscribed only now, because an access list may refuse the channel, and the error is handled here.
                    log.info("this node listens on channel %s for tasks", self._channel)
                else:
                    self._receive(message.data)
        finally:
            if keeping is not None:
                await end(keeping)
            await subscription.close()

    async def _keep_on(self) -> None:
        while True:
            try:
                await self._heed_types()
                if not await self._keep():
                    return
            except DelayBoxError:
                # The role runs out by itself if this goes on.
                pass
            await rest(KEEP_S)

    async def _heed_types(self) -> None:
        """A task is accepted where any live node can carry it out, not only this one."""
        letters = set(self._types)
        for member in await nodes.live(self._store):
            letters.update(member.activity.types)
        self._rules = self._rules_for("".join(letters))

    def _rules_for(self, letters: str) -> OriginalRules:
        known = {t.value: t for t in TaskType}
        types = {known[letter] for letter in letters if letter in known}
        return OriginalRules(max_payload_bytes=self._max_payload_bytes, types=frozenset(types | {TaskType.PUB_SUB}))

    def _receive(self, raw: bytes) -> None:
        try:
            task = message.of_message(raw, self._rules)
        except InvalidTask as error:
            self._refuse(1, f"{error.code}, {error.field[:60]}")
            return
        except Exception:
            log.exception("input channel: a defect while reading a message")
            self._refuse(1, "internal")
            return
        self._waiting.append(task)
        self._waiting_bytes += len(raw)
        if len(self._waiting) >= _MOST_WAITING or self._waiting_bytes >= _MOST_WAITING_BYTES:
            self._room.clear()
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_all(), name="delaybox-intake-store")

    async def _store_all(self) -> None:
        while self._waiting:
            tasks, self._waiting = self._waiting, []
            self._waiting_bytes = 0
            self._room.set()
            answers: Sequence[object]
            try:
                answers = await self._service.submit_many(tasks)
            except Exception:
                log.exception("input channel: a defect while storing")
                answers = [None] * len(tasks)
            failed = [answer for answer in answers if isinstance(answer, DelayBoxError) or answer is None]
            metrics.input_messages("accepted", len(tasks) - len(failed))
            if failed:
                self._refuse(len(failed), str(getattr(failed[0], "code", "internal")))
        self._storing = None

    def _refuse(self, count: int, why: str) -> None:
        """Counts refused messages and logs some of them, never with their content."""
        metrics.input_messages("refused", count)
        self._refused += count
        now = _now_ms()
        if now - self._warned_at_ms >= _QUIET_S * 1000:
            log.warning("channel %s: %d messages refused, the last one as %s", self._channel, self._refused, why)
            self._warned_at_ms, self._refused = now, 0


def _now_ms() -> float:
    """This process's monotonic clock in ms."""
    return time.monotonic_ns() / 1e6
