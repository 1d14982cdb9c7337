"""The broker that the other Kafka tests stand on."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient

from tests.kafka import Kafka, shared
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.kafka


def test_what_is_produced_is_read(kafka: Kafka):
    topic = kafka.topic(partitions=3)
    values = [b"%d" % n for n in range(1_000)]
    kafka.produce(topic, values, headers={"delay": "5"})
    got = kafka.read(topic, len(values))
    assert {m.value() for m in got} == set(values)
    assert got[0].headers() == [("delay", b"5")]


def test_those_who_share_a_folder_share_the_broker(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory):
    base = tmp_path_factory.getbasetemp()
    folder = next(f for f in (base.parent / "kafka", base / "kafka") if (f / "address").exists())
    with shared(folder) as again:
        assert again.bootstrap == kafka.bootstrap
    assert AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=PATIENCE_S).brokers
