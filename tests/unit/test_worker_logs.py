"""A failed attempt leaves a trace where it ran, and every record can say for which task it was written."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from delaybox.core.delivery import Delivery
from delaybox.core.lane import lane_of
from delaybox.core.task import TaskType
from delaybox.direct.session import OwnTask
from delaybox.processes.logs import formatter
from delaybox.store.record import read_dead, stored_reason, traceback_of
from delaybox.targets.worker_offers import Offered
from delaybox.worker import Reject, TaskFilter, Worker, failures
from delaybox.worker.attempt import Common, TaskRun
from delaybox.worker.functions import FunctionKind
from tests.crews import shift
from tests.unit import cpu_tasks

WORKER = Worker("test")
LOG = logging.getLogger("app.orders")
ID = "01a2b3c4-d5e6-8001-9f00-112233445566"
"""Of every task that `Shift` gives."""


@WORKER.task
async def charges(order: int) -> None:
    LOG.info("charging %d", order)
    raise LookupError(f"no order {order}")


@WORKER.task
def refuses() -> None:
    LOG.info("in a thread")
    raise Reject("no use")


class Captured(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(TaskFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, name: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name == name]


@pytest.fixture
def captured() -> Iterator[Captured]:
    handler, root = Captured(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


def about(record: Any) -> tuple[str, str, int]:
    return record.task_id, record.task_name, record.task_attempt


async def test_a_failed_attempt_is_logged_with_its_traceback(captured: Captured) -> None:
    async with shift(WORKER, FunctionKind.ASYNC) as s:
        (given,) = s.give(("charges", [7]))
        await s.until(given)
    (record,) = captured.of("delaybox.worker")
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"task {ID} (charges) failed in attempt 2: LookupError: no order 7"
    assert record.exc_text is not None
    assert "in charges" in record.exc_text and record.exc_text.endswith("LookupError: no order 7")
    assert about(record) == (ID, "charges", 2)


async def test_what_will_not_be_tried_again_is_an_error_and_what_is_cancelled_is_none(captured: Captured) -> None:
    async with shift(WORKER, FunctionKind.THREAD) as s:
        (given,) = s.give(("refuses", []))
        await s.until(given)
    (record,) = captured.of("delaybox.worker")
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        f"task {ID} (refuses) failed in attempt 2: no use; there will be no other",
    )


@pytest.mark.parametrize(
    ("kind", "call"), [(FunctionKind.ASYNC, ("charges", [7])), (FunctionKind.THREAD, ("refuses", []))]
)
async def test_what_a_function_logs_says_for_which_task(captured: Captured, kind: FunctionKind, call: Any) -> None:
    async with shift(WORKER, kind) as s:
        (given,) = s.give(call)
        await s.until(given)
    (record,) = captured.of("app.orders")
    assert about(record) == (ID, call[0], 2)
    LOG.info("outside")
    assert about(captured.records[-1]) == ("", "", 0)


async def test_cpu_functions_log_with_the_settings_of_the_worker(captured: Captured) -> None:
    verbose = logging.getLogger("app.verbose")
    verbose.setLevel(logging.DEBUG)
    try:
        async with shift(cpu_tasks.WORKER, FunctionKind.CPU, size=1) as s:
            (given,) = s.give(("logs", ["line\nforged"]))
            await s.until(given)
    finally:
        verbose.setLevel(logging.NOTSET)
    (record,) = captured.of("app.cpu")
    assert record.getMessage() == "from afar: line\nforged"
    assert about(record) == (ID, "logs", 2)
    assert record.__dict__["order"] == 7
    assert [r.getMessage() for r in captured.of("app.verbose")] == ["wanted"]
    (failed,) = captured.of("delaybox.worker")
    assert failed.exc_text is not None and "in logs" in failed.exc_text


def line(log_format: str, message: str, *, exc_text: str | None = None, **more: Any) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter(log_format))
    known = {"name": "app", "msg": message, "levelname": "WARNING", "process": 12, "created": 0.25}
    record = logging.makeLogRecord({**known, "exc_text": exc_text, **more})
    handler.handle(record)
    return out.getvalue()


TASK: dict[str, Any] = {"task_id": ID, "task_name": "charges", "task_attempt": 2}


def test_a_task_whose_body_cannot_be_read_is_reported_all_the_same() -> None:
    lane = lane_of(TaskType.WORKER, "mail", "refuses")
    delivery = Delivery(bytes(16), 0, b"lease", 1, 0, 0, 0, lane, stub=False, body=b"\xff\xff")
    offered = Offered(delivery, None, 0)  # type: ignore[arg-type]
    sent: list[Any] = []
    session: Any = SimpleNamespace(max_output=0, failed=lambda *report: sent.append(report))
    run = TaskRun(session, OwnTask(7, offered), WORKER.functions["refuses"], Common())
    with pytest.raises(DecodeError):
        run.arguments()
    assert run.fail(failures.failed("it cannot be read"))
    assert [number for number, _ in sent] == [7]


def test_a_line_of_text_has_utc_level_logger_and_task() -> None:
    assert line("text", "well") == "1970-01-01T00:00:00.250000Z [warning  ] well [app] process=12\n"
    assert line("text", "well", **TASK).endswith(f"[app] process=12 task={ID} function=charges attempt=2\n")


def test_foreign_lines_do_not_look_like_records() -> None:
    written = line("text", "a\n1970-01-01T00:00:00Z [error    ] forged\r\x1b[31m", exc_text="Traceback\n  x")
    assert written.splitlines()[1:] == [
        "    1970-01-01T00:00:00Z [error    ] forged\\r\\x1b[31m",
        "    Traceback",
        "      x",
    ]


def test_a_line_of_json_is_an_object() -> None:
    written = line("json", "a\nb", exc_text="Traceback", **TASK)
    assert written.count("\n") == 1
    assert json.loads(written) == {
        "event": "a\nb",
        "level": "warning",
        "logger": "app",
        "timestamp": "1970-01-01T00:00:00.250000Z",
        "process": 12,
        "task": ID,
        "function": "charges",
        "attempt": 2,
        "exception": "Traceback",
    }


def test_a_record_of_a_dead_letter_holds_reason_and_traceback() -> None:
    task_id, record = bytes(16), b"\x10\x02\x09w:default"
    for reason, traceback in (("why", "Trace\nback"), ("why", ""), ("a\0b", "x"), ("r" * 9_000, "t" * 90_000 + "end")):
        raw = stored_reason(reason, traceback)
        value = (5).to_bytes(8, "big") + len(raw).to_bytes(2, "big") + raw + record
        died, words, read = read_dead(task_id, value)
        assert (died, read.lane) == (5, b"w:default")
        assert words == (reason.replace("\0", " ") if len(reason) < 2_000 else "r" * 1_995 + "[...]")
        kept = traceback_of(value)
        assert kept == traceback or (len(kept) == 8 * 1024 and kept.startswith("[...]ttt") and kept.endswith("end"))
    assert traceback_of(b"") == ""


def test_a_worker_started_by_a_command_logs_utc(tmp_path: Path) -> None:
    """The one place where handlers are set up; what it is given is looked at above."""
    from delaybox.worker import logs

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        logs.set_up("text")
        (handler,) = root.handlers
        assert any(isinstance(f, TaskFilter) for f in handler.filters)
        made = logging.makeLogRecord({"msg": "m", "created": 0.0, "levelname": "INFO", "name": "n"})
        assert re.match(r"1970-01-01T00:00:00\.000000Z \[info {5}\] m", handler.format(made))
    finally:
        root.handlers[:] = before
        root.setLevel(level)
