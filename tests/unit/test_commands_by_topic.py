"""Nobody who may only schedule can have a command run: no free header makes one, and no message without a signature."""

from __future__ import annotations

import json

import pytest

from delaybox.api.kafka.topic_command import Commands, Dropped
from delaybox.client import NewTask as ClientTask
from delaybox.core.delivery import Delivery
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.core.lane import lane_of
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import NewTask, TaskType
from delaybox.store.record import draft
from delaybox.targets.kafka_message import Headers, composer
from delaybox.wire import body as wire_body
from delaybox.wire import controls
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen.task_pb2 import Task
from delaybox.wire.json import tasks as v1
from delaybox.wire.original import message, request
from delaybox.wire.proto.tasks import new_task
from delaybox.wire.shell_signing import COVERED, SIGNATURE, Signing
from delaybox.wire.topics import TopicRules

ID = bytes.fromhex("0190d3a8cb918001a123456789abcdef")
SHOWN = "0190d3a8-cb91-8001-a123-456789abcdef"
KEY, OTHER = "k" * 32, "o" * 32
SIGNED = Commands(Signing([KEY]), accept_unsigned=False)
ALL = Commands(Signing([]), accept_unsigned=True)
COMMAND = Task(taskUuid=SHOWN, header={"taskType": b"SHELL_CMD"}, payload=b"id").SerializeToString()


def sent(task: NewTask, *, keys: tuple[str, ...] = (KEY,), value: str = "task") -> tuple[str, bytes, Headers]:
    """What a node puts on the topic for it: topic, value, headers."""
    lane = lane_of(task.type, task.queue, task.name)
    d = Delivery(ID, 1, b"lease", 7, 2, 0, 1_721_672_590_913, lane, False, wire_body.encode(task))
    compose = composer(TopicRules("out"), value=value, source="/x", signing=Signing(keys))  # type: ignore[arg-type]
    topic, raw, _, headers = compose(d)
    assert raw is not None
    return topic, raw, headers


def shell(payload: bytes = b"id", **more: object) -> NewTask:
    return NewTask(type=TaskType.SHELL_CMD, payload=payload, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(controls.RESERVED))
def test_free_headers_with_a_reserved_name_are_refused_over_v1_grpc_and_in_the_client(name: str) -> None:
    for ask in (
        lambda: v1.parse_task(json.dumps({"headers": {name: "SHELL_CMD"}}).encode(), v1.TaskRules()),
        lambda: new_task(pb.NewTask(headers={name: b"SHELL_CMD"}), v1.TaskRules()),
        lambda: ClientTask.publish("x", headers={name: "SHELL_CMD"}),
    ):
        with pytest.raises(InvalidTask, match=f"header name '{name}' is reserved.* or another header name") as caught:
            ask()
        assert caught.value.field == f"headers.{name}"


def test_other_headers_are_free() -> None:
    for name in ("TaskType", "task-type", "ce_id", "trace", "topic", "kafkaKey", "SHELL_CMD", "name"):
        assert v1.headers_of({name: b"SHELL_CMD"})


def test_no_door_stores_a_task_whose_header_contradicts_its_type() -> None:
    """Whatever a door lets through: one function makes every record that has headers."""
    with pytest.raises(InvalidTask, match="no shell task, but its header taskType says 'SHELL_CMD'"):
        draft(NewTask(header={"taskType": b"SHELL_CMD"}, payload=b"id"))
    with pytest.raises(InvalidTask, match="a shell task, but its header taskType says 'PUB_SUB'"):
        draft(shell(header={"taskType": b"PUB_SUB"}))
    draft(shell(header={"taskType": b"SHELL_CMD"}))
    draft(NewTask(header={"taskType": b"EMAIL"}))


def test_where_the_original_has_control_fields_they_decide_the_type_themselves() -> None:
    rules = request.OriginalRules(types=frozenset({TaskType.PUB_SUB}))
    both = request.OriginalRules(types=frozenset({TaskType.PUB_SUB, TaskType.SHELL_CMD}))
    posted = b'{"parameter":{"taskType":"SHELL_CMD"},"pyload":"aWQ="}'
    for read, raw in ((request.parse_task, posted), (message.of_message, COMMAND)):
        with pytest.raises(DelayBoxError, match="switched off"):
            read(raw, rules)
        task = read(raw, both)
        assert task.type is TaskType.SHELL_CMD and task.header == {"taskType": b"SHELL_CMD"}
        draft(task)
    _, taken_over = message.of_pending(COMMAND, 0.0)
    assert taken_over.type is TaskType.SHELL_CMD
    draft(taken_over)


def test_a_task_stored_with_a_command_in_its_header_is_not_sent() -> None:
    with pytest.raises(InvalidTask, match="no shell task, but its header"):
        sent(NewTask(header={"taskType": b"SHELL_CMD"}, payload=b"id"))


@pytest.mark.parametrize("payload", [b"id", b"echo taskType", b"", b"x" * 5_000])
def test_a_command_arrives_as_it_was_sent(payload: bytes) -> None:
    task = shell(payload, name="backup", timeout_ms=5_000, header={"a": b"b"})
    found = SIGNED.read(*sent(task))
    assert isinstance(found, Delivery)
    assert (found.task_id, found.token, found.attempt, found.name) == (ID, 7, 2, "backup")
    message = wire_body.decode(found.body)
    assert (message.payload, message.timeout_ms, message.header["a"]) == (payload, 5_000, b"b")


def test_keys_can_be_replaced() -> None:
    for keys in ((KEY, OTHER), (OTHER, KEY), (KEY,)):
        assert isinstance(
            Commands(Signing([KEY, OTHER]), accept_unsigned=False).read(*sent(shell(), keys=keys)), Delivery
        )
    assert SIGNED.read(*sent(shell(), keys=(OTHER, KEY))) is Dropped.FORGED


def test_what_has_no_signature_is_dropped() -> None:
    assert SIGNED.read("out", COMMAND, None) is Dropped.UNSIGNED
    topic, value, headers = sent(shell(), keys=())
    assert SIGNED.read(topic, value, headers) is Dropped.UNSIGNED
    assert SIGNED.read(topic, value, [*headers, (SIGNATURE, b"")]) is Dropped.FORGED
    # Not even where a node has neither a key nor the permission.
    assert Commands(Signing([]), accept_unsigned=False).read(*sent(shell())) is Dropped.UNSIGNED


def test_nothing_that_is_signed_can_be_changed_or_put_elsewhere() -> None:
    topic, value, headers = sent(shell(b"echo good", timeout_ms=5_000))
    message = Task.FromString(value)
    for change in (
        {"payload": b"echo evil"},
        {"taskUuid": "0190d3a8-cb91-8001-a123-456789abcdee"},
        {"timeout_ms": 86_400_000},
        {"name": "backup"},
        {"keep_result_ms": 1},
    ):
        changed = Task()
        changed.CopyFrom(message)
        for name, one in change.items():
            setattr(changed, name, one)
        assert SIGNED.read(topic, changed.SerializeToString(), headers) is Dropped.FORGED, change
    assert SIGNED.read("other", value, headers) is Dropped.FORGED
    for name in (*COVERED, SIGNATURE):
        without = [pair for pair in headers if pair[0] != name]
        assert isinstance(SIGNED.read(topic, value, without), Dropped), name
        assert SIGNED.read(topic, value, [*without, (name, b"1")]) is Dropped.FORGED, name
        assert SIGNED.read(topic, value, [*headers, (name, b"1")]) is Dropped.FORGED, name
    assert isinstance(SIGNED.read(topic, value, headers), Delivery)


def test_unsigned_commands_run_where_that_is_said_but_never_what_a_node_sent_as_another_type() -> None:
    assert isinstance(ALL.read("out", COMMAND, None), Delivery)
    assert isinstance(ALL.read(*sent(shell(), keys=())), Delivery)
    assert isinstance(ALL.read(*sent(shell(), keys=(OTHER,))), Delivery)
    # `kafka.value: payload`: the message is the caller's payload, byte for byte.
    topic, value, headers = sent(NewTask(payload=COMMAND), value="payload")
    assert value == COMMAND
    assert ALL.read(topic, value, headers) is Dropped.NO_COMMAND
    assert SIGNED.read(topic, value, headers) is Dropped.UNSIGNED
    event = {"ce_id": b"1", "ce_delaybox-task-type": b"SHELL_CMD", "delaybox-task-type": b"SHELL_CMD"}
    assert ALL.read(*sent(NewTask(payload=COMMAND, header=event), value="payload")) is Dropped.NO_COMMAND


def test_what_is_no_command_is_left_to_others() -> None:
    for value in (b"\xffno task", b"", Task(payload=b"x").SerializeToString(), sent(NewTask(payload=b"x"))[1]):
        assert SIGNED.read("out", value, None) is None


def test_a_cost_goes_with_the_command() -> None:
    task = shell(name="report", needs=WorkerNeeds(4))
    lane = lane_of(task.type, task.queue, task.name + task.needs.text())
    d = Delivery(ID, 1, b"lease", 7, 2, 0, 1_721_672_590_913, lane, False, wire_body.encode(task))
    compose = composer(TopicRules("out"), value="task", source="/x", signing=Signing([KEY]))
    topic, raw, _, headers = compose(d)
    assert raw is not None
    found = SIGNED.read(topic, raw, headers)
    assert isinstance(found, Delivery) and found.lane == b"s:report!4"
    changed = Task.FromString(raw)
    changed.header["delaybox-cost"] = b"1"
    assert SIGNED.read(topic, changed.SerializeToString(), headers) is Dropped.FORGED
    for wrong in (b"0", b"1001", b"x", b"", b"99999"):
        changed.header["delaybox-cost"] = wrong
        found = ALL.read(topic, changed.SerializeToString(), [])
        assert isinstance(found, Delivery) and found.lane == b"s:report"
