"""Reads from the brokers what is no record: ids and ends of topics. Every call blocks its thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from delaybox.api.kafka.partitions import Key
from delaybox.targets.kafka_settings import KafkaSettings

LIBRARY_LOG = logging.getLogger("delaybox.kafka.library")
LIBRARY_LOG.setLevel(logging.CRITICAL)
"""librdkafka logs every lost connection again and again; what matters comes as errors."""

TIMEOUT_S = 10.0
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
_ENDS = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]


class Cluster:
    """Raises KafkaException for what the brokers refuse, or when they are away."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._admin = AdminClient(dict(settings.client()), logger=LIBRARY_LOG)  # type: ignore[arg-type]

    def topic_ids(self, topics: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
        """Each topic's UUID, which a topic that is created again does not share; its name on brokers without UUIDs.

        Topics that do not exist are left out.
        """
        asked = self._admin.describe_topics(TopicCollection(sorted(set(topics))), request_timeout=timeout_s)
        ids: dict[str, str] = {}
        for topic, future in asked.items():
            try:
                topic_id = str(future.result(timeout_s).topic_id)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise
            ids[topic] = f"name:{topic}" if topic_id == _NO_ID else topic_id
        return ids

    def ends(self, keys: Sequence[Key]) -> dict[Key, tuple[int, int]]:
        """Per topic-partition the first offset there is, and the one after the last."""
        if not keys:
            return {}
        lows, highs = (self._offsets(keys, spec) for spec in _ENDS)
        return {key: (lows[key], highs[key]) for key in keys}

    def _offsets(self, keys: Sequence[Key], spec: OffsetSpec) -> dict[Key, int]:
        asked = self._admin.list_offsets({TopicPartition(*key): spec for key in keys}, request_timeout=TIMEOUT_S)
        return {(tp.topic, tp.partition): int(future.result(TIMEOUT_S).offset) for tp, future in asked.items()}

    def create_topic(self, topic: str) -> None:
        """Creates a topic as the brokers create one by default, unless there is one."""
        asked = self._admin.create_topics([NewTopic(topic)], request_timeout=TIMEOUT_S)
        try:
            asked[topic].result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
