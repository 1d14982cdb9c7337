"""`@worker.task` and `Worker`: what they accept, what they say of what they do not."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import delaybox.worker
from delaybox.client.models import Retry
from delaybox.client.new_tasks import new_call
from delaybox.core.errors import ConfigError, InvalidTask
from delaybox.wire.call import name_of
from delaybox.worker import Context, Worker
from delaybox.worker.functions import FunctionKind
from delaybox.worker.task_sources import NodesTarget


def test_the_public_door() -> None:
    assert set(delaybox.worker.__all__) == {
        "CancelSignal",
        "Context",
        "Reject",
        "Retry",
        "RetryLater",
        "Runner",
        "Stopped",
        "TaskFilter",
        "TaskFunction",
        "Worker",
        "add_task_fields",
        "current",
    }


def test_a_task_stays_callable_and_is_known_by_its_name() -> None:
    worker = Worker("w")

    @worker.task(name="mail.send", queue="mail", retries=2, timeout=timedelta(seconds=5), keep_result="1h")
    def send(to: str) -> str:
        """Sends."""
        return f"to {to}"

    assert send("ann") == "to ann"
    assert (send.name, send.queue, send.kind, send.timeout_ms) == ("mail.send", "mail", FunctionKind.THREAD, 5_000)
    assert send.keep_result_ms == 3_600_000
    assert send.retry is not None
    assert send.retry.max_attempts == 3
    assert (name_of(send), send.__doc__, send.__name__) == ("mail.send", "Sends.", "send")
    assert worker.functions == {"mail.send": send}


def test_a_client_takes_the_functions_queue_and_keeping_unless_it_is_told_otherwise() -> None:
    made = Worker("w").task(queue="mail", keep_result="1h")(_async)
    plain, other = new_call(made, None, {}), new_call(made, None, {"queue": "bulk"})
    assert (plain.name, plain.queue, plain.keep_result_ms) == ("_async", "mail", 3_600_000)
    assert (other.queue, other.keep_result_ms) == ("bulk", 3_600_000)


def test_where_functions_run() -> None:
    worker = Worker("w")

    @worker.task
    async def one() -> None: ...

    @worker.task
    def two() -> None: ...

    @worker.task(cpu=True)
    def three() -> None: ...

    assert [f.kind for f in (one, two, three)] == [FunctionKind.ASYNC, FunctionKind.THREAD, FunctionKind.CPU]


async def _generates() -> AsyncIterator[int]:
    yield 1


def _generates_too() -> Any:
    yield 1


async def _async() -> None: ...


@pytest.mark.parametrize(
    ("options", "function", "error", "words"),
    [
        ({}, _generates, TypeError, "it is a generator"),
        ({}, _generates_too, TypeError, "it is a generator"),
        ({}, 7, TypeError, "not callable"),
        ({"cpu": True}, _async, TypeError, "cpu=True is for plain functions"),
        ({"name": "not a name"}, _async, InvalidTask, "'not a name' is not a function's name"),
        ({}, lambda: None, InvalidTask, "'<lambda>' is not a function's name"),
        ({}, functools.partial(_async), InvalidTask, "'' is not a function's name"),
        ({"queue": "No Queue"}, _async, InvalidTask, "queue 'No Queue' is not a name"),
        ({"retries": -1}, _async, InvalidTask, "retries -1 is not in range"),
        ({"timeout": 0}, _async, InvalidTask, "timeout"),
        ({"timeout": "soon"}, _async, InvalidTask, "timeout 'soon'"),
        ({"retry": 3}, _async, TypeError, "unexpected keyword argument 'retry'"),
    ],
)
def test_what_cannot_be_a_task(
    options: dict[str, Any], function: Callable[..., Any], error: type[Exception], words: str
) -> None:
    worker = Worker("w")
    with pytest.raises(error, match=words.replace("(", r"\(")):
        worker.task(**options)(function) if options else worker.task(function)
    assert not worker.functions


def test_two_functions_of_one_name_are_refused() -> None:
    worker = Worker("w")
    worker.task(_async)
    with pytest.raises(InvalidTask, match="has a task '_async' already"):
        worker.task(_async)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"servers": "http://node:9088"}, ConfigError, "endpoint 'http://node:9088'"),
        ({"queues": ["UPPER"]}, InvalidTask, "queue 'UPPER' is not a name"),
        ({"concurrency": 0}, ConfigError, "concurrency=0"),
        ({"threads": 0}, ConfigError, "threads=0"),
        ({"token": "a b"}, ConfigError, "the token holds characters"),
        ({"metrics_port": 99_999}, ConfigError, "metrics_port=99999 is no port; give 0"),
        ({"grace": "soon"}, InvalidTask, "grace 'soon'"),
        ({"ca_file": Path("/no/such.pem")}, ConfigError, "ca_file '/no/such.pem' cannot be read"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Worker("w", **settings)


def _metadata(worker: Worker) -> Any:
    target = worker.target
    assert isinstance(target, NodesTarget)
    return target.target.metadata


def test_settings_come_from_the_environment_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAYBOX_GRPC_SERVERS", "a:1,b:2")
    monkeypatch.setenv("DELAYBOX_TOKEN", "secret")
    assert Worker("w").target.endpoints == ("a:1", "b:2")
    assert _metadata(Worker("w")) == (("authorization", "Bearer secret"),)
    assert _metadata(Worker("w", servers=["c"], token="other")) == (("authorization", "Bearer other"),)


def test_which_queues_functions_are_served_from() -> None:
    def made(**settings: Any) -> Worker:
        worker = Worker("w", **settings)
        worker.task(name="any")(_async)
        worker.task(name="mail", queue="mail")(_async)
        return worker

    assert made().served() == {FunctionKind.ASYNC: {"any": ("default",), "mail": ("mail",)}}
    assert made(queues=["a", "mail"]).served() == {FunctionKind.ASYNC: {"any": ("a", "mail"), "mail": ("mail",)}}
    assert made(queues=["a"]).served() == {FunctionKind.ASYNC: {"any": ("a",)}}


def test_a_worker_with_nothing_to_serve_says_so() -> None:
    with pytest.raises(ConfigError, match="has no task to serve; decorate"):
        Worker("w").runner()
    worker = Worker("w", queues=["other"])
    worker.task(queue="mail")(_async)
    with pytest.raises(ConfigError, match="has no task to serve from the queues other"):
        worker.runner()


def test_a_context_parameter_is_found_by_its_annotation() -> None:
    worker = Worker("w")

    def unresolvable(ctx: Context, other: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def other(ctx: int) -> None: ...

    def plain(ctx): ...

    assert worker.task(unresolvable).context_parameter == "ctx"
    assert worker.task(other).context_parameter == ""
    assert worker.task(plain).context_parameter == ""


def test_a_policy_travels_with_the_function() -> None:
    worker = Worker("w")
    made = worker.task(retries=Retry(7, initial="2s", factor=3, maximum="1m", jitter=0.5))(_async)
    description = made.described(["q"])
    assert (description.name, list(description.queues)) == ("_async", ["q"])
    assert (description.retry.max_attempts, description.retry.initial_ms, description.retry.factor) == (7, 2_000, 3)
    assert (description.retry.max_ms, description.retry.jitter) == (60_000, 0.5)
    assert not worker.task(name="plain")(_async).described([]).HasField("retry")
