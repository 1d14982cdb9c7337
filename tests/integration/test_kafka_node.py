"""Whole nodes between two topics of a real broker."""

from __future__ import annotations

import base64
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
from tests.proc import lives
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until

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
    running.until(lambda: sum(float(n) for n in pattern.findall(running.call("GET", "/metrics")[2].decode())) >= count)


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
        # Whether brokers answer and how far reading is behind is measured once a second, and shown a moment later.
        for words in (
            rf'delaybox_kafka_records_total\{{outcome="dead",topic="{topic}"\}} 1\.0',
            r'delaybox_kafka_up\{client="consumer"\} 1\.0',
            rf'delaybox_kafka_lag_records\{{partition="\d",topic="{topic}"\}} 0\.0',
        ):
            running.until(lambda words=words: re.search(words, running.call("GET", "/metrics")[2].decode()))  # type: ignore[misc]
        assert running.call("GET", "/readyz")[0] == 200


def test_killed_between_storing_and_committing_every_record_is_one_task(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix, partitions=2)
    kafka.produce(topic, [b"%d" % n for n in range(3_000)])
    # Every second round trip is the last of its process; the node starts another one.
    with node(folder=tmp_path, environ=failpoints.environ("after_ingest=kill#2")) as running:
        running.wait_for("the Kafka process was ended by SIGKILL")
        assert bodies(kafka, out, 3_000) == Counter(b"%d" % n for n in range(3_000))
        assert running.output().count("the Kafka process was ended") >= 1


def test_the_kafka_process_ends_with_its_node(tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str) -> None:
    topic, _ = configured(tmp_path, kafka, server, prefix)
    with node(folder=tmp_path) as running:
        running.wait_for(rf"reading {topic}")
        children = children_of(running.process.pid)
        assert any("delaybox.roles.kafka" in command for command in children.values())
        os.kill(running.process.pid, signal.SIGKILL)
        until(lambda: not any(map(lives, children)), lambda: children)


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
    assert re.search(r"gave up", first.output())
    kafka.produce(topic, [b"after"])
    with node(folder=tmp_path):
        assert bodies(kafka, out, 1) == Counter([b"after"])


KEY = "workers.shell.signingKeys=" + "k" * 40
BY_TOPIC = ("--enable-shell", "--set", "workers.shell.via=topic")
UNSIGNED = ("--set", "workers.shell.acceptUnsigned=true")


def dropped(running: Node) -> dict[str, float]:
    """Messages that were not run, by reason."""
    pattern = r'delaybox_topic_work_dropped_messages_total\{reason="(\w+)"\} (\S+)'
    found = re.findall(pattern, running.call("GET", "/metrics")[2].decode())
    return {reason: float(count) for reason, count in found}


@pytest.mark.parametrize("form", ["task", "payload"])
def test_who_may_only_schedule_cannot_have_a_command_run_by_way_of_the_topic(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str, form: str
) -> None:
    _, out = configured(tmp_path, kafka, server, prefix)
    smuggled = Task(taskUuid="0190f2f4-8f1d-7d4e-8e49-3b8f2d2f6a01", header={"taskType": b"SHELL_CMD"})
    smuggled.payload = f"echo smuggled >> {tmp_path}/ran".encode()
    raw = smuggled.SerializeToString()
    scopes = {"caller-of-the-test": ["schedule"], "admin-of-the-test": ["schedule", "shell"]}
    tokens = "auth.tokens=" + json.dumps([{"token": token, "scopes": may} for token, may in scopes.items()])
    arguments = (*BY_TOPIC, "--set", KEY, "--set", f"kafka.value={form}", "--set", tokens)
    caller = {"Content-Type": "application/json", "Authorization": "Bearer caller-of-the-test"}
    admin = {**caller, "Authorization": "Bearer admin-of-the-test"}
    with node(*arguments, folder=tmp_path) as running:
        command = {"payload": smuggled.payload.decode(), "headers": {"taskType": "SHELL_CMD"}}
        status, _, answer = running.call("POST", "/v1/tasks", command, caller)
        assert (status, answer["field"]) == (400, "headers.taskType")
        _, _, answer = running.call("POST", "/v1/tasks/batch", {"tasks": [command, {"payload": "x"}]}, caller)
        refused_one, stored_one = answer["items"]
        assert "headers.taskType" in json.dumps(refused_one) and stored_one["id"]
        posted = {"parameter": {"taskType": "SHELL_CMD"}, "pyload": "aWQ="}
        assert running.call("POST", "/task", posted, caller)[0] == 403
        # With `value: payload` this very message stands on the topic; and then one that no node of ours sent.
        encoded = {"payload_base64": base64.b64encode(raw).decode()}
        assert running.call("POST", "/v1/tasks", encoded, caller)[0] == 201
        kafka.produce(out, [raw])
        kafka.produce(out, [raw], headers={"delaybox-signature": "v1=" + "0" * 64, "delaybox-task-type": "SHELL_CMD"})
        # What runs after all of these shows that they are dealt with: nodes take them in their order on each partition.
        for n in range(6):
            task = {"type": "shell", "payload": f"echo meant{n} >> {tmp_path}/ran"}
            assert running.call("POST", "/v1/tasks", task, admin)[0] == 201
        ran(tmp_path, 6)
        expected = {"unsigned": 2.0 if form == "payload" else 1.0, "bad_signature": 1.0}
        until(lambda: dropped(running) == expected, lambda: dropped(running))
        assert "shell commands were dropped" in running.output() and "smuggled" not in running.output()
    assert sorted((tmp_path / "ran").read_text().split()) == [f"meant{n}" for n in range(6)]


def test_a_node_without_a_key_refuses_to_take_commands_from_a_topic(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    configured(tmp_path, kafka, server, prefix)
    refused = Node(*BY_TOPIC, folder=tmp_path)
    assert refused.process.wait(PATIENCE_S) != 0
    assert "there is no key" in refused.output() and "workers.shell.signingKeys" in refused.output()


def test_shell_tasks_by_way_of_the_topic(tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str) -> None:
    topic, out = configured(tmp_path, kafka, server, prefix)
    arguments = (*BY_TOPIC, "--set", KEY, *UNSIGNED)
    original = Task(taskUuid="0190f2f4-8f1d-7d4e-8e49-3b8f2d2f6a01", header={"taskType": b"SHELL_CMD"})
    original.payload = f"echo original >> {tmp_path}/ran".encode()
    with node(*arguments, folder=tmp_path) as running:
        # From a record, over /v1 (no header of the original's), and one that a node of the original put on the topic.
        kafka.produce(topic, [f"echo record >> {tmp_path}/ran".encode()], headers={"taskType": "SHELL_CMD"})
        task = {"type": "shell", "payload": f"echo v1 >> {tmp_path}/ran"}
        assert running.call("POST", "/v1/tasks", task)[0] == 201
        kafka.produce(out, [original.SerializeToString(), b"\xffno task", Task(payload=b"pub").SerializeToString()])
        ran(tmp_path, 3)
        assert "whoever may write to topic" in running.output()
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(["record", "v1", "original"])
    # What was finished is committed: nothing runs again.
    kafka.produce(out, [Task(header=original.header, payload=original.payload).SerializeToString()])
    with node(*arguments, folder=tmp_path):
        ran(tmp_path, 4)
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(["record", "v1", "original", "original"])


def ran(folder: Path, count: int) -> None:
    until(lambda: (folder / "ran").exists() and len((folder / "ran").read_text().split()) >= count)


def test_a_worker_killed_while_a_command_runs_leaves_it_to_be_run_again(
    tmp_path: Path, kafka: Kafka, server: RealServer, prefix: str
) -> None:
    _, out = configured(tmp_path, kafka, server, prefix)
    arguments = (*BY_TOPIC, *UNSIGNED, "--set", "kafka.instance=w")
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
    assert refused.process.wait(PATIENCE_S) != 0
    assert "needs kafka.enabled: true" in refused.output()
