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

from delaybox.wire.gen.task_pb2 import Task
from tests.faults.harness import failpoints
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
    return Counter(Task.FromString(m.value() or b"").payload for m in kafka.read(out, count))


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
    with node(folder=tmp_path, environ=failpoints.environ("after_ingest=kill#2")) as running:
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


def test_shell_tasks_by_way_of_the_topic(tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix)
    arguments = ("--enable-shell", "--set", "workers.shell.via=topic")
    original = Task(taskUuid="0190f2f4-8f1d-7d4e-8e49-3b8f2d2f6a01", header={"taskType": b"SHELL_CMD"})
    original.payload = f"echo original >> {tmp_path}/ran".encode()
    with node(*arguments, folder=tmp_path) as running:
        # From a record, over /v1 (no header of the original's), and one that a node of the original put on the topic.
        kafka.produce(topic, [f"echo record >> {tmp_path}/ran".encode()], headers={"taskType": "SHELL_CMD"})
        task = {"type": "shell", "payload": f"echo v1 >> {tmp_path}/ran"}
        assert running.call("POST", "/v1/tasks", task)[0] == 201
        kafka.produce(out, [original.SerializeToString(), b"\xffno task", Task(payload=b"pub").SerializeToString()])
        ran(tmp_path, 3)
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(["record", "v1", "original"])
    # What was finished is committed: nothing runs again.
    kafka.produce(out, [Task(header=original.header, payload=original.payload).SerializeToString()])
    with node(*arguments, folder=tmp_path):
        ran(tmp_path, 4)
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(["record", "v1", "original", "original"])


def ran(folder: Path, count: int) -> None:
    give_up = time.monotonic() + 40
    while not (folder / "ran").exists() or len((folder / "ran").read_text().split()) < count:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_worker_killed_while_a_command_runs_leaves_it_to_be_run_again(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    _, out = configured(tmp_path, kafka, server, prefix)
    arguments = ("--enable-shell", "--set", "workers.shell.via=topic", "--set", "kafka.instance=w")
    command = f"echo begun >> {tmp_path}/ran; test -e {tmp_path}/go || sleep 60; echo done >> {tmp_path}/ran"
    kafka.produce(out, [Task(header={"taskType": b"SHELL_CMD"}, payload=command.encode()).SerializeToString()])
    killed = Node(*arguments, folder=tmp_path)
    ran(tmp_path, 1)
    killed.process.kill()
    killed.process.wait()
    (tmp_path / "go").touch()
    with node(*arguments, folder=tmp_path):
        ran(tmp_path, 3)
    assert (tmp_path / "ran").read_text().split() == ["begun", "begun", "done"]


def test_taking_shell_tasks_from_a_topic_needs_kafka(tmp_path: Path, server: RealServer) -> None:
    refused = Node("--redis", server.url, "--http-port", "0", "--set", "workers.shell.via=topic", folder=tmp_path)
    assert refused.process.wait(30) != 0
    assert "needs kafka.enabled: true" in refused.said()
