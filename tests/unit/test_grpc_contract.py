"""The contract for tools of other languages, and answers that are cut to what clients take."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from delaybox.client import fleet
from delaybox.core.membership import Activity, ConnectedWorker, Member, nodes_of
from delaybox.core.query import QueueList, QueueStats
from delaybox.core.task import TaskType
from delaybox.wire import members
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2, worker_pb2
from delaybox.wire.proto import views

ROOT = Path(__file__).parents[2]
FILES: list[FileDescriptor] = [scheduler.DESCRIPTOR for scheduler in (pb, task_pb2, worker_pb2)]


def described(file: FileDescriptor) -> FileDescriptorProto:
    out = FileDescriptorProto()
    file.CopyToProto(out)
    return out


def test_the_packages_of_generated_code_are_stated():
    for file in map(described, FILES):
        assert file.options.go_package.endswith("/delaybox/v1;delayboxv1")
        assert (file.options.java_package, file.options.java_multiple_files) == ("io.github.delaybox.v1", True)


def _broken_rules() -> set[str]:
    """The lint rules of buf's STANDARD that the contract does not keep, of those that need no buf."""
    broken = set()
    messages = [m for file in map(described, FILES) for m in file.message_type]
    enums = [e for file in map(described, FILES) for e in file.enum_type] + [e for m in messages for e in m.enum_type]
    for enum in enums:
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
        if not all(value.name.startswith(prefix) for value in enum.value):
            broken.add("ENUM_VALUE_PREFIX")
        if not enum.value[0].name.endswith("_UNSPECIFIED"):
            broken.add("ENUM_ZERO_VALUE_SUFFIX")
    if any(not re.fullmatch(r"[a-z0-9_]+", field.name) for m in messages for field in m.field):
        broken.add("FIELD_LOWER_SNAKE_CASE")
    used: list[str] = []
    for service in (service for file in map(described, FILES) for service in file.service):
        if not service.name.endswith("Service"):
            broken.add("SERVICE_SUFFIX")
        for method in service.method:
            asked, answered = (name.rpartition(".")[2] for name in (method.input_type, method.output_type))
            used += [asked, answered]
            if asked not in (f"{method.name}Request", f"{service.name}{method.name}Request"):
                broken.add("RPC_REQUEST_STANDARD_NAME")
            if answered not in (f"{method.name}Response", f"{service.name}{method.name}Response"):
                broken.add("RPC_RESPONSE_STANDARD_NAME")
    if len(set(used)) < len(used):
        broken.add("RPC_REQUEST_RESPONSE_UNIQUE")
    return broken


def test_the_exceptions_of_the_linter_are_those_that_there_are_and_each_has_a_reason():
    lines = (ROOT / "buf.yaml").read_text().splitlines()
    stated = [match for line in lines if (match := re.fullmatch(r" +- ([A-Z_]+)(?: # (.+))?", line))]
    assert all(match[2] for match in stated)
    assert {match[1] for match in stated} == _broken_rules()


def queue(n: int, unserved: int = 0) -> QueueStats:
    names = tuple(f"function-{at}" for at in range(unserved))
    return QueueStats(queue=f"{n:060}", type=TaskType.WORKER, pending=1, ready=1, in_flight=0, unserved=names)


def test_more_queues_than_fit_are_told_of():
    found = QueueList([queue(n) for n in range(60_000)], complete=True)
    answer = views.queues(found, "")
    assert answer.truncated and answer.ByteSize() <= 3 << 20 and len(answer.queues) > 30_000
    assert not views.queues(QueueList(found[:1_000], complete=True), "").truncated
    assert views.queues(found, found[-1].queue).queues[0].queue == found[-1].queue
    many = QueueList([queue(1, unserved=200)], complete=True)
    assert views.queues(many, "").truncated
    assert len(views.queues(many, queue(1).queue).queues[0].unserved) == 200


def test_nodes_of_any_kind_fit():
    worker = ConnectedWorker(identity="w" * 200, labels={f"l{n}": "x" * 200 for n in range(16)})
    large = Activity(types="w", workers=(worker,) * 200, worker_count=900)
    answer = views.nodes(nodes_of([Member(id=f"n{n}", seen_ms=1, activity=large) for n in range(20)]))
    assert answer.truncated and 1 <= len(answer.infos) == len(answer.nodes) < 20 and answer.ByteSize() <= 3 << 20


def test_the_python_client_shows_the_processes_of_nodes_as_rest_does():
    member = Member(id="m", kind="work", seen_ms=1, activity=Activity(types="pshw", rules_version=7, rules_ms=5))
    found = nodes_of([member])
    (mine,) = fleet.nodes().parse(views.nodes(found))[0]["members"]
    (rest,) = members.nodes_json(found).nodes[0].members
    assert sorted(mine["types"]) == sorted(rest.types) == ["http", "pub_sub", "shell", "worker"]
    # Python has moments in milliseconds.
    named = {name.removesuffix("_ms") for name in mine}
    assert named == {name.removesuffix("_ms") for name in rest.__struct_fields__}
    assert (mine["rules_version"], mine["rules_since_ms"]) == (7, 5)
