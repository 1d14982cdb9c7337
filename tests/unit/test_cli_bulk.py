"""`schedule --file` without a node: lines, keys, groups, what is sent again."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from delaybox.cli import taskfile
from delaybox.cli.bulk import GIVE_UP_S, Sender
from delaybox.cli.client import NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.taskfile import BadLine, TaskLine, batches, lines_of


def read(text: str | bytes, run: str = "") -> list[TaskLine | BadLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(lines_of(io.BytesIO(data), run))


def keys(text: str, run: str = "") -> list[str]:
    return [json.loads(line.task)["idempotency_key"] for line in read(text, run) if isinstance(line, TaskLine)]


def test_each_line_is_a_task_with_a_key_and_is_else_untouched() -> None:
    lines = read('\ufeff{"payload_json": {"a": 1.0}}\r\n\n  {}  \n{"idempotency_key":"mine"}')
    assert [line.number for line in lines] == [1, 3, 4]
    first, second, third = (line.task for line in lines if isinstance(line, TaskLine))
    assert first.startswith(b'{"payload_json": {"a": 1.0},"idempotency_key":"cli:')
    assert json.loads(second).keys() == {"idempotency_key"}
    assert third == b'{"idempotency_key":"mine"}'


def test_keys_are_the_same_the_next_time_whatever_was_mended_elsewhere() -> None:
    assert keys('{"a":1}\n{"a":2}') == keys('{"a":1}\n{"a":2}')
    assert keys('{"a":0}\n{"a":1}\n{"a":2}')[1:] == keys('{"a":1}\n{"a":2}')


def test_equal_lines_are_as_many_tasks() -> None:
    found = keys('{"a":1}\n{"a":1}\n{"a":1}')
    assert len(set(found)) == 3
    assert found == keys('{"a":1}\n{"a":1}\n{"a":1}')


def test_another_run_is_other_tasks() -> None:
    assert keys('{"a":1}', "one") != keys('{"a":1}', "two") != keys('{"a":1}')


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nonsense", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"payload": NaN}', "NaN is no JSON number"),
        (b'{"payload": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"idempotency_key": null}', "idempotency_key is null"),
        (b'{"payload":"' + b"x" * taskfile.MAX_LINE + b'"}', "longer than"),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_is_read(line: bytes, words: str) -> None:
    bad, good = read(line + b"\n{}")
    assert isinstance(bad, BadLine)
    assert bad.number == 1
    assert words in bad.detail
    assert isinstance(good, TaskLine)
    assert good.number == 2


def test_groups_are_bounded_by_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    bad: list[BadLine] = []
    groups = list(batches(read("{}\nx\n" * 2_500), bad.append))
    assert [len(group) for group in groups] == [1_000, 1_000, 500]
    assert len(bad) == 2_500
    monkeypatch.setattr(taskfile, "BATCH_BYTES", 200)
    assert [len(g) for g in batches([TaskLine(n, b"x" * 90, 0) for n in range(5)], bad.append)] == [2, 2, 1]


class Node(RestClient):
    """Answers each batch as told; counts as a node does that knows keys."""

    def __init__(self, *script: Any) -> None:
        super().__init__("http://node")
        self.script = list(script)
        self.calls: list[int] = []

    def send(self, method: str, path: str, data: bytes | None, *, query: Any = None) -> Any:
        tasks = json.loads(data or b"")["tasks"]
        self.calls.append(len(tasks))
        step = self.script.pop(0) if self.script else 201
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step = step(tasks)
        items = [step] * len(tasks) if isinstance(step, int) else step
        return {"items": [{"status": s, "error": {"code": "c", "detail": f"no {s}"}} for s in items]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def sender(node: Node, draw: float = 0.0) -> tuple[Sender, list[BadLine], Clock]:
    bad: list[BadLine] = []
    clock = Clock()
    return Sender(node, bad.append, clock=clock, sleep=clock.sleep, draw=lambda: draw), bad, clock


def group(size: int) -> list[TaskLine]:
    return [TaskLine(n + 1, b'{"n":%d}' % n, 10 * n) for n in range(size)]


def test_each_answer_is_counted_for_its_line() -> None:
    sending, bad, _ = sender(Node([201, 200, 400, 409, 201]))
    sending.send(group(5))
    assert (sending.done.created, sending.done.duplicates, sending.done.line) == (2, 1, 5)
    assert [(line.number, line.detail) for line in bad] == [(3, "no 400"), (4, "no 409")]


def test_only_what_the_node_could_not_take_is_sent_again() -> None:
    node = Node([201, 503, 429, 201], [503, 201], [201])
    sending, bad, clock = sender(node)
    sending.send(group(4))
    assert node.calls == [4, 2, 1]
    assert (sending.done.created, bad) == (4, [])
    assert clock.now == 0  # each call took something


def test_an_overloaded_node_is_waited_for_as_it_asks() -> None:
    node = Node(NodeRefused(429, "overloaded", "later", retry_after_s=7), 201)
    sending, _, clock = sender(node)
    sending.send(group(3))
    assert sending.done.created == 3
    assert clock.now == 7


def test_those_who_were_refused_at_once_come_again_at_different_times() -> None:
    sending, _, clock = sender(Node(NodeRefused(429, "overloaded", "later", retry_after_s=1), 201), draw=0.5)
    sending.send(group(3))
    assert clock.now == 1.5


def test_a_node_that_takes_nothing_is_given_up() -> None:
    node = Node(201, *[503] * 1000)
    sending, _, clock = sender(node)
    sending.send(group(1))
    with pytest.raises(NodeUnreachable, match="has taken nothing for 60 s"):
        sending.send(group(1))
    assert GIVE_UP_S <= clock.now <= GIVE_UP_S + 6


def test_a_node_that_restarts_is_waited_for_but_a_wrong_address_is_not() -> None:
    away = NodeUnreachable("away", sent=True)
    sending, _, _ = sender(Node(201, away, away, 201))
    sending.send(group(1))
    sending.send(group(1))
    assert sending.done.created == 2
    sending, _, _ = sender(Node(away))
    with pytest.raises(NodeUnreachable, match="away"):
        sending.send(group(1))


def test_a_missing_scope_ends_it() -> None:
    sending, _, _ = sender(Node(NodeRefused(403, "scope_missing", "no")))
    with pytest.raises(NodeRefused, match="no"):
        sending.send(group(2))


def test_a_line_that_spoils_its_batch_is_found() -> None:
    def strict(tasks: list[dict[str, int]]) -> int:
        if any(task["n"] == 5 for task in tasks):
            raise NodeRefused(400, "bad_json", "cannot read")
        return 201

    sending, bad, _ = sender(Node(*[strict] * 50))
    sending.send(group(8))
    assert sending.done.created == 7
    assert [(line.number, line.detail) for line in bad] == [(6, "cannot read")]
