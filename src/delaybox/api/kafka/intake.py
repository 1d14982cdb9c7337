"""Reads the scheduler topics and stores what it reads, in the order of each partition.

Polling and storing (`storing`) share the partitions' queues. The number of waiting records is bounded; past the bound
partitions are paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message

from delaybox import failpoints, metrics
from delaybox.api.kafka.cluster import Cluster
from delaybox.api.kafka.dlq import DeadLetters
from delaybox.api.kafka.partitions import Key, Letter, Partition, Piece, Place
from delaybox.api.kafka.reader import RETRY_S, TopicReader
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.api.kafka.storing import Storing
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.service import RecordService
from delaybox.store.kafka import Stream
from delaybox.wire.encoded import encode
from delaybox.wire.kafka_record import of_record, plain

log = logging.getLogger("delaybox.kafka")

POLL_RECORDS = 2_000
POLL_S = 0.1
MOST_RECORDS = 20_000
MOST_BYTES = 32 << 20
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_PATIENCE_S = 1.0
_DRAIN_S = 10.0
_HOUSEKEEPING_S = 1.0
_WATCH_S = 5.0
_ASK_S = 3.0


class KafkaIntake:
    """Runs until `stop`. ``on_troubles`` is called with the reasons why it is not ready, whenever they change."""

    def __init__(
        self,
        settings: IntakeSettings,
        service: RecordService,
        on_troubles: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._on_troubles = on_troubles
        self._rules = settings.rules
        self._limit = settings.payload_limit
        self._pass_through = settings.pass_through
        self._loop = asyncio.get_running_loop()
        self._cluster = Cluster(settings.kafka)
        self._reader = TopicReader(settings, self._cluster, self)
        self._partitions: dict[Key, Partition] = {}
        self._storing = Storing(self._partitions, service, DeadLetters(settings.kafka, self._cluster), self)
        self._again: set[Key] = set()
        self._missed: dict[Key, Place] = {}
        self._polls = 0
        self._records = 0
        self._bytes = 0
        self._paused = False
        self._stopping = asyncio.Event()
        self._settled = asyncio.Condition()
        self._troubles: dict[str, str] = {}
        self._reported: list[str] = []

    async def run(self) -> None:
        """Reads and stores until `stop`, then stores what was read and leaves the group. Raises fatal errors."""
        await self._reader.open()
        storing = asyncio.create_task(self._storing.run(), name="delaybox-kafka-store")
        others = [
            asyncio.create_task(self._keep_house(), name="delaybox-kafka-house"),
            asyncio.create_task(self._watch(), name="delaybox-kafka-watch"),
        ]
        polling = asyncio.create_task(self._poll_all(), name="delaybox-kafka-poll")
        try:
            await asyncio.wait({polling, storing, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in (polling, storing, *others):
                if task.done() and (error := task.exception()) is not None:
                    raise error
        finally:
            self.stop()
            for task in (polling, *others):
                task.cancel()
            await asyncio.wait({polling, *others})
            # Leaving the group revokes the partitions, and that waits until what was read of them is stored.
            await self._reader.close()
            storing.cancel()

    def stop(self) -> None:
        """Ends `run`. Twice is harmless."""
        self._stopping.set()
        self._reader.halt()

    # -- what the group decides: called by the reader's thread, see reader.Owner ---------------------------------------

    async def marks(self, streams: Sequence[Stream]) -> list[int | None]:
        return await self._service.watermarks(streams)

    async def assigned(self, places: Mapping[Key, Place]) -> bool:
        metrics.kafka_rebalanced()
        for key, at in places.items():
            self._partitions[key] = Partition(at, self._polls)
            self._report(key, at)
        if places:
            log.info("reading %s", ", ".join(f"{t} [{n}] from {at.read}" for (t, n), at in sorted(places.items())))
        return self._paused

    async def revoked(self, keys: Sequence[Key], *, lost: bool) -> Mapping[Key, tuple[int, str]]:
        mine = {key: self._partitions[key] for key in keys if key in self._partitions}
        if not lost:
            try:
                async with asyncio.timeout(_DRAIN_S), self._settled:
                    await self._settled.wait_for(lambda: not any(p.queue for p in mine.values()))
            except TimeoutError:
                log.warning(
                    "partitions went to other members before all that was read was stored; they read the rest again"
                )
        offsets: dict[Key, tuple[int, str]] = {}
        for key, part in mine.items():
            self._drop(part)
            del self._partitions[key]
            self._again.discard(key)
            self._clear(f"partition {key}")
            metrics.kafka_lag(*key, 0)
            if not part.stopped and not part.first:
                offsets[key] = (part.position, part.stream.topic_id)
        if mine:
            log.info("gave up %s", ", ".join(f"{t} [{n}] at {mine[t, n].stored}" for t, n in sorted(mine)))
        return offsets

    def trouble(self, what: str) -> None:
        self._loop.call_soon_threadsafe(self._set, "brokers", what)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _poll_all(self) -> None:
        while not self._stopping.is_set():
            await self._make_room()
            if self._again:
                await self._place_again()
            self._polls += 1
            messages = await self._reader.poll(POLL_RECORDS, POLL_S)
            if messages:
                self._take(messages)
                self._storing.go_on()

    async def _make_room(self) -> None:
        """Returns when more may be read; or with everything paused, because a consumer that does not poll counts as
        dead."""
        if self._has_room():
            if self._paused:
                self._paused = False
                await self._reader.hold([k for k, p in self._partitions.items() if not p.stopped], still=False)
            return
        if self._paused:
            return
        try:
            async with asyncio.timeout(_PATIENCE_S), self._settled:
                await self._settled.wait_for(self._has_room)
        except TimeoutError:
            self._paused = True
            await self._reader.hold(self._partitions, still=True)

    def _has_room(self) -> bool:
        return self._records < MOST_RECORDS and self._bytes < MOST_BYTES

    def _take(self, messages: Sequence[Message]) -> None:
        """Parses a batch into the queues. Holes in the offsets are the log's own: compaction, transactions."""
        parts, limit, several = self._partitions, self._limit, len(self._settings.sources) > 1
        pass_through = self._pass_through
        part: Partition | None = None
        topic: str | None = None
        number: int | None = None
        bytes_, count = 0, 0
        for m in messages:
            error = m.error()
            if error is not None:
                self._on_error(m, error)
                continue
            if m.partition() != number or (several and m.topic() != topic):
                topic, number = m.topic(), m.partition()
                part = parts.get((topic, number))  # type: ignore[arg-type]
                if part is not None and part.poll == self._polls and not part.deaf:
                    # Assigned during this very poll: it is not known whether this record was read before or after.
                    self._place_later((topic, number))  # type: ignore[arg-type]
            offset = m.offset()
            if part is None or part.deaf or offset < part.read:  # type: ignore[operator]
                continue
            headers, value = m.headers(), m.value()
            at_ms = _at_ms(m) if headers and headers[0][0] == "delay" else 0  # type: ignore[index]
            passing = pass_through and (value is None or m.key())
            short = None if passing else plain(value, headers, at_ms, limit)  # type: ignore[arg-type]
            if short is not None:
                bytes_ += part.add(offset, short)  # type: ignore[arg-type]
            else:
                bytes_ += self._take_special(part, m)
            count += 1
        self._records += count
        self._bytes += bytes_

    def _take_special(self, part: Partition, m: Message) -> int:
        at_ms = _at_ms(m)
        letter = Letter(
            m.topic() or "", m.partition() or 0, m.offset() or 0, at_ms, m.key(), m.value(), m.headers() or ()  # type: ignore[arg-type]
        )  # fmt: skip
        try:
            task = of_record(letter.value, letter.headers, at_ms, self._rules, letter.key)
            if task.idempotency_key is not None:
                return part.add_keyed(letter.offset, task, letter)
            return part.add(letter.offset, encode(task))
        except InvalidTask as error:
            return part.add_letter(letter.refused(error.code, str(error)))
        except Exception as error:
            # An unexpected error in our own code must not stop a partition for ever.
            log.exception("%s [%d] %d: a defect while reading a record", letter.topic, letter.partition, letter.offset)
            return part.add_letter(letter.refused("internal", f"{type(error).__name__} while it was read"))

    def _on_error(self, m: Message, error: KafkaError) -> None:
        key = (m.topic() or "", -1 if m.partition() is None else int(m.partition() or 0))
        if error.fatal():
            raise KafkaException(error)
        if error.code() == KafkaError._PARTITION_EOF:
            if key in self._partitions and not self._partitions[key].deaf:
                self._partitions[key].seen = m.offset() or 0
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and key in self._partitions:
            # Before the log's start, past its end, or the topic was created again.
            self._place_later(key)
        elif error.code() in (
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,
            KafkaError._UNKNOWN_PARTITION,
        ):
            self._set(f"topic {key[0]}", f"Kafka: topic {key[0]} does not exist")
        elif not error.retriable():
            log.warning("Kafka: %s: %s", key[0] or "consumer", error)

    # -- places -------------------------------------------------------------------------------------------------------

    def _place_later(self, key: Key) -> None:
        """Drops what arrives from now on. Once what waits is stored, the partition gets its place again."""
        part = self._partitions[key]
        part.deaf = True
        self._again.add(key)

    async def _place_again(self) -> None:
        # What was read of it is stored first: of a topic that is gone it could not be read again.
        keys = [key for key in self._again if not self._partitions[key].queue]
        if not keys:
            return
        try:
            places = await self._reader.look_up(keys)
        except (KafkaException, DelayBoxError, TimeoutError) as error:
            self._set("brokers", f"Kafka: where to go on could not be found out: {error}")
            await asyncio.sleep(RETRY_S)
            return
        self._set("brokers", "")
        places = {key: at for key, at in places.items() if key in self._partitions}
        others = {key: part.read for key, part in self._partitions.items() if key not in places}
        still = [key for key, part in self._partitions.items() if self._paused or (part.stopped and key in others)]
        await self._reader.move(places, others, still)
        for key, at in places.items():
            if (part := self._partitions.get(key)) is not None:
                part.settle(at, self._polls)
                self._again.discard(key)
                self._report(key, at)

    def _report(self, key: Key, at: Place) -> None:
        topic, number = key
        if at.missed and self._missed.get(key) != at:
            self._missed[key] = at
            log.error(
                "%s [%d]: %d records were dropped by the log's retention before they were read (%d to %d)",
                topic, number, at.missed, at.read, at.seek,
            )  # fmt: skip
            metrics.kafka_missed(topic, at.missed)
        if at.stopped:
            problem = f"Kafka: partition {number} of topic {topic} is stopped: {at.stopped}"
            if self._troubles.get(f"partition {key}") != problem:
                log.error("%s. docs/kafka.md says how to let it go on", problem)
            self._set(f"partition {key}", problem)
        else:
            self._clear(f"partition {key}")
        metrics.kafka_stopped(sum(bool(p.stopped) for p in self._partitions.values()))

    def _drop(self, part: Partition) -> None:
        for piece in part.queue:
            self._records -= piece.records
            self._bytes -= piece.bytes
        part.queue.clear()

    # -- storing: called by `Storing` ---------------------------------------------------------------------------------

    def stored(self, piece: Piece) -> None:
        self._records -= piece.records
        self._bytes -= piece.bytes

    def went_back(self, key: Key, part: Partition, watermark: int) -> None:
        log.warning(
            "%s [%d]: the store's watermark went back from %d to %d; reading again from there",
            *key,
            part.stored,
            watermark,
        )
        metrics.kafka_rewound()
        self._drop(part)
        self._place_later(key)

    async def settled(self) -> None:
        self._set("store", next((part.problem for part in self._partitions.values() if part.problem), ""))
        async with self._settled:
            self._settled.notify_all()

    # -- beside -------------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Commits to Kafka and measures the lag."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            offsets = {
                key: (part.position, part.stream.topic_id)
                for key, part in self._partitions.items()
                if part.position != part.committed and not part.first and not part.stopped
            }
            failpoints.hit("before_offset_commit")
            await self._reader.commit(offsets)
            for key, (offset, _) in offsets.items():
                if key in self._partitions:
                    self._partitions[key].committed = offset
            for key, end in (await self._reader.ends(list(self._partitions))).items():
                if (part := self._partitions.get(key)) is not None and not part.stopped:
                    metrics.kafka_lag(*key, max(end - part.position, 0))

    async def _watch(self) -> None:
        """Notices brokers that are away, topics that are created again, and stopped partitions that may go on."""
        while True:
            await asyncio.sleep(_WATCH_S if not self._troubles.get("brokers") else _HOUSEKEEPING_S)
            try:
                ids = await self._loop.run_in_executor(None, self._cluster.topic_ids, self._settings.sources, _ASK_S)
            except (KafkaException, TimeoutError) as error:
                problem = error.args[0].str() if isinstance(error, KafkaException) else "no answer"
                self._set("brokers", f"Kafka: {problem}")
                continue
            self._set("brokers", "")
            for topic in ids:
                self._clear(f"topic {topic}")
            for key, part in self._partitions.items():
                if part.stopped or part.stream.topic_id != ids.get(key[0], part.stream.topic_id):
                    self._place_later(key)

    def _set(self, name: str, what: str) -> None:
        if name == "brokers":
            metrics.kafka_up(not what, "consumer")
        if not what:
            self._clear(name)
            return
        if name not in self._troubles:
            log.warning("%s; trying again", what)
        self._troubles[name] = what
        self._report_troubles()

    def _clear(self, name: str) -> None:
        if self._troubles.pop(name, None) is not None:
            log.info("over: %s", name)
            self._report_troubles()

    def _report_troubles(self) -> None:
        now = sorted(self._troubles.values())
        if now != self._reported:
            self._reported = now
            self._on_troubles(now)


def _at_ms(m: Message) -> int:
    """A record's timestamp, 0 when it has none."""
    kind, at_ms = m.timestamp()
    return at_ms if kind else 0
