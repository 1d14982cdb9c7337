"""Commands that wait for something, while the node restarts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from delaybox.cli import changes, queues, several
from delaybox.cli.client import NodeRefused, NodeUnreachable

AWAY = (NodeUnreachable("no node answers"), NodeRefused(502, "http_502", "http://proxy answered 502"))
STARTS = NodeRefused(503, "store_unavailable", "the store does not answer")


class Answering:
    """Answers one GET after the other, or raises."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = iter(answers)

    def get(self, path: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "AGAIN_S", 0)
    monkeypatch.setattr(queues, "_LOOK_EVERY_S", 0)


def waited(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any] | Exception, timeout: str | None = None) -> None:
    client = Answering(*answers)
    monkeypatch.setattr(changes, "connect", lambda *_: client)
    changes.wait("ID", None, timeout, "", "", as_json=True)


def test_a_wait_outlives_a_restart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waited(monkeypatch, {"state": "scheduled"}, *AWAY, STARTS, {"state": "running"}, {"state": "succeeded"})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"state": "succeeded"}
    assert shown.err.count("goes on when a node answers") == 1


def test_a_wait_ends_with_its_time_though_no_node_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        waited(monkeypatch, {"state": "scheduled"}, *AWAY * 10**5, timeout="20ms")
    assert ended.value.exit_code == 1 and json.loads(capsys.readouterr().out) == {"state": "scheduled"}


@pytest.mark.parametrize("error", [*AWAY, NodeRefused(404, "not_found", "no task ID")])
def test_of_a_task_that_was_never_seen_the_error_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        waited(monkeypatch, error)


def test_what_lasts_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeRefused):
        waited(monkeypatch, {"state": "scheduled"}, NodeRefused(401, "unauthenticated", "no token"))


def test_a_queue_is_drained_over_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Answering({"in_flight": 2}, *AWAY, {"in_flight": 1}, {"in_flight": 0})
    queues._drain(client, "mail", quiet=False)
    told = capsys.readouterr().err
    assert told.count("goes on when a node answers") == 1 and "2 still run" in told and "1 still run" in told
