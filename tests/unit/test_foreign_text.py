"""What callers write and we show: one line stays one line, and no terminal obeys it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from delaybox.cli import messages
from delaybox.cli.listen import _json_line, read, text_line
from delaybox.core import texts
from delaybox.processes.logs import formatter
from delaybox.wire.gen.task_pb2 import Task

FORGED = "2026-11-28T05:00:00.000000Z [critical ] the disk is on fire [delaybox.node]"
EVIL = f"w1\r\n{FORGED}\x1b[2J\x1b]0;title\x07\u202e\u2028\u009b2J\t\x00"
"""Line ends, a screen cleared, a window's title, writing turned round, C1's form of an escape."""


def harmless(shown: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in shown)


def test_a_text_in_one_line() -> None:
    assert texts.line("grüße, 世界") == "grüße, 世界"
    assert texts.line(EVIL).isprintable()
    assert texts.line("a\nb\x1b\u202e\udcff") == "a\\nb\\x1b\\u202e\\udcff"
    assert texts.block("Traceback:\n\tx\x1b\r\n  y") == "Traceback:\n        x\\x1b\\r\n      y"


@pytest.mark.parametrize("logger", ["delaybox.worker", "app.orders"])
def test_no_record_of_a_process_looks_like_two(logger: str) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter("text"))
    try:
        raise ValueError(EVIL)
    except ValueError:
        about: dict[str, Any] = {"exc_info": sys.exc_info(), "levelname": "WARNING", "created": 0.0}
    handler.handle(logging.makeLogRecord({"name": logger, "msg": f"worker {EVIL} went away", **about}))
    first, *rest = out.getvalue().splitlines()
    assert first.startswith("1970-01-01T00:00:00.000000Z [warning  ] worker w1")
    assert harmless(out.getvalue()) and rest and all(line.startswith("    ") for line in rest)
    # Ours are one line beside their traceback; a function's own may have several.
    assert (FORGED in first) == (logger == "delaybox.worker")


NODE = """
import logging, sys
from delaybox.processes import logs
logs.set_up(sys.argv[1])
log = logging.getLogger("delaybox.workers")
evil = sys.stdin.read()
log.warning("worker %s went away with %d tasks; they go to others", evil, 3)
try:
    raise RuntimeError(evil)
except RuntimeError:
    log.exception("a defect")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_record_of_the_node_looks_like_two(log_format: str) -> None:
    evil = EVIL.replace("\r", "").replace("\x00", "")
    done = subprocess.run(
        [sys.executable, "-c", NODE, log_format], input=evil.encode(), capture_output=True, check=True, timeout=60
    )
    output = done.stderr.decode()
    assert harmless(output) and "the disk is on fire" in output
    lines = output.splitlines()
    if log_format == "json":
        assert [json.loads(line)["level"] for line in lines] == ["warning", "error"]
        assert evil in json.loads(lines[0])["event"]
    else:
        records = [line for line in lines if not line.startswith("    ")]
        assert len(records) == 2 and all("delaybox.workers" in line for line in records), output


def test_listen_shows_no_part_of_a_message_as_it_came() -> None:
    task = Task(taskUuid=EVIL, header={EVIL: EVIL.encode()}, payload=EVIL.encode())
    arrival = read(task.SerializeToString(), 0.0)
    assert text_line(arrival).isprintable()
    line = _json_line(arrival)
    assert line.isprintable()
    assert json.loads(line)["taskUuid"] == EVIL and json.loads(line)["parameter"] == {EVIL: EVIL}
    kind = read(Task(taskUuid="ü").SerializeToString(), 0.0)
    assert json.loads(_json_line(kind))["taskUuid"] == "ü"


def test_what_a_node_answers_is_said_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    messages.error(f"the node answered: {EVIL}")
    messages.warning(EVIL)
    messages.note(EVIL)
    output = capsys.readouterr().err
    assert harmless(output)
    assert [line for line in output.splitlines() if line.startswith(("2026", "error: 2026"))] == [
        line for line in output.splitlines() if line.startswith("error: 2026")
    ]
