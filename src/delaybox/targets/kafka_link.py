"""The way to the brokers: one producer, its reports, and whether any broker answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from delaybox import metrics
from delaybox.core.errors import ConfigError
from delaybox.targets.kafka_settings import KafkaSettings

log = logging.getLogger("delaybox.kafka")

_BUSY_S = 0.001
"""How often reports are polled while some are awaited. A thread that waited for them would take the interpreter's lock
for each report, up to 5 ms while the event loop works: that made 8,000 messages a second, and polling 50,000."""
_IDLE_S = 0.1
_PROBE_S = 1.0
_BETWEEN_PROBES_S = 0.25
_ASK_AGAIN_S = 60.0
_SILENCE_S = 3.0
"""After this long with messages under way and none confirmed, the link checks whether a broker still answers."""
_REFUSALS = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
)

_NO_CERTIFICATE = re.compile("alert (bad certificate|certificate required|unknown ca)")
"""With TLS 1.3 a client learns only after the handshake that its certificate was missing or refused; so wait this
long."""


class KafkaLink:
    """Produces, serves the reports, and knows whether brokers answer. All of it belongs to the event loop.

    ``topic``: the check whether brokers answer asks for it; that creates the topic where the cluster creates topics by
    itself. ``partitions``: of that topic, as the brokers answered last; 0 = not known.
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
            # A request that is lost in a hanging broker must time out before its messages do.
            "socket.timeout.ms": min(max(delivery_timeout_ms, 1_000), 30_000),
            # The broker decides what is too large; the client's own limit must only be above the broker's.
            "message.max.bytes": max_message_bytes,
            # Far below the largest batch that brokers take by default. Where a topic takes less, messages are sent
            # alone.
            "batch.size": 256 << 10,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": max(256 << 10, 4 * max_message_bytes >> 10),
            # The same partition for a key as the Java clients choose.
            "partitioner": "murmur2_random",
        }
        self.partitions = 0
        self._on_change: list[Callable[[], None]] = []
        self._trouble = "no Kafka broker has answered yet"
        self._refusal = ""
        self._last = ""
        self._fatal = ""
        self._up = False
        self._since = time.monotonic()
        self._serving = asyncio.Event()
        self._answered = asyncio.Event()
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        try:
            self._producer = self._made()
        except KafkaException as error:
            problem = error.args[0].str()
            raise ConfigError(f"Kafka's client cannot use its settings ({problem}); mend what is under kafka") from None
        self.produce = self._producer.produce
        self._alone: Producer | None = None

    @property
    def trouble(self) -> str:
        """Why nothing can be sent now; '' when it can."""
        return "" if self._up else self._trouble

    def on_change(self, call: Callable[[], None]) -> None:
        """``call`` is called when sending becomes possible or impossible."""
        self._on_change.append(call)

    async def start(self, patience_s: float) -> None:
        """Returns when a broker answered or after ``patience_s``; ConfigError when one refused us."""
        metrics.kafka_up(False)
        self._tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._watch())]
        try:
            async with asyncio.timeout(patience_s):
                await self._answered.wait()
        except TimeoutError:
            log.warning("%s; tasks for it wait until one does", self._trouble)
        if self._refusal:
            refusal = self._refusal
            await self.stop()
            raise ConfigError(f"Kafka at {self._settings.describe()} refused this node: {refusal}")

    def sent(self) -> None:
        """Messages were produced: their reports are polled from now on."""
        self._serving.set()

    def produce_alone(self, *message: Any) -> None:
        """As ``produce``, but in a batch of its own: brokers refuse a whole batch for one bad message."""
        if self._alone is None:
            self._alone = self._made({"batch.num.messages": 1, "linger.ms": 0})
        self._alone.produce(*message)

    async def room(self) -> None:
        """Returns when reports may have made room in the full queue."""
        self._poll()
        await asyncio.sleep(_BUSY_S)

    def doubt(self) -> None:
        """Messages went unanswered: nothing more is sent until a broker answers."""
        if self._up:
            self._went(False, f"no Kafka broker at {self._settings.describe()} confirms messages")

    def purge(self) -> None:
        """Drops what was not sent yet; each message is reported."""
        for producer in self._producers():
            producer.purge(in_queue=True, in_flight=False, blocking=False)

    async def stop(self) -> None:
        """Drops what is still under way. Twice is harmless."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for producer in self._producers():
            producer.purge(blocking=False)
        self._poll()
        metrics.kafka_up(False)

    def _made(self, other: Mapping[str, Any] = MappingProxyType({})) -> Producer:
        options = {**self._options, **other, **self._settings.client(), "error_cb": self._on_error}
        return Producer(options, logger=_Quiet())

    def _producers(self) -> list[Producer]:
        return [self._producer] if self._alone is None else [self._producer, self._alone]

    def _poll(self) -> int:
        """Polls for reports and handles them. Returns how many came."""
        return sum(producer.poll(0) for producer in self._producers())

    async def _serve(self) -> None:
        answered_s = time.monotonic()
        while True:
            if waiting := sum(map(len, self._producers())):
                now_s = time.monotonic()
                if self._poll() or sum(map(len, self._producers())) < waiting:
                    answered_s = now_s
                elif now_s - answered_s > _SILENCE_S:
                    answered_s = now_s
                    self._lost.set()
                await asyncio.sleep(_BUSY_S)
            else:
                answered_s = time.monotonic()
                # Errors of connections come by the same poll, which may then be slower.
                self._serving.clear()
                self._poll()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._serving.wait(), _IDLE_S)
            if self._fatal:
                self._renew()

    async def _watch(self) -> None:
        """Checks for a broker while none answers, and now and then reads the number of the topic's partitions."""
        while True:
            if self._up:
                self._lost.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), _ASK_AGAIN_S)
            try:
                # In a thread, because the call blocks.
                found = await asyncio.to_thread(self._producer.list_topics, self._topic, timeout=_PROBE_S)
            except KafkaException as error:
                # The reason comes separately, as an error of a broker's connection.
                self._producer.poll(0)
                code = error.args[0]
                if code.code() in _REFUSALS:
                    self._refuse(code.str())
                elif not self._refusal:
                    self._went(False, self._away())
                await asyncio.sleep(_BETWEEN_PROBES_S)
            else:
                self._refusal = self._last = ""
                topic = found.topics[self._topic]
                self.partitions = len(topic.partitions)
                if topic.error is None:
                    self._went(True, "")
                else:
                    where = f"Kafka topic {self._topic} at {self._settings.describe()}"
                    self._went(False, f"{where} cannot be written: {topic.error.str()}")
                    await asyncio.sleep(_BETWEEN_PROBES_S)

    def _renew(self) -> None:
        """A new producer for one that can do nothing more; what that one held is reported as failed."""
        log.error("the Kafka producer failed for good and is made again: %s", self._fatal)
        self._fatal = ""
        old = self._producers()
        self._producer, self._alone = self._made(), None
        self.produce = self._producer.produce
        for producer in old:
            producer.purge()
            producer.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        code = error.code()
        if error.fatal() or code == KafkaError._FATAL:
            self._fatal = error.str()
        elif code in _REFUSALS or _NO_CERTIFICATE.search(error.str()):
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
        if self._refusal and not known:
            log.error("%s", trouble)
        if up or self._refusal:
            self._answered.set()
        if not changed:
            return
        self._up = up
        now = time.monotonic()
        took, self._since = now - self._since, now
        metrics.kafka_up(up)
        if up:
            log.info("Kafka at %s answers%s", self._settings.describe(), f" after {took:.1f} s" if took > 2 else "")
        else:
            self._lost.set()
            log.warning("%s; tasks for it wait", trouble)
        for call in self._on_change:
            call()


class _Quiet:
    """Takes librdkafka's log lines and drops them: they repeat themselves, and errors also come by a callback."""

    def log(self, level: int, words: str, *arguments: object) -> None:
        log.debug(words, *arguments)


def _how(words: str) -> str:
    """How to mend a refusal."""
    plain = words.lower()
    if "authenticat" in plain:
        return "; check kafka.saslUser, kafka.saslPassword and kafka.saslMechanism"
    if _NO_CERTIFICATE.search(plain):
        return "; set kafka.certFile and kafka.keyFile to a certificate that the brokers trust"
    if "certificate verify failed" in plain or "certificate could not be verified" in plain:
        return "; set kafka.caFile to the authority that signed the brokers' certificates"
    return "; check kafka.tlsEnable, kafka.caFile, kafka.certFile and kafka.keyFile"
