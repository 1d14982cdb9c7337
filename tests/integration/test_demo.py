"""`make demo` as a newcomer runs it, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.kafka import need_broker
from tests.waiting import PATIENCE_S

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def _start(tmp_path: Path, script: Path = DEMO, **more: str) -> subprocess.Popen[str]:
    # Somebody's settings for another node must not reach the demo's.
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "REDIS_HOST": "127.0.0.1:1",
        "DELAYBOX_HTTP_PORT": "1",
        **more,
    }
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )


def _processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder (on Linux; elsewhere none are found)."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_every_task_fires_never_early_and_nothing_is_left(tmp_path: Path) -> None:
    demo = _start(tmp_path)
    output, _ = demo.communicate(timeout=2 * PATIENCE_S)
    assert demo.returncode == 0, output
    assert "200 of 200 fired." in output
    assert "early: 0" in output
    assert '{"taskType":"PUB_SUB","parameter":{"executionTimestamp":"1721672590913"},"pyload":"VGVzdCBKYXkK"}' in output
    assert _processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_it_stays_up_for_a_look_around_and_ctrl_c_stops_everything(tmp_path: Path) -> None:
    demo = _start(tmp_path, KEEP="1")
    assert demo.stdout is not None
    address = said = ""
    for line in demo.stdout:
        said += line
        if found := re.search(r"its dashboard, while this runs: (\S+)", line):
            address = found[1]
        if "The node stays up" in line:
            break
    else:
        raise AssertionError(f"the demo ended before it stayed up: {said}")
    with urllib.request.urlopen(
        urllib.request.Request(address, headers={"Accept": "text/html"}), timeout=PATIENCE_S
    ) as page:
        assert b"The coming" in page.read()
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130
    assert "Stopped; nothing is left running." in output
    assert _processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
def test_records_go_through_a_real_kafka_and_come_back(tmp_path: Path):
    need_broker()
    process = _start(tmp_path, DEMO.with_name("demo_kafka.py"))
    try:
        out, _ = process.communicate(timeout=2 * PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, out
    assert out.count("ms late") == 12
    assert _processes_of(tmp_path) == []
