"""`module:worker` and what is said when it names no worker; command lines."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from delaybox import Worker
from delaybox.core.errors import ConfigError
from delaybox.processes import collector
from delaybox.worker import launch, logs
from tests.command import Command

GOOD = "from delaybox import Worker\nworker = Worker('w')\nmailer = Worker('m')\nother = 7\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "launch_good.py").write_text(GOOD)
    (tmp_path / "launch_broken.py").write_text("import launch_missing_dependency\n")
    (tmp_path / "launch_raises.py").write_text("\n\nint('x')\n")
    (tmp_path / "launch_none.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("launch_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "name"), [("launch_good", "w"), ("launch_good:worker", "w"), ("launch_good:mailer", "m")]
)
def test_a_worker_is_found_in_the_current_folder(place: Path, spec: str, name: str) -> None:
    assert launch.load(spec).name == name


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("launch_absent:worker", "module 'launch_absent' is not found; it is looked for in "),
        ("launch_good.sub:worker", "module 'launch_good.sub' is not found"),
        ("launch_broken", "cannot be imported: ModuleNotFoundError: No module named 'launch_missing_dependency'"),
        ("launch_raises", "ValueError: invalid literal for int() with base 10: 'x' ("),
        ("launch_raises", "launch_raises.py, line 3)"),
        ("launch_good:wrong", "module 'launch_good' has no 'wrong'; it has mailer, worker"),
        ("launch_none", "module 'launch_none' has no 'worker'; it has no Worker at all"),
        ("launch_good:other", "'launch_good:other' is int, not a Worker"),
        ("app.py", "module 'app' is not found"),
        ("launch_good.py:mailer", "names a file; write its module, such as launch_good:mailer"),
        ("path/app:worker", "names no worker; write module:worker"),
        ("", "names no worker"),
    ],
)
def test_what_names_no_worker_is_told_clearly(place: Path, spec: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        launch.load(spec)
    assert words in str(error.value)


def test_the_command_ends_with_the_words_and_code_2(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "set_up", lambda log_format, level: None)
    command = Command(monkeypatch, capsys)
    done = command("worker", "launch_good:wrong")
    assert (done.code, done.err) == (2, "error: module 'launch_good' has no 'wrong'; it has mailer, worker\n")
    done = command("worker", "launch_good", "--server", "http://x")
    words = "--server 'http://x' is no gRPC address; write host:port, such as localhost:9088"
    assert (done.code, words in done.err) == (2, True)
    for option in ("--grace", "--lease"):
        for text in ("soon", "10", "-1s"):
            done = command("worker", "launch_good", option, text)
            words = f"error: {option} {text!r} is no duration; write it as 500ms, 10s or 1m30s\n"
            assert (done.code, done.err) == (2, words)
    done = command("worker", "launch_good")
    assert (done.code, "worker 'w' has no task to serve" in done.err) == (2, True)


def test_a_command_line_changes_what_it_names_and_nothing_else(place: Path) -> None:
    asked = launch.arguments_of(
        ["launch_good", "--server", "a:1", "--server", "b:2", "--queues", "x,y", "--concurrency", "7", "--grace", "3s"]
    )
    worker = launch.load(asked.worker)
    before = worker.sizes
    worker.change(**asked.settings())
    assert worker.target.endpoints == ("a:1", "b:2")
    assert (worker.queues, worker.grace_s) == (("x", "y"), 3.0)
    assert (worker.sizes.concurrency, worker.sizes.threads) == (7, before.threads)


def test_variables_say_where_metrics_are_and_how_to_log(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image sets them, whichever worker it runs; the command line counts first."""
    monkeypatch.setenv("DELAYBOX_WORKER_METRICS_PORT", "8090")
    monkeypatch.setenv("DELAYBOX_WORKER_METRICS_HOST", "0.0.0.0")
    monkeypatch.setenv("DELAYBOX_LOG_FORMAT", "json")
    asked: list[launch.Launch] = []

    def note(one: launch.Launch) -> int:
        asked.append(one)
        return 0

    monkeypatch.setattr(launch, "run", note)
    command = Command(monkeypatch, capsys)
    for options in ([], ["--metrics-port", "9100", "--metrics-host", "127.0.0.1", "--log-format", "text"]):
        command("worker", "launch_good", *options)
        asked.append(launch.arguments_of(["launch_good", *options]))
    shown = [(one.metrics_port, one.metrics_host, one.log_format) for one in asked]
    assert shown == [(8090, "0.0.0.0", "json")] * 2 + [(9100, "127.0.0.1", "text")] * 2
    monkeypatch.setenv("DELAYBOX_WORKER_METRICS_PORT", "")
    assert launch.arguments_of(["launch_good"]).metrics_port is None


def test_a_wrong_level_or_format_of_the_log_ends_the_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    for option, words in (
        ("--log-level", "error: --log-level 'loud' is not known; use debug, info, warning or error\n"),
        ("--log-format", "error: --log-format 'loud' is not known; use text or json\n"),
    ):
        done = command("worker", "launch_good", option, "loud")
        assert (done.code, done.err) == (2, words)


def test_several_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert launch.Launch(worker="w", processes=4).settings()["cpu_processes"] == 2
    assert launch.Launch(worker="w", processes=16).settings()["cpu_processes"] == 1
    assert launch.Launch(worker="w").settings()["cpu_processes"] is None


def test_a_redis_without_a_scheme_is_not_taken_for_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("localhost:6379", "user:secret@localhost"):
        with pytest.raises(ConfigError, match="write redis://host:6379") as wrong:
            launch.servers_of(given, None)
        assert "secret" not in str(wrong.value)
    monkeypatch.setenv(launch.VARIABLE, "localhost")
    with pytest.raises(ConfigError, match=launch.VARIABLE):
        launch.servers_of(None, None)
    assert launch.servers_of(None, ["node:9088"]) == ("node:9088",)
    assert launch.servers_of("valkey://localhost", None) == ("valkey://localhost",)
    with pytest.raises(SystemExit):
        launch.arguments_of(["app:worker", "--redis", "localhost:6379"])


def test_the_command_works_without_the_packages_of_the_command_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from delaybox.cli import main; main()"
    for arguments, words in (
        (["worker", "launch_absent:worker"], "module 'launch_absent' is not found"),
        (["nodes"], "typer is not installed"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert words in run.stderr and run.returncode, run.stderr


def test_what_a_run_imports_is_not_looked_through_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker straight on Redis imports its engine when it begins: the first full collection would make tasks late."""
    did: list[str] = []

    class Runner:
        async def until_asked_to_stop(self, grace_s: float, watched: int | None) -> int:
            did.append("runs")
            return 7

    def made(worker: Worker, **_: object) -> Runner:
        did.append("imports")
        return Runner()

    monkeypatch.setattr(Worker, "runner", made)
    monkeypatch.setattr(collector, "set_apart", lambda: did.append("sets apart"))
    # It would end this process.
    monkeypatch.setattr(threading, "Timer", lambda *_: Mock())
    assert Worker("w").run(last_exit=True) == 7
    assert did == ["imports", "sets apart", "runs"]
