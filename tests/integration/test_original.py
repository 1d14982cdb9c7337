"""What runs with the Go original runs here: its configuration, its environment, its own end-to-end sequence."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaException

from delaybox.wire.gen.task_pb2 import Task
from tests.kafka import Kafka
from tests.nodes import Node, node
from tests.ports import free_port
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

# As it comes with the original, word by word but for comments; Kafka, which it has on, is what a test sets.
SHIPPED = """\
frequency: 100
workerEnable: true #pub-sub only
httpServer:
  port: 8088
  mode: debug # or release
  contextPath: /

storage:
  redisHost: localhost:6379
  redisPass: ${REDIS_PASS}
  redisDb: 0
  schedulerChanel: Scheduler
  taskExecutionChanel: TaskExecution
  schedulerKeyName: scheduled_tasks

kafka:
  enabled: KAFKA
  brokers: localhost:9092
  group: scheduler
  schedulerTopic: Scheduler
  taskExecutionTopic: TaskExecution
"""
# Of its example with several nodes and no Kafka.
SEVERAL = """\
frequency: 100
httpServer:
  port: 8088
  mode: debug # or release
  contextPath: /api/

storage:
  redisHost: localhost:6379
  redisPass: ${REDIS_PASS}
  redisDb: 0
  schedulerChanel: Scheduler
  taskExecutionChanel: TaskExecution
  schedulerKeyName: scheduled_tasks
"""
PASSWORD = "secret"
AHEAD_MS = 3_000


def due_ms(ours: Node) -> int:
    """So far ahead that twenty tasks can be posted and listed before they are due, also on a busy machine."""
    began = time.monotonic()
    for _ in range(3):
        assert ours.call("GET", "/readyz")[0] == 200
    return time.time_ns() // 1_000_000 + AHEAD_MS + int(20_000 * (time.monotonic() - began))


@pytest.fixture
def redis_port(make_server: Callable[..., RealServer]) -> int:
    port = free_port()
    make_server("--port", str(port), "--requirepass", PASSWORD)
    return port


def install(folder: Path, text: str) -> Path:
    path = folder / "config" / "config.yaml"
    path.parent.mkdir()
    path.write_text(text)
    return path


def environment(redis_port: int) -> dict[str, str]:
    """As its compose file sets it, and a port of our own as viper reads one."""
    return {"REDIS_HOST": f"localhost:{redis_port}", "REDIS_PASS": PASSWORD, "APP_HTTPSERVER_PORT": "0"}


@pytest.mark.kafka
def test_its_file_with_kafka_on_starts_unchanged(tmp_path: Path, redis_port: int, kafka: Kafka):
    """In by a record as its clients make them, out as its subscribers read them; its variable names the brokers."""
    install(tmp_path, SHIPPED.replace("KAFKA", "true"))
    for topic in ("Scheduler", "TaskExecution"):
        with contextlib.suppress(KafkaException):  # another test's node may have made it
            kafka.topic(name=topic)
    tag = tmp_path.as_posix().encode()
    with (
        kafka.consumer("TaskExecution") as consumer,
        node(folder=tmp_path, environ=environment(redis_port) | {"BROKERS": kafka.bootstrap}) as ours,
    ):
        assert "unknown key" not in ours.output()
        ours.wait_for("PUB_SUB tasks go to topic TaskExecution")
        due = time.time_ns() // 1_000_000 + 1_500
        kafka.produce("Scheduler", [tag], headers={"executionTimestamp": str(due), "taskType": "PUB_SUB"})
        give_up = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < give_up, ours.output()
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                task = Task.FromString(message.value() or b"")
                if task.payload == tag:
                    break
        assert time.time_ns() // 1_000_000 >= due
        assert task.header["executionTimestamp"] == str(due).encode()


def test_its_end_to_end_sequence(tmp_path: Path, redis_port: int):
    """Empty list, ten tasks from parallel calls, ten in the list, fired once each and not early, empty list."""
    install(tmp_path, SHIPPED.replace("KAFKA", "false"))
    listener = redis.Redis(port=redis_port, password=PASSWORD).pubsub(ignore_subscribe_messages=True)
    listener.subscribe("TaskExecution")
    listener.get_message(timeout=PATIENCE_S)
    with node(folder=tmp_path, environ=environment(redis_port)) as ours:
        assert "unknown key" not in ours.output()
        assert ours.call("GET", "/ping")[2] == b"pong"
        assert ours.call("GET", "/task")[2] == []
        due = due_ms(ours)
        body = {"parameter": {"executionTimestamp": str(due), "taskType": "PUB_SUB"}, "pyload": "VGVzdCBKYXkK"}
        with ThreadPoolExecutor(10) as callers:
            assert {s for s, *_ in callers.map(lambda _: ours.call("POST", "/task", body), range(10))} == {200}
        listed = ours.call("GET", "/task")[2]
        assert [task["pyload"] for task in listed] == ["VGVzdCBKYXkK"] * 10
        fired: list[Task] = []
        while len(fired) < 10:
            message = listener.get_message(timeout=PATIENCE_S)
            assert message is not None
            fired.append(Task.FromString(message["data"]))
        assert time.time_ns() // 1_000_000 >= due
        assert {task.taskUuid for task in fired} == {task["taskUuid"] for task in listed}
        assert {task.payload for task in fired} == {b"Test Jay\n"}
        assert {task.header["executionTimestamp"] for task in fired} == {str(due).encode()}
        assert ours.call("GET", "/task")[2] == []
        assert listener.get_message(timeout=0.3) is None
        assert ours.stop() == 0
    assert PASSWORD not in ours.output()
    listener.close()


def test_its_example_of_several_nodes(tmp_path: Path, redis_port: int):
    """Three nodes behind one address there; whichever is asked, each task fires once."""
    path = install(tmp_path, SEVERAL)
    listener = redis.Redis(port=redis_port, password=PASSWORD).pubsub(ignore_subscribe_messages=True)
    listener.subscribe("TaskExecution")
    listener.get_message(timeout=PATIENCE_S)
    environ = environment(redis_port) | {"APP_CONF_PATH": str(path)}
    with node(folder=tmp_path, environ=environ) as first, node(folder=tmp_path, environ=environ) as second:
        due = due_ms(second)
        body = {"parameter": {"executionTimestamp": str(due)}, "pyload": "VGVzdCBKYXkK"}
        ids = [asked.call("POST", "/api/task", body)[2]["taskUuid"] for asked in (first, second) * 10]
        assert len(second.call("GET", "/api/task")[2]) == 20
        fired: list[str] = []
        while message := listener.get_message(timeout=PATIENCE_S if len(fired) < 20 else 0.5):
            fired.append(Task.FromString(message["data"]).taskUuid)
        assert sorted(fired) == sorted(ids)
    listener.close()


def test_its_thousand_commands(tmp_path: Path, redis_port: int):
    """Its script posts 1,000 of them for one moment ahead, each by a curl of its own."""
    install(tmp_path, SEVERAL)
    out = tmp_path / "out"
    payload = base64.encodebytes(f'echo "current: $(date +%s%3N)" >> {out}\n'.encode()).decode()
    with node("--enable-shell", folder=tmp_path, environ=environment(redis_port)) as ours:
        due = time.time_ns() // 1_000_000 + 4_000
        body = {"parameter": {"executionTimestamp": str(due), "taskType": "SHELL_CMD"}, "pyload": payload}
        with ThreadPoolExecutor(20) as callers:
            statuses = list(callers.map(lambda _: ours.call("POST", "/api/task", body)[0], range(1_000)))
        assert statuses == [200] * 1_000
        ours.until(lambda: out.exists() and len(out.read_bytes().splitlines()) >= 1_000)
        assert ours.call("GET", "/api/task")[2] == []
    moments = [int(line.removeprefix("current: ")) for line in out.read_text().splitlines()]
    assert len(moments) == 1_000
    assert min(moments) >= due
