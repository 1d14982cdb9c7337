"""PUB_SUB on Kafka: each task becomes a message, and its lease is acked when the brokers have confirmed it.

Tasks of one key keep their order as long as the brokers answer within the delivery time-out: they are produced in the
order in which they were claimed, and the producer is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as Reported
from google.protobuf.message import DecodeError

from delaybox import failpoints, metrics
from delaybox.core.delivery import DONE, HAND_BACK, Delivery, Failed, HandBack, Outcome, Report
from delaybox.core.errors import InvalidTask
from delaybox.otel import tracing
from delaybox.targets.kafka_link import KafkaLink
from delaybox.targets.kafka_message import composer
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.targets.kafka_window import SendWindow
from delaybox.wire.shell_signing import Signing
from delaybox.wire.topics import TopicRules

log = logging.getLogger("delaybox.kafka")

_HEADROOM = 64 << 10
"""Bytes of a message beside its payload: header, id, key and what the protocol adds."""
_SOON = HandBack(delay_ms=1_000)
_HOPELESS = {
    KafkaError.MSG_SIZE_TOO_LARGE: "message_too_large",
    KafkaError.INVALID_MSG: "invalid_message",
    KafkaError.INVALID_RECORD: "invalid_message",
    KafkaError.INVALID_MSG_SIZE: "message_too_large",
    KafkaError._INVALID_ARG: "invalid_message",
}
"""Errors that no repeat can mend: the task becomes a dead letter at once. Brokers refuse whole batches, so a message
that shared its batch with others is first sent again alone."""
_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)
_UNANSWERED = (KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._PURGE_QUEUE)
"""The brokers are away: the task waits until they are back, without a delay of its own."""


class KafkaTarget:
    """``value``: what a message's value is. ``source``: the CloudEvents source. ``partitions``: of the store.
    ``signing_keys``: the first signs shell tasks; without one they go out unsigned.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        rules: TopicRules,
        *,
        value: Literal["task", "payload"] = "task",
        source: str = "/delaybox",
        compression: str = "lz4",
        linger_ms: int = 2,
        delivery_timeout_ms: int = 120_000,
        max_payload_bytes: int = 1 << 20,
        partitions: int = 16,
        signing_keys: Sequence[str] = (),
    ) -> None:
        self._rules = rules
        self._partitions = partitions
        self._warned = False
        self._window = SendWindow()
        self._compose = composer(rules, value=value, source=source, signing=Signing(signing_keys))
        self._link = KafkaLink(
            settings,
            topic=rules.default,
            compression=compression,
            linger_ms=linger_ms,
            delivery_timeout_ms=delivery_timeout_ms,
            max_message_bytes=max_payload_bytes + _HEADROOM,
        )

    @property
    def trouble(self) -> str:
        """Why nothing can be delivered now; '' when it can."""
        return self._link.trouble

    @property
    def link(self) -> KafkaLink:
        """The way to the brokers, for other topics."""
        return self._link

    @property
    def room(self) -> int:
        """How many more tasks may be handed over: brokers that are slow get fewer at once."""
        return self._window.room

    def on_change(self, call: Callable[[], None]) -> None:
        """``call`` is called when `trouble` begins or ends."""
        self._link.on_change(call)

    async def start(self, patience_s: float = 5.0) -> None:
        """Returns when a broker answered, or after ``patience_s`` all the same; ConfigError when one refused us."""
        await self._link.start(patience_s)

    async def stop(self) -> None:
        """Ends the producer. Twice is harmless."""
        await self._link.stop()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Produces all, then waits until the brokers have confirmed or refused each."""
        if not batch:
            return
        if self._link.trouble:
            report(batch, HAND_BACK)
            return
        failpoints.hit("before_publish")
        self._window.on_way += len(batch)
        on_way, began_s = self._window.on_way, time.monotonic()
        group = _Group(self._link, asyncio.get_running_loop().create_future())
        try:
            sent = await self._produce(batch, group, report)
            self._link.sent()
            await group.all_of(len(sent))
            if group.failed:
                await self._alone(sent, group)
        except asyncio.CancelledError:
            # The node stops and its grace is over: what was not sent yet must not be sent now, because another node
            # will.
            self._link.purge()
            raise
        finally:
            metrics.kafka_in_flight(-group.counted)
            self._window.on_way -= len(batch)
        self._window.confirmed(began_s, time.monotonic() - began_s, on_way)
        failpoints.hit("after_publish_reply")
        self._report(sent, group, report)

    async def _produce(self, batch: Sequence[Delivery], group: _Group, report: Report) -> Sequence[Delivery]:
        """Hands messages to the producer. Reports those that it or this target refuses, and returns the others."""
        compose, on, default = self._compose, group.on, self._rules.default
        # Messages that were claimed together go to one partition, and so in one request, on which a broker spends a
        # quarter less. The partition follows from the id, so a message that is sent twice goes to the same one.
        count, spread = self._link.partitions, self._partitions
        turns = max(1, -(-count // spread))
        refused: list[Delivery] = []
        metrics.kafka_in_flight(len(batch))
        group.counted = len(batch)
        for d in batch:
            while True:
                try:
                    topic, value, key, headers = compose(d)
                    at = -1
                    if key is headers[0][1]:
                        callback = on
                        if count and topic == default:
                            at = (d.partition + spread * (d.task_id[15] % turns)) % count
                    else:
                        # A report names its message's key, which is not the task's id.
                        callback = partial(group.on_named, d)
                    self._link.produce(topic, value, key, at, callback, callback, 0, headers)
                except BufferError:
                    await self._link.room()
                    continue
                except KafkaException as error:
                    refused.append(d)
                    report([d], self._outcome(error.args[0], topic))
                except InvalidTask as error:
                    refused.append(d)
                    metrics.kafka_failed("not_allowed" if "taskType" in error.field else "topic_not_allowed")
                    report([d], Failed(str(error), retryable=False))
                except DecodeError as error:
                    refused.append(d)
                    metrics.kafka_failed("unreadable_body")
                    report([d], Failed(f"its body cannot be read: {error}"[:500], retryable=False))
                break
        if not refused:
            return batch
        gone = {d.task_id for d in refused}
        return [d for d in batch if d.task_id not in gone]

    async def _alone(self, sent: Sequence[Delivery], group: _Group) -> None:
        """Sends each message that was refused for good once more, in a batch of its own, and keeps the result."""
        by_id = {d.id.encode(): d for d in sent}
        judged = [failure for failure in group.failed if failure[1].code() in _HOPELESS]
        group.failed = [failure for failure in group.failed if failure[1].code() not in _HOPELESS]
        if not judged:
            return
        if not self._warned:
            self._warned = True
            log.warning(
                "topic %s refused a batch (%s): its messages are sent one by one. If that goes on, raise the topic's "
                "max.message.bytes above 256 KiB",
                judged[0][2],
                judged[0][1].name(),
            )
        again = _Group(self._link, asyncio.get_running_loop().create_future())
        count = 0
        for who, error, topic in judged:
            d = who if isinstance(who, Delivery) else by_id[who]
            named, value, key, headers = self._compose(d)
            callback = partial(again.on_named, d)
            while True:
                try:
                    self._link.produce_alone(named, value, key, -1, callback, callback, 0, headers)
                    count += 1
                except BufferError:
                    await self._link.room()
                    continue
                except KafkaException:
                    group.failed.append((d, error, topic))
                break
        self._link.sent()
        await again.all_of(count)
        group.failed += again.failed

    def _report(self, sent: Sequence[Delivery], group: _Group, report: Report) -> None:
        if not group.failed:
            report(sent, DONE)
            metrics.kafka_sent(len(sent), group.took_s, _trace_of(sent))
            return
        by_id = {d.id.encode(): d for d in sent}
        outcomes: dict[bytes, Outcome] = {}
        for who, error, topic in group.failed:
            d = who if isinstance(who, Delivery) else by_id[who]
            outcomes[d.task_id] = self._outcome(error, topic)
        done = [d for d in sent if d.task_id not in outcomes]
        report(done, DONE)
        metrics.kafka_sent(len(done), group.took_s, _trace_of(done))
        for outcome in set(outcomes.values()):
            report([d for d in sent if outcomes.get(d.task_id) == outcome], outcome)

    def _outcome(self, error: KafkaError, topic: str) -> Outcome:
        code = error.code()
        if reason := _HOPELESS.get(code):
            metrics.kafka_failed(reason)
            return Failed(
                f"Kafka refused the message for topic {topic}: {error.str()} ({error.name()})", retryable=False
            )
        metrics.kafka_failed(error.name().lower().lstrip("_"))
        if code in _TOPIC and topic != self._rules.default:
            return Failed(f"Kafka has no use for topic {topic}: {error.str()} ({error.name()})")
        return HAND_BACK if code in _UNANSWERED else _SOON


class _Group:
    """The messages of one delivered batch."""

    __slots__ = ("_done", "_expected", "_future", "_link", "_started", "counted", "failed", "took_s")

    def __init__(self, link: KafkaLink, future: asyncio.Future[None]) -> None:
        self._link = link
        self._future = future
        self._done = 0
        self._expected = -1
        self._started = time.perf_counter()
        self.counted = 0
        self.failed: list[tuple[Delivery | bytes, KafkaError, str]] = []
        self.took_s = 0.0

    def on(self, error: KafkaError | None, message: Reported) -> None:
        """The brokers' report on one message."""
        if error is not None:
            self._fail(message.key() or b"", error, message)
        self._done += 1
        if self._done == self._expected and not self._future.done():
            self._future.set_result(None)

    def on_named(self, d: Delivery, error: KafkaError | None, message: Reported) -> None:
        """The same for a message whose key is not the task's id."""
        if error is not None:
            self._fail(d, error, message)
        self.on(None, message)

    def _fail(self, who: Delivery | bytes, error: KafkaError, message: Reported) -> None:
        self.failed.append((who, error, message.topic() or ""))
        if error.code() in _UNANSWERED:
            self._link.doubt()

    async def all_of(self, count: int) -> None:
        """Returns when ``count`` messages are reported."""
        self._expected = count
        # While the queue was full, some were reported before their number was known.
        if self._done < count:
            await self._future
        self.took_s = time.perf_counter() - self._started


def _trace_of(sent: Sequence[Delivery]) -> bytes:
    """The ``traceparent`` of one of their firings; b"" where none is traced."""
    return b"" if tracing.spans is None else next((d.trace for d in sent if d.trace), b"")
