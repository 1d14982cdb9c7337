"""Whole nodes between two topics of a real broker."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.kafka import Kafka
from tests.nodes import Node, node
from tests.servers import RealServer

pytestmark = pytest.mark.kafka

CONFIG = """
frequency: 1000
httpServer: {{port: 0}}
grpcServer: {{enabled: false}}
kafka:
  enabled: true
  brokers: {brokers}
  group: {group}
  schedulerTopic: {topic}
  taskExecutionTopic: {out}
"""


def configured(folder: Path, kafka: Kafka, server: RealServer, prefix: str, partitions: int = 6) -> tuple[str, str]:
    """Writes the file; the topics in and out."""
    topic, out = kafka.topic(partitions), kafka.topic(3)
    (folder / "config").mkdir()
    text = CONFIG.format(brokers=kafka.bootstrap, group=f"g-{topic}", topic=topic, out=out)
    storage = {"redisUrl": server.url, "prefix": prefix}
    (folder / "config" / "config.yaml").write_text(text + f"storage: {json.dumps(storage)}\n")
    return topic, out


def bodies(kafka: Kafka, out: str, count: int) -> Counter[bytes]:
    from delaybox.wire.gen import task_pb2

    return Counter(task_pb2.Task.FromString(m.value() or b"").payload for m in kafka.read(out, count))


def settled(running: Node, topic: str, count: int) -> None:
    """Returns when that many records of the topic are dealt with."""
    pattern = re.compile(rf'delaybox_kafka_records_total\{{outcome="\w+",topic="{topic}"\}} (\S+)')
    give_up = time.monotonic() + 30
    while sum(float(n) for n in pattern.findall(running.call("GET", "/metrics")[2].decode())) < count:
        assert time.monotonic() < give_up, running.said()
        time.sleep(0.05)


def test_from_topic_to_topic_in_the_originals_format(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix)
    with node(folder=tmp_path) as running:
        running.wait_for(rf"reading {topic}")
        due = time.time_ns() // 1_000_000 + 700
        kafka.produce(topic, [b"later"], headers={"executionTimestamp": str(due), "tenant": "a"})
        kafka.produce(topic, [b"now"])
        kafka.produce(topic, [b"poison"], headers={"delay": "x"})
        assert bodies(kafka, out, 2) == Counter([b"later", b"now"])
        later = next(m for m in kafka.read(out, 2) if b"later" in (m.value() or b""))
        assert later.timestamp()[1] >= due
        settled(running, topic, 3)
        metrics = running.call("GET", "/metrics")[2].decode()
        assert f'delaybox_kafka_records_total{{outcome="dead",topic="{topic}"}} 1.0' in metrics
        assert 'delaybox_kafka_up{client="consumer"} 1.0' in metrics
        assert re.search(rf'delaybox_kafka_lag_records{{partition="\d",topic="{topic}"}} 0.0', metrics)
        assert running.call("GET", "/readyz")[0] == 200


def test_killed_between_storing_and_committing_every_record_is_one_task(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix, partitions=2)
    kafka.produce(topic, [b"%d" % n for n in range(3_000)])
    # Every second round trip is the last of its process; the node starts another one.
    with node(folder=tmp_path, environ={"DELAYBOX_FAILPOINTS": "after_ingest=kill#2"}) as running:
        running.wait_for("the Kafka process ended with exit code -9")
        assert bodies(kafka, out, 3_000) == Counter(b"%d" % n for n in range(3_000))
        assert running.said().count("the Kafka process ended") >= 1


def test_the_kafka_process_ends_with_its_node(tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str) -> None:
    topic, _ = configured(tmp_path, kafka, server, prefix)
    with node(folder=tmp_path) as running:
        running.wait_for(rf"reading {topic}")
        children = children_of(running.process.pid)
        assert any("delaybox.api.kafka.process" in command for command in children.values())
        os.kill(running.process.pid, signal.SIGKILL)
        give_up = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < give_up, children
            time.sleep(0.02)


def children_of(pid: int) -> dict[int, str]:
    """Of a process, with their commands."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def test_a_clean_stop_gives_partitions_back_at_once(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix)
    with node(folder=tmp_path) as first:
        first.wait_for(rf"reading {topic}")
    assert re.search(r"gave up", first.said())
    kafka.produce(topic, [b"after"])
    with node(folder=tmp_path):
        assert bodies(kafka, out, 1) == Counter([b"after"])
