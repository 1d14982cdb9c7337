"""Runs shell tasks that come through Kafka: takes them from the execution topic, as the Go original's workers do.

An offset is committed when every record before it is finished, so what a node was running when it died is run again: at
least once. The store has no record of such a task any more; there it was finished when it was sent to the topic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from delaybox import metrics
from delaybox.api.kafka.topic_command import Commands, Dropped
from delaybox.core.delivery import Delivery, Done, Failed, HandBack, Outcome, Target
from delaybox.core.task import TaskType
from delaybox.processes.logs import of_delivery
from delaybox.targets.kafka_settings import KafkaSettings

log = logging.getLogger("delaybox.kafka")
_LIBRARY_LOG = logging.getLogger("delaybox.kafka.library")
_LIBRARY_LOG.setLevel(logging.CRITICAL)

_POLL_S = 0.2
_QUIET_S = 10.0

Key = tuple[str, int]


class Track:
    """Which offsets of a partition are unfinished; ``next`` is where a new reader would have to begin."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Task[None]] = {}
        self._seen = -1

    def begin(self, offset: int) -> bool:
        """False when it was taken before: the group gave the partition back to us."""
        if offset <= self._seen:
            return False
        self._seen = offset
        return True

    @property
    def next(self) -> int:
        """The first unfinished offset, else the one after the last."""
        return min(self.running, default=self._seen + 1)


class TopicWork:
    """``commands`` decides what is run. ``slots``: how many tasks run at once. ``instance``: see `kafka.instance`."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group: str,
        target: Target,
        commands: Commands,
        *,
        slots: int,
        instance: str = "",
    ) -> None:
        self._topic = topic
        self._target = target
        self._commands = commands
        self._slots = slots
        self._options: dict[str, Any] = {
            "group.id": group,
            # Tasks that were sent before the first worker joined are run too.
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # As the original's workers, which may be in the same group.
            "partition.assignment.strategy": "range,roundrobin",
            "session.timeout.ms": 10_000,
            "queued.max.messages.kbytes": 4_096,
            **({"group.instance.id": f"{instance}-work"} if instance else {}),
            **settings.client(),
        }
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="delaybox-work")
        self._tracks: dict[Key, Track] = {}
        self._committed: dict[Key, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._consumer: Consumer | None = None
        self._polling: asyncio.Task[None] | None = None
        self._paused = False
        self._stopping = False
        self._dropped = 0
        self._warned_at_ms = -1e9

    async def start(self) -> None:
        """Joins the group; the brokers need not be there yet."""
        self._consumer = Consumer(self._options, logger=_LIBRARY_LOG)
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._polling = asyncio.create_task(self._run(), name="delaybox-topic-work")
        log.info("shell tasks are taken from topic %s", self._topic)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Takes nothing more, lets running commands end within the grace, cuts off the rest. Twice is harmless."""
        if self._stopping or self._consumer is None:
            return
        self._stopping = True
        if self._polling is not None:
            await self._polling
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=5.0)
        await self._in_thread(self._leave)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    async def _run(self) -> None:
        while not self._stopping:
            free = self._slots - len(self._running)
            try:
                messages = await self._in_thread(self._poll, free)
            except KafkaException as error:
                log.error("taking shell tasks from %s: %s", self._topic, error)
                await asyncio.sleep(1.0)
                continue
            for message in messages:
                self._take(message)

    def _poll(self, free: int) -> list[Message]:
        assert self._consumer is not None
        self._commit(asynchronous=True)
        full = free <= 0
        if full != self._paused:
            # A consumer that does not poll counts as dead, so it polls with everything paused.
            held = self._consumer.assignment()
            self._consumer.pause(held) if full else self._consumer.resume(held)
            self._paused = full
        return self._consumer.consume(max(free, 1), _POLL_S)

    def _take(self, message: Message) -> None:
        if (error := message.error()) is not None:
            if not error.retriable():
                log.info("taking shell tasks from %s: %s", self._topic, error)
            return
        key = (message.topic() or "", int(message.partition() or 0))
        offset = int(message.offset() or 0)
        track = self._tracks.setdefault(key, Track())
        if not track.begin(offset):
            return
        delivery = self._commands.read(message.topic() or "", message.value() or b"", _pairs(message))
        if delivery is None:
            return  # another type's, or somebody else's message
        if isinstance(delivery, Dropped):
            self._drop(delivery, key[1], offset)
            return
        task = asyncio.create_task(self._work(delivery))
        track.running[offset] = task
        self._running.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            # A command that was cut off is not finished: the next reader of its record runs it again.
            if not task.cancelled():
                track.running.pop(offset, None)

        task.add_done_callback(ended)

    def _drop(self, why: Dropped, partition: int, offset: int) -> None:
        """Counts refused messages and logs some of them, never with their content, which a stranger may have
        written."""
        metrics.topic_work_dropped(why.value)
        self._dropped += 1
        now = self._loop.time()
        if now - self._warned_at_ms >= _QUIET_S:
            log.warning(
                "topic %s: %d shell commands were dropped, the last one (partition %d, offset %d) as %s. "
                "docs/kafka.md says what that means",
                self._topic, self._dropped, partition, offset, why.value,
            )  # fmt: skip
            self._warned_at_ms, self._dropped = now, 0

    async def _work(self, delivery: Delivery) -> None:
        outcomes: list[Outcome] = []

        def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
            outcomes.extend(outcome for _ in deliveries)

        try:
            await self._target.deliver([delivery], report)
        except Exception:
            log.exception("shell task %s: a defect of the target", delivery.id)
        outcome = outcomes[0] if outcomes else Failed("its target said nothing")
        match outcome:
            case Done():
                metrics.fired(TaskType.SHELL_CMD.name, "leased")
            case Failed(reason):
                log.warning("shell task %s failed: %s", delivery.id, reason, extra=of_delivery(delivery))
                metrics.topic_work_failed()
            case HandBack():
                words = "shell task %s cannot be run on this node, and no other gets it from the topic"
                log.error(words, delivery.id, extra=of_delivery(delivery))
                metrics.topic_work_failed()

    def _commit(self, *, asynchronous: bool) -> None:
        assert self._consumer is not None
        now = {key: track.next for key, track in list(self._tracks.items()) if track.next > 0}
        changed = {key: offset for key, offset in now.items() if self._committed.get(key) != offset}
        if changed:
            try:
                tps = [TopicPartition(*key, offset) for key, offset in changed.items()]
                self._consumer.commit(offsets=tps, asynchronous=asynchronous)  # type: ignore[call-overload]
                self._committed.update(changed)
            except KafkaException as error:
                log.info("offsets of %s were not committed: %s", self._topic, error)

    def _on_assign(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        self._paused = False
        consumer.assign(given)
        ours = {(tp.topic, tp.partition) for tp in given}
        self._loop.call_soon_threadsafe(self._cut_off, ours)

    def _on_revoke(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        # Running commands go on: most rebalances give the same partitions back, and then nothing is run twice.
        self._commit(asynchronous=False)
        consumer.unassign()

    def _cut_off(self, ours: set[Key]) -> None:
        """Ends running commands of partitions that another member has now, because that one runs them again."""
        for key in self._tracks.keys() - ours:
            track = self._tracks.pop(key)
            self._committed.pop(key, None)
            if track.running:
                log.warning(
                    "%d commands are ended: partition %d of %s went to another node", len(track.running), key[1], key[0]
                )
            for task in track.running.values():
                task.cancel()

    def _leave(self) -> None:
        assert self._consumer is not None
        self._commit(asynchronous=False)
        self._consumer.close()


def _pairs(message: Message) -> list[tuple[str, bytes | str | None]]:
    headers = message.headers()
    return list(headers.items()) if isinstance(headers, dict) else headers or []
