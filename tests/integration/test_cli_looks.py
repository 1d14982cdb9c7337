"""The command line against a real node: what it shows of queues and nodes, the doctor, and without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.cli_node import Cli, ServedNode, commands, environment, process, scheduled, serving
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until


@pytest.fixture(scope="module")
def node() -> Iterator[ServedNode]:
    yield from serving()


@pytest.fixture
def cli(node: ServedNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return commands(node, monkeypatch, capsys, tmp_path)


def test_queues_stats_and_forecast(cli: Cli) -> None:
    for _ in range(3):
        scheduled(cli, "x", "--delay", "30m", "--queue", "watched")
    scheduled(cli, "x", "--delay", "50s", "--queue", "watched")
    until(lambda: "watched" in cli("queues").out)
    assert cli("queues", "watched", "--json").json()["queue"] == "watched"
    assert "watched" in cli("queues", "watched").out
    assert "queue 'misspelt' has nothing due soon or in flight" in cli("queues", "misspelt").out

    stats = cli("stats", "--json").json()
    assert stats["store"]["pending"] >= 4
    assert stats["node"]["scheduled"] >= 4
    assert "pending" in cli("stats").out

    forecast = cli("forecast", "--next", "1h", "--step", "10m", "--json").json()
    assert forecast["total"] == sum(step["count"] for step in forecast["steps"]) >= 4
    drawn = cli("forecast", "--next", "1h")
    assert drawn.out.splitlines()[0].endswith("tasks due, a line for each 2 m")
    assert "█" in drawn.out
    assert cli("forecast", "--step", "1s").code == 2


def test_top_without_a_terminal_writes_lines(cli: Cli) -> None:
    done = cli("top", "--every", "0.2", "--count", "2")
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    assert "\x1b" not in done.out
    looks = cli("top", "--every", "0.2", "--count", "2", "--json").out.splitlines()
    assert [set(json.loads(look)) >= {"pending", "fired_per_s", "late_p99_ms"} for look in looks] == [True, True]


def test_top_on_a_terminal_gives_the_screen_back(node: ServedNode) -> None:
    parent, child = pty.openpty()
    top = subprocess.Popen(
        [sys.executable, "-m", "delaybox", "top", "--every", "0.2"],
        stdout=child, stdin=child, stderr=child, env=environment(node), start_new_session=True,
    )  # fmt: skip
    os.close(child)
    seen = b""
    while b"\x1b[J" not in seen:
        seen += os.read(parent, 65536)
    top.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            seen += part
    os.close(parent)
    assert top.wait(timeout=PATIENCE_S) == 0
    assert seen.startswith(b"\x1b[?1049h")
    assert b"DelayBox http://" in seen
    assert seen.endswith(b"\x1b[?1049l")


def test_the_dashboard_is_opened_in_a_browser(node: ServedNode, cli: Cli, tmp_path: Path) -> None:
    assert cli("open", "--print").out.strip() == f"{node.url}/dashboard"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-m", "delaybox", "open"], env={**environment(node), "BROWSER": f"{browser} %s"},
        timeout=PATIENCE_S, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, f"{node.url}/dashboard"), done.stderr
    assert (tmp_path / "opened").read_text() == f"{node.url}/dashboard"


def test_a_narrow_terminal_without_colours_shows_whole_ids(cli: Cli, node: ServedNode) -> None:
    task_id = scheduled(cli, "x" * 200, "--delay", "1h", "--queue", "narrow")
    parent, child = pty.openpty()
    listed = subprocess.run(
        [sys.executable, "-m", "delaybox", "list", "--queue", "narrow"], stdout=child, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env={**environment(node), "NO_COLOR": "1", "COLUMNS": "60", "TERM": "xterm"},
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # the end: the other side is closed
        while part := os.read(parent, 65536):
            shown += part
    lines = shown.decode().replace("\r", "").splitlines()
    os.close(parent)
    assert listed.returncode == 0, listed.stderr
    assert "\x1b" not in "".join(lines) and max(map(len, lines)) <= 60
    assert [line for line in lines if task_id in line] and any("…" in line for line in lines), lines


def test_the_doctor_finds_a_healthy_node_healthy(cli: Cli, node: ServedNode) -> None:
    done = cli("doctor", "--config", str(node.folder / "c.yaml"), "--data-dir", str(node.folder / "data"), "--json")
    found = {finding["name"]: finding for finding in done.json()["findings"]}
    assert done.code == 0, done.out
    for name in ("node", "node clock", "readiness", "nodes", "versions", "server", "policy", "persistence", "store"):
        assert found[name]["word"] == "ok", found[name]
    text = cli("doctor", "--data-dir", str(node.folder / "data")).out
    assert "0 problems" in text
    assert "maxmemory-policy noeviction" in text


def test_the_doctor_says_what_to_do(cli: Cli, node: ServedNode) -> None:
    away = cli("doctor", "--server", "http://127.0.0.1:1", "--data-dir", str(node.folder / "none"))
    assert away.code == 1
    assert "→ start one with `delaybox serve`" in away.out
    assert "skipped  server" in away.out
    refused = cli("doctor", "--token", "not-the-right-token", "--data-dir", str(node.folder / "data"))
    assert refused.code == 1
    assert "DELAYBOX_TOKEN" in refused.out


@pytest.mark.parametrize(
    ("arguments", "wanted", "do"),
    [
        (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy"),
        (["--appendonly", "no"], "keeps no append-only file", "CONFIG SET appendonly yes"),
        (["--appendonly", "yes", "--appendfsync", "no"], "synced when the kernel likes", "CONFIG SET appendfsync"),
        (["--appendonly", "yes", "--requirepass", "secret"], "a password is needed", "storage.redisPass"),
    ],
)
def test_the_doctor_looks_at_the_server(
    cli: Cli, make_server: Callable[..., RealServer], arguments: list[str], wanted: str, do: str
) -> None:
    server = make_server(*arguments)
    done = cli("doctor", "--redis", server.url)
    assert wanted in done.out
    assert do in done.out
    assert done.code == (0 if "kernel" in wanted else 1)


async def _make_a_store(server: RealServer) -> None:
    servers = Servers.connect(server.settings)
    await Store.open(servers)
    await servers.close()


def test_the_doctor_sees_that_a_server_is_not_the_nodes(cli: Cli, make_server: Callable[..., RealServer]) -> None:
    server = make_server("--appendonly", "yes")
    asyncio.run(_make_a_store(server))
    done = cli("doctor", "--redis", server.url)
    assert done.code == 1
    assert "work for another store than 'delaybox' on this server" in done.out
    assert "name their server with --redis" in done.out


# -- as a process -----------------------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_coloured_or_cut(node: ServedNode, cli: Cli) -> None:
    payload = "x" * 59
    scheduled(cli, payload[:40], "--delay", "1h", "--queue", "q" * 64, "--label", "plain=1")
    done = process(node, "list", "--label", "plain=1", COLUMNS="20")
    assert done.code == 0
    assert "q" * 64 in done.out
    assert payload[:40] in done.out
    assert "\x1b" not in done.out + done.err


def test_an_ascii_terminal_gets_ascii(node: ServedNode, cli: Cli) -> None:
    scheduled(cli, "x", "--delay", "30m")
    done = process(node, "forecast", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert "#" in done.out
    task_id = scheduled(cli, "zwölf", "--delay", "30m")
    assert "zw\\xf6lf" in process(node, "get", task_id, PYTHONIOENCODING="ascii").out


def test_a_reader_that_goes_away_is_no_error(node: ServedNode, cli: Cli) -> None:
    command = f"{sys.executable} -m delaybox top --every 0.2 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, env=environment(node), timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_completion_knows_commands_and_choices(node: ServedNode) -> None:
    program = Path(sys.executable).with_name("delaybox")
    if not program.exists():
        pytest.skip("the command is not installed beside this Python")

    def completed(*words: str) -> list[str]:
        asked = {
            "_DELAYBOX_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        given = {**environment(node), **asked}
        return subprocess.run([program], capture_output=True, text=True, env=given, timeout=PATIENCE_S).stdout.split()

    assert completed("delaybox", "sch") == ["schedule"]
    assert completed("delaybox", "dead", "re") == ["replay"]
    assert completed("delaybox", "list", "--state", "s") == ["scheduled", "succeeded"]
