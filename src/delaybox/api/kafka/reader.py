"""The consumer, and the one thread that it lives in: the event loop gets batches and never waits for Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from delaybox.api.kafka.cluster import LIBRARY_LOG, TIMEOUT_S, Cluster
from delaybox.api.kafka.partitions import Key, Place, place
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.core.errors import DelayBoxError
from delaybox.store.kafka import Stream

log = logging.getLogger("delaybox.kafka")

RETRY_S = 0.5
_NO_OFFSET = -1_001
_COMMITTED_BY = "delaybox:"
"""Begins the metadata of committed offsets; the topic's id follows."""
_T = TypeVar("_T")


class Owner(Protocol):
    """Is called with what the group decides. Its coroutines run on the event loop while the reader's thread waits."""

    async def marks(self, streams: Sequence[Stream]) -> list[int | None]:
        """The watermarks."""

    async def assigned(self, places: Mapping[Key, Place]) -> bool:
        """These partitions are assigned from now on. True: do not read them yet, because too much waits."""

    async def revoked(self, keys: Sequence[Key], *, lost: bool) -> Mapping[Key, tuple[int, str]]:
        """These partitions are revoked. Returns when what was read is stored: offset to commit and topic id of each."""

    def trouble(self, what: str) -> None:
        """The brokers are away or refuse us; '' when they are back. Called from any thread."""


def consumer_settings(settings: IntakeSettings) -> dict[str, Any]:
    """librdkafka's settings for reading a scheduler topic; ``kafka.properties`` win."""
    ours: dict[str, Any] = {
        "group.id": settings.group,
        # The watermarks decide where to go on. An offset past the end of the log must be an error, and one before its
        # start is
        # handled here.
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Reports where a log ends even if its last offsets are no records; without it the lag would never be 0.
        "enable.partition.eof": True,
        # A topic that was deleted on purpose must not come back because it is read.
        "allow.auto.create.topics": False,
        # Not the library's cooperative one: members of other programs may share the group.
        "partition.assignment.strategy": "range,roundrobin",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
        # At most this much is held here unread; the rest waits at the broker.
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 10_000,
    }
    if settings.instance:
        ours["group.instance.id"] = settings.instance
    return ours | settings.kafka.client()


class TopicReader:
    """Start it with `open`, end it with `close`; everything between runs in its thread, one call after the other."""

    def __init__(self, settings: IntakeSettings, cluster: Cluster, owner: Owner) -> None:
        self._settings = settings
        self._cluster = cluster
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="delaybox-kafka")
        self._halt = threading.Event()
        self._lives: dict[str, str] = {}
        self._consumer: Consumer | None = None

    # -- called on the event loop -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Joins the group; the brokers need not be there yet."""
        await self._in_thread(self._open)

    async def poll(self, most: int, timeout_s: float) -> list[Message]:
        """Waits for the first record, then takes what is there; events of the group are handled meanwhile."""
        return await self._in_thread(self._poll, most, timeout_s)

    async def look_up(self, keys: Sequence[Key]) -> dict[Key, Place]:
        """Where these partitions are to be read from now. KafkaException, StoreUnavailable."""
        return await self._in_thread(self._look_up, keys)

    async def move(self, places: Mapping[Key, Place], others: Mapping[Key, int], still: Iterable[Key]) -> None:
        """Goes on at these places. ``others``: where the rest of what is assigned stands; ``still``: what is paused."""
        await self._in_thread(self._move, places, others, list(still))

    async def hold(self, keys: Iterable[Key], *, still: bool) -> None:
        """Pauses partitions, or resumes them."""
        await self._in_thread(self._hold, [TopicPartition(*key) for key in keys], still)

    async def commit(self, offsets: Mapping[Key, tuple[int, str]]) -> None:
        """Commits offsets to the group, without waiting for its answer."""
        await self._in_thread(self._commit, offsets, True)

    async def ends(self, keys: Sequence[Key]) -> dict[Key, int]:
        """The offset after the last record of each, as far as this consumer has seen."""
        return await self._in_thread(self._ends, keys)

    def halt(self) -> None:
        """Ends every waiting for brokers and store."""
        self._halt.set()

    async def close(self) -> None:
        """Leaves the group (a member with an instance name stays known, and comes back to its partitions)."""
        self._halt.set()
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _ask(self, coroutine: Awaitable[_T]) -> _T:
        """Runs a coroutine on the event loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(_run(coroutine), self._loop).result()

    def _open(self) -> None:
        made = Consumer({**consumer_settings(self._settings), "error_cb": self._on_error}, logger=LIBRARY_LOG)
        made.subscribe(
            list(self._settings.sources), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._consumer = made

    @property
    def _it(self) -> Consumer:
        assert self._consumer is not None
        return self._consumer

    def _poll(self, most: int, timeout_s: float) -> list[Message]:
        first = self._it.consume(1, timeout_s)
        return first + self._it.consume(most - 1, 0) if first else first

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL):
            # The library's words of brokers that are all away ("1/1 brokers are down") do not say which.
            self._owner.trouble(f"Kafka: {error.str()} ({self._settings.kafka.describe()})")

    def _on_assign(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        keys = [(tp.topic, tp.partition) for tp in given]
        while not self._halt.is_set():
            try:
                places = self._look_up(keys)
                break
            except (KafkaException, DelayBoxError, TimeoutError) as error:
                self._owner.trouble(f"Kafka: where to go on could not be found out: {error}")
                self._halt.wait(RETRY_S)
        else:
            consumer.assign([])
            return
        self._owner.trouble("")
        consumer.assign([TopicPartition(*key, at.seek) for key, at in places.items()])
        still = [key for key, at in places.items() if at.stopped]
        if self._ask(self._owner.assigned(places)):
            still = keys
        self._hold([TopicPartition(*key) for key in still], True)

    def _on_revoke(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        offsets = self._ask(self._owner.revoked([(tp.topic, tp.partition) for tp in taken], lost=False))
        self._commit(offsets, False)
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        self._ask(self._owner.revoked([(tp.topic, tp.partition) for tp in taken], lost=True))
        consumer.unassign()

    def _look_up(self, keys: Sequence[Key]) -> dict[Key, Place]:
        if not keys:
            return {}
        ids = self._cluster.topic_ids(topic for topic, _ in keys)
        streams = {key: Stream(ids[key[0]], key[1]) for key in keys if key[0] in ids}
        marks = dict(zip(streams, self._ask(self._owner.marks(list(streams.values()))), strict=True))
        ends = self._cluster.ends(list(streams))
        committed = self._committed([key for key, mark in marks.items() if mark is None], ids)
        self._lives.update(ids)
        gone = Place(Stream("", 0), 0, 0, stopped="the topic does not exist")
        return {
            key: place(streams[key], marks[key], committed.get(key), *ends[key]) if key in streams else gone
            for key in keys
        }

    def _committed(self, keys: Sequence[Key], ids: Mapping[str, str]) -> dict[Key, int]:
        """The group's committed offsets, without those of a topic that was deleted and created again since."""
        same = [TopicPartition(*key) for key in keys if self._lives.get(key[0], ids[key[0]]) == ids[key[0]]]
        found: dict[Key, int] = {}
        for tp in self._it.committed(same, TIMEOUT_S) if same else ():
            written = tp.metadata or ""
            ours = not written.startswith(_COMMITTED_BY) or written == _COMMITTED_BY + ids[tp.topic]
            if tp.error is None and tp.offset >= 0 and ours:
                found[tp.topic, tp.partition] = tp.offset
        return found

    def _move(self, places: Mapping[Key, Place], others: Mapping[Key, int], still: Iterable[Key]) -> None:
        try:
            for key, at in places.items():
                self._it.seek(TopicPartition(*key, at.seek))
        except KafkaException as error:
            # It is not being fetched: just assigned, or its topic was gone. Assigning all of them anew always works.
            log.debug("%s", error)
            offsets = {**others, **{key: at.seek for key, at in places.items()}}
            self._it.assign([TopicPartition(*key, offset) for key, offset in offsets.items()])
        stand = set(still) | {key for key, at in places.items() if at.stopped}
        self._hold([TopicPartition(*key) for key in places if key not in stand], False)
        self._hold([TopicPartition(*key) for key in stand], True)

    def _hold(self, tps: list[TopicPartition], still: bool) -> None:
        if not tps:
            return
        with contextlib.suppress(KafkaException):  # revoked meanwhile
            if still:
                self._it.pause(tps)
            else:
                self._it.resume(tps)

    def _commit(self, offsets: Mapping[Key, tuple[int, str]], asynchronous: bool) -> None:
        tps = [TopicPartition(*key, offset, _COMMITTED_BY + topic_id) for key, (offset, topic_id) in offsets.items()]
        if not tps:
            return
        try:
            self._it.commit(offsets=tps, asynchronous=asynchronous)  # type: ignore[call-overload]
        except KafkaException as error:
            # Only for the information of others: what counts are the watermarks.
            log.info("offsets were not committed to Kafka: %s", error)

    def _ends(self, keys: Sequence[Key]) -> dict[Key, int]:
        found: dict[Key, int] = {}
        for key in keys:
            with contextlib.suppress(KafkaException):
                _, end = self._it.get_watermark_offsets(TopicPartition(*key), cached=True)
                if end != _NO_OFFSET:
                    found[key] = end
        return found

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


async def _run(awaitable: Awaitable[_T]) -> _T:
    return await awaitable
