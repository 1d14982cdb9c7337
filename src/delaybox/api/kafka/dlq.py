"""Dead-letter topics: records that cannot become tasks, each with the reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from delaybox.api.kafka.cluster import LIBRARY_LOG, Cluster
from delaybox.api.kafka.partitions import Letter
from delaybox.core.errors import DelayBoxError
from delaybox.targets.kafka_settings import KafkaSettings

log = logging.getLogger("delaybox.kafka")

SUFFIX = ".dlq"
_TIMEOUT_MS = 10_000
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


class DlqFailed(DelayBoxError):
    """A dead-letter topic does not take letters."""

    code = "dlq_failed"


class DeadLetters:
    """Sends letters to ``<topic>.dlq``; a topic that does not exist is created as the brokers create one."""

    def __init__(self, settings: KafkaSettings, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: set[str] = set()
        self._options = settings.client() | {
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": _TIMEOUT_MS,
            "message.max.bytes": 64 << 20,
            "linger.ms": 1,
        }
        self._made: Producer | None = None
        # Of two threads that wait for their letters, each may be told what became of the other's when it has gone on.
        self._one_at_a_time = asyncio.Lock()

    async def send(self, letters: Sequence[Letter]) -> None:
        """Returns when every letter is acknowledged by all replicas in sync; DlqFailed when one is not."""
        async with self._one_at_a_time:
            await asyncio.get_running_loop().run_in_executor(None, self._send, letters)

    @property
    def _producer(self) -> Producer:
        """The producer, made for the first letter, because most nodes never send one."""
        if self._made is None:
            self._made = Producer(self._options, logger=LIBRARY_LOG)
        return self._made

    def _send(self, letters: Sequence[Letter]) -> None:
        for topic in {letter.topic for letter in letters} - self._known:
            self._create(topic + SUFFIX)
            self._known.add(topic)
        large: list[Letter] = []
        failed: list[str] = []
        self._produce(letters, large, failed, whole=True)
        if large and not failed:
            still: list[Letter] = []
            self._produce(large, still, failed, whole=False)
            failed += [f"{letter.topic}{SUFFIX}: even without its value a record is too large" for letter in still]
        if failed:
            raise DlqFailed(f"{len(failed)} of {len(letters)} records could not be sent to {failed[0]}")

    def _produce(self, letters: Sequence[Letter], large: list[Letter], failed: list[str], *, whole: bool) -> None:
        def sent(letter: Letter, error: KafkaError) -> None:
            if error.code() in _TOO_LARGE:
                large.append(letter)
            else:
                failed.append(f"{letter.topic}{SUFFIX}: {error}")

        for letter in letters:

            def delivered(error: KafkaError | None, _: object, letter: Letter = letter) -> None:
                if error is not None:
                    sent(letter, error)

            try:
                self._producer.produce(
                    letter.topic + SUFFIX,
                    value=letter.value if whole else None,
                    key=letter.key,
                    headers=headers_of(letter, whole=whole),
                    on_delivery=delivered,
                )
            except KafkaException as error:
                sent(letter, error.args[0])
            except BufferError:
                failed.append(f"{letter.topic}{SUFFIX}: too many letters wait already")
        # Every message ends within its delivery time-out, one way or the other.
        if left := self._producer.flush(_TIMEOUT_MS / 1000 + 5):
            failed.append(f"a dead-letter topic: {left} unanswered")

    def _create(self, topic: str) -> None:
        try:
            self._cluster.create_topic(topic)
        except KafkaException as error:
            # The topic may exist all the same, if this user may write to topics but not create them.
            log.warning("topic %s could not be created: %s", topic, error)


def headers_of(letter: Letter, *, whole: bool = True) -> list[tuple[str, Any]]:
    """The record's own headers, then ours."""
    ours = {
        "delaybox-dlq-code": letter.code,
        "delaybox-dlq-reason": letter.reason,
        "delaybox-dlq-topic": letter.topic,
        "delaybox-dlq-partition": str(letter.partition),
        "delaybox-dlq-offset": str(letter.offset),
        "delaybox-dlq-timestamp": str(letter.at_ms),
    }
    if not whole:
        ours["delaybox-dlq-value"] = f"left out: {len(letter.value or b'')} bytes are more than this topic takes"
    return [*letter.headers, *((name, text.encode()) for name, text in ours.items())]
