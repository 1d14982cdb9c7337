"""A forked process of the tests is as one that a fresh interpreter has become."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick_start
from tests.quick_start import QuickPopen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="everywhere else interpreters are fresh")

VERSION = (sys.executable, "-m", "delaybox", "--version")


@pytest.fixture(autouse=True)
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_start, "fresh", False)


def interpreter(pid: int) -> list[str]:
    """The arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


def test_output_errors_and_exit_codes_are_those_of_a_fresh_interpreter(tmp_path: Path) -> None:
    commands = (["--version"], ["serve", "--nope"], ["get", "no-id", "--server", "http://127.0.0.1:1"], ["nonsense"])
    for arguments in commands:
        command = [sys.executable, "-m", "delaybox", *arguments]
        forked = QuickPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        fresh = quick_start.FreshPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert (*forked.communicate(), forked.returncode) == (*fresh.communicate(), fresh.returncode), arguments


def test_it_is_a_child_with_a_session_a_folder_and_an_environment_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "delaybox.worker", "no_such_module_here", "--server", "127.0.0.1:1"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "WHOSE": "its own"}
    (tmp_path / "no_such_module_here.py").write_text(
        "import os, sys, time\n"
        "print(os.getppid(), os.getsid(0) == os.getpid(), os.getcwd(), os.environ['WHOSE'], flush=True)\n"
        "time.sleep(60)\n"
    )
    with QuickPopen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environ, start_new_session=True
    ) as process:
        assert process.stdout is not None
        facts = process.stdout.readline()
        assert facts == f"{os.getpid()} True {tmp_path} its own\n"
        assert interpreter(process.pid) == command
        process.kill()
        assert process.wait() == -signal.SIGKILL


def test_whoever_would_import_other_modules_gets_a_fresh_interpreter(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('not the real one')\n")
    with QuickPopen([*VERSION[:3], "--help"], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.communicate()[1] == "not the real one\n"
