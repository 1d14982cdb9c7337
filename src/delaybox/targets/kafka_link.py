"""The way to the brokers: one producer, a thread that serves its reports, and whether any broker answers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from delaybox import metrics
from delaybox.core.errors import ConfigError
from delaybox.targets.kafka_settings import KafkaSettings

log = logging.getLogger("delaybox.kafka")

_POLL_S = 0.1
_PROBE_S = 1.0
_BETWEEN_PROBES_S = 0.25
_REFUSALS = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
)


class Group(Protocol):
    """Messages that are waited for together."""

    def settle(self) -> None:
        """All of them are reported. Called on the event loop."""


class KafkaLink:
    """Produces, and knows whether brokers answer. Everything but the thread's own work is called on the event loop.

    ``topic``: asked for when it is looked whether brokers answer; made by that where the cluster makes topics.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        topic: str,
        compression: str,
        linger_ms: int,
        delivery_timeout_ms: int,
        max_message_bytes: int,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._options: dict[str, Any] = {
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": compression,
            "linger.ms": linger_ms,
            "message.timeout.ms": delivery_timeout_ms,
            # A request that is lost in a hanging broker must not take longer to be missed than its messages live.
            "socket.timeout.ms": min(max(delivery_timeout_ms, 1_000), 60_000),
            # The broker says what is too large, for it knows; ours is only to be above it.
            "message.max.bytes": max_message_bytes,
            # Far below what brokers take for one request, or one message too large would fail its neighbours.
            "batch.size": 256 << 10,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": max(256 << 10, 4 * max_message_bytes >> 10),
            # Keys go where the Java clients send them.
            "partitioner": "murmur2_random",
        }
        self._on_change: list[Callable[[], None]] = []
        self._trouble = "no Kafka broker has answered yet"
        self._refusal = ""
        self._up = False
        self._last = ""
        self._since = time.monotonic()
        self._ended: list[Group] = []
        self._rooms: list[asyncio.Future[None]] = []
        self._closing = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._fatal = ""
        try:
            self._producer = self._made()
        except KafkaException as error:
            said = error.args[0].str()
            raise ConfigError(f"Kafka's client cannot use its settings ({said}); mend what is under kafka") from None
        self.produce = self._producer.produce

    @property
    def trouble(self) -> str:
        """Why nothing can be sent now; '' when it can."""
        return "" if self._up else self._trouble

    def on_change(self, call: Callable[[], None]) -> None:
        """``call`` is called, on the event loop, when sending becomes possible or impossible."""
        self._on_change.append(call)

    async def start(self, patience_s: float) -> None:
        """Returns when a broker answered or after ``patience_s``; ConfigError when one refused us."""
        metrics.kafka_up(False)
        self._thread = threading.Thread(target=self._run, name="delaybox-kafka", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(patience_s):
                await self._answered.wait()
        except TimeoutError:
            log.warning("%s; tasks for it wait until one does", self._trouble)
        if self._refusal:
            refusal = self._refusal
            await self.stop(0.0)
            raise ConfigError(f"Kafka at {self._settings.describe()} refused this node: {refusal}")

    def ended(self, group: Group) -> None:
        """The last message of ``group`` was reported; called in the thread."""
        self._ended.append(group)

    async def room(self) -> None:
        """Returns when reports have come in, so that the full queue has room."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._rooms.append(future)
        await asyncio.wait({future}, timeout=1.0)

    def doubt(self) -> None:
        """Messages went unanswered: nothing more is sent until a broker answers. Called in the thread."""
        if self._up:
            self._went(False, f"no Kafka broker at {self._settings.describe()} confirms messages")

    def purge(self) -> None:
        """Drops what was not sent yet; each message is reported."""
        self._producer.purge(in_queue=True, in_flight=False, blocking=False)

    async def stop(self, grace_s: float) -> None:
        """Waits for what is under way as long as ``grace_s`` allows, then drops it. Twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        deadline = self._loop.time() + grace_s
        while len(self._producer) and self._loop.time() < deadline:
            await self.room()
        self._closing.set()
        await asyncio.to_thread(thread.join)
        metrics.kafka_up(False)

    def _made(self) -> Producer:
        return Producer({**self._options, **self._settings.client(), "error_cb": self._on_error}, logger=_Quiet())

    def _run(self) -> None:
        producer = self._producer
        while not self._closing.is_set():
            if self._fatal:
                producer = self._again(producer)
            if self._up:
                producer.poll(_POLL_S)
            else:
                self._probe(producer)
            self._hand_over()
        producer.purge()
        producer.flush(1.0)
        self._hand_over()

    def _probe(self, producer: Producer) -> None:
        try:
            found = producer.list_topics(self._topic, timeout=_PROBE_S)
        except KafkaException as error:
            code = error.args[0]
            if code.code() in _REFUSALS:
                self._refuse(code.str())
            # What the brokers' connections had to say comes as errors of their own.
            producer.poll(0)
            if not self._refusal:
                self._went(False, self._away())
            self._hand_over()
            self._closing.wait(_BETWEEN_PROBES_S)
            return
        self._refusal = self._last = ""
        self._went(True, "")
        log.debug("%d brokers", len(found.brokers))

    def _again(self, producer: Producer) -> Producer:
        """A new producer for one that can do nothing more; what that one held is reported as failed."""
        log.error("the Kafka producer failed for good and is made anew: %s", self._fatal)
        self._fatal = ""
        self._producer = self._made()
        self.produce = self._producer.produce
        producer.purge()
        producer.flush(1.0)
        return self._producer

    def _on_error(self, error: KafkaError) -> None:
        # In the thread, like everything that a poll serves.
        code = error.code()
        if error.fatal() or code == KafkaError._FATAL:
            self._fatal = error.str()
        elif code in _REFUSALS:
            self._refuse(error.str())
        elif code == KafkaError._ALL_BROKERS_DOWN:
            if not self._refusal:
                self._went(False, self._away())
        else:
            self._last = error.str()
            log.debug("%s: %s", error.name(), error.str())

    def _away(self) -> str:
        return f"no Kafka broker at {self._settings.describe()} answers" + (f" ({self._last})" if self._last else "")

    def _refuse(self, words: str) -> None:
        self._refusal = words + _how(words)
        self._went(False, f"Kafka at {self._settings.describe()} refuses this node: {self._refusal}")

    def _went(self, up: bool, trouble: str) -> None:
        changed, known = up != self._up, trouble == self._trouble
        self._trouble = trouble
        if changed:
            self._up = up
            now = time.monotonic()
            took, self._since = now - self._since, now
            metrics.kafka_up(up)
            if up:
                log.info("Kafka at %s answers%s", self._settings.describe(), f" after {took:.1f} s" if took > 2 else "")
            else:
                log.warning("%s; tasks for it wait", trouble)
        elif self._refusal and not known:
            log.error("%s", trouble)
        if up or self._refusal:
            self._call(self._answered.set)
        if changed:
            self._call(self._tell)

    def _tell(self) -> None:
        for call in self._on_change:
            call()

    def _hand_over(self) -> None:
        """What a poll brought goes to the event loop in one call."""
        if self._ended or self._rooms:
            groups, self._ended = self._ended, []
            self._call(self._settle, groups)

    def _settle(self, groups: list[Group]) -> None:
        rooms, self._rooms = self._rooms, []
        for future in rooms:
            if not future.done():
                future.set_result(None)
        for group in groups:
            group.settle()

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended; nobody waits any more
            self._closing.set()


class _Quiet:
    """Takes what librdkafka logs, which says the same thing again and again; errors come to us apart."""

    def log(self, level: int, words: str, *arguments: object) -> None:
        log.debug(words, *arguments)


def _how(words: str) -> str:
    """How to mend a refusal."""
    plain = words.lower()
    if "certificate verify failed" in plain or "broker certificate could not be verified" in plain:
        return "; set kafka.caFile to the authority that signed the brokers' certificates"
    if "ssl" in plain:
        return "; check kafka.tlsEnable, kafka.caFile, kafka.certFile and kafka.keyFile"
    return "; check kafka.saslUser, kafka.saslPassword and kafka.saslMechanism"
