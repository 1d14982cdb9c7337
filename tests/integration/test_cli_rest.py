"""The command line against a real node: the life of tasks, wrong input, exit codes, JSON, no terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from delaybox.core import ids
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.command import Command, Done
from tests.servers import RealServer
from tests.waiting import until

ALL, READER, MANAGER = "all-of-it-0123456789", "reader-0123456789", "manager-0123456789"
CONFIG = f"""
httpServer: {{contextPath: /api}}
auth:
  tokens:
    - {{token: {ALL}, scopes: [read, schedule, cancel, admin]}}
    - {{token: {READER}, scopes: [read]}}
    - {{token: {MANAGER}, scopes: [read, schedule]}}
"""
UNKNOWN = ids.render((1 << 43).to_bytes(6, "big") + ids.tails(3, bytes(8))[0])
PAST = "2024-07-22T18:23:10Z"

Cli = Callable[..., Done]


@dataclass(frozen=True, slots=True)
class Node:
    url: str
    folder: Path


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """`delaybox serve` with its own server, a context path and tokens."""
    folder = Path(tempfile.mkdtemp(prefix="dbx-"))
    (folder / "c.yaml").write_text(CONFIG)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "delaybox", "serve", "--http-port", "0", "--grpc-port", "0"),
            *("--data-dir", str(folder / "data"), "--config", str(folder / "c.yaml")),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    try:
        assert process.stderr is not None
        found, output = None, ""
        for line in process.stderr:
            output += line
            if found := re.search(r"listening on (http://\S+)", line):
                break
        assert found, f"the node did not start: {output}"
        yield Node(found[1], folder)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cli(node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a command with the token that may everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELAYBOX_SERVER", node.url)
    monkeypatch.setenv("DELAYBOX_TOKEN", ALL)
    return Command(monkeypatch, capsys)


def scheduled(cli: Cli, *arguments: str) -> str:
    done = cli("schedule", *arguments, "--json")
    assert done.code == 0, done.err
    task_id: str = done.json()["id"]
    return task_id


def dead_letter(cli: Cli, queue: str, *arguments: str) -> str:
    """A task that is too late at once."""
    task_id = scheduled(cli, "late", "--at", PAST, "--expire-after", "1ms", "--queue", queue, *arguments)
    until(lambda: bool(cli("get", task_id, "--json").out and cli("get", task_id, "--json").json()["state"] == "failed"))
    return task_id


# -- the life of a task -----------------------------------------------------------------------------------------


def test_a_task_from_schedule_to_its_end(cli: Cli) -> None:
    task = [
        *("hello", "--delay", "1h", "--queue", "life", "--priority", "high", "--label", "customer=42"),
        *("--header", "trace=4bf9", "--key", "life-1", "--attempts", "7", "--backoff", "2s", "--backoff-max", "1m"),
        *("--timeout", "30s", "--expire-after", "2h", "--keep-result", "1d", "--reject-past"),
    ]
    task_id = scheduled(cli, *task)
    again = cli("schedule", *task)
    assert again.code == 0
    assert task_id in again.out
    assert "there already" in again.out

    shown = cli("get", task_id)
    assert shown.code == 0
    for part in ("scheduled", "pub_sub", "life", "high", '"hello"', "trace=4bf9", "customer=42", "expire after", "2 h"):
        assert part in shown.out
    assert cli("get", task_id, "--json").json()["labels"] == {"customer": "42"}

    listed = cli("list", "--queue", "life", "--label", "customer=42", "--state", "scheduled", "--type", "pub_sub")
    assert task_id in listed.out
    assert cli("list", "--queue", "life", "--label", "customer=43").out == "no tasks\n"

    moved = cli("reschedule", task_id, "--at", "2030-01-31T09:00:00+01:00", "--priority", "low", "--json")
    assert (moved.code, moved.json()["due"], moved.json()["priority"]) == (0, "2030-01-31T08:00:00.000Z", "low")
    assert "priority low" in cli("reschedule", task_id, "--delay", "2h").out

    assert cli("run-now", task_id).out == f"{task_id}  due now\n"
    until(lambda: cli("get", task_id, "--json").json()["state"] == "succeeded")
    gone = cli("cancel", task_id)
    assert gone.code == 5
    assert f"task {task_id}" in gone.err


def test_cancelled_is_gone(cli: Cli) -> None:
    one, two = scheduled(cli, "a", "--delay", "1h"), scheduled(cli, "b", "--delay", "1h")
    assert cli("cancel", one, two).out == f"{one}  cancelled\n{two}  cancelled\n"
    again = cli("cancel", one, two, "--json")
    assert again.code == 5
    assert [(r["ok"], r["error"]["code"]) for r in again.json()["results"]] == [(False, "not_found")] * 2
    assert cli("get", one, "--json").json()["state"] == "cancelled"
    assert cli("get", UNKNOWN).code == 5


def test_of_several_ids_each_is_told_of(cli: Cli) -> None:
    task_id = scheduled(cli, "a", "--delay", "1h")
    done = cli("cancel", UNKNOWN, task_id)
    assert (done.code, done.out) == (1, f"{task_id}  cancelled\n")
    assert UNKNOWN in done.err


def test_payloads_of_every_kind(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text").write_text("zwölf\n")
    Path("bytes").write_bytes(b"\xff\x00")
    cases: list[tuple[list[str], dict[str, str]]] = [
        (["ünï"], {"payload": "ünï"}),
        (["--", "-dash"], {"payload": "-dash"}),
        (["--payload-json", '{"a": 1.0,  "b": []}'], {"payload": '{"a": 1.0,  "b": []}'}),
        (["--payload-file", "text"], {"payload": "zwölf\n"}),
        (["--payload-file", "bytes"], {"payload_base64": "/wA="}),
    ]
    for arguments, expected in cases:
        done = cli("schedule", "--delay", "1h", "--json", *arguments)
        assert done.code == 0, done.err
        found = cli("get", done.json()["id"], "--json").json()
        assert {name: value for name, value in found.items() if name.startswith("payload")} == expected


def test_dead_letters_are_listed_brought_back_and_thrown_away(cli: Cli) -> None:
    one, two, three = (dead_letter(cli, "graves") for _ in range(3))
    listed = cli("dead", "list", "--queue", "graves")
    assert all(task_id in listed.out for task_id in (one, two, three))
    assert "expired" in listed.out
    found = cli("dead", "list", "--queue", "graves", "--json").json()["tasks"]
    assert {task["id"] for task in found} == {one, two, three}

    assert cli("dead", "discard", one).out == f"{one}  discarded\n"
    assert cli("dead", "discard", one).code == 5
    assert cli("dead", "replay", two).out == f"{two}  brought back\n"
    # It is as late as it was, so it dies again.
    until(lambda: len(cli("dead", "list", "--queue", "graves", "--json").json()["tasks"]) == 2)
    replayed = cli("dead", "replay", "--all", "--queue", "graves", "--limit", "1", "--json")
    assert replayed.json() == {"replayed": 1}
    assert cli("dead", "replay", "--all", "--queue", "no-such").out == "0 brought back\n"


def test_long_lists_come_in_pages(cli: Cli) -> None:
    Path("t").write_text("\n".join('{"queue": "pages", "delay": "1h"}' for _ in range(1_203)))
    assert cli("schedule", "--file", "t").code == 0
    first = cli("list", "--queue", "pages", "--limit", "1100", "--json").json()
    assert len(first["tasks"]) == 1_100
    found = first["tasks"]
    cursor = first["cursor"]
    while cursor:
        rest = cli("list", "--queue", "pages", "--cursor", cursor, "--json").json()
        found += rest["tasks"]
        cursor = rest["cursor"]
    assert len({task["id"] for task in found}) == len(found) == 1_203
    failure = cli("list", "--queue", "pages", "--limit", "2")
    assert len(failure.out.splitlines()) == 3
    assert "there may be more: --cursor" in failure.err


# -- files ------------------------------------------------------------------------------------------------------


def test_a_file_is_scheduled_once_however_often_it_is_sent(cli: Cli) -> None:
    good = [json.dumps({"queue": "file", "delay": "1h", "payload": f"p{n}"}) for n in range(1_500)]
    lines = [*good[:700], '{"queue": "A B"}', "", "nonsense", '{"pyload": "x"}', *good[700:]]
    Path("tasks.ndjson").write_text("\n".join(lines))
    done = cli("schedule", "--file", "tasks.ndjson")
    assert done.code == 1
    assert done.out == "tasks.ndjson: 1,503 tasks: 1,500 created, 0 there already, 3 refused\n"
    assert "error: tasks.ndjson:701: queue 'A B' is not a queue name" in done.err
    assert "error: tasks.ndjson:703: the line is no JSON" in done.err
    assert "error: tasks.ndjson:704: 'pyload' is not a field of a task; did you mean payload?" in done.err

    again = cli("schedule", "--file", "tasks.ndjson", "--json")
    answer = again.json()
    assert (again.code, again.err) == (1, "")
    assert (answer["created"], answer["duplicates"], answer["refused"]) == (0, 1_500, 3)
    assert [(bad["line"], bad["code"]) for bad in answer["errors"]] == [
        (701, "invalid_task"), (703, "bad_line"), (704, "invalid_task"),
    ]  # fmt: skip

    Path("tasks.ndjson").write_text("\n".join(good))
    assert cli("schedule", "--file", "tasks.ndjson").code == 0
    more = cli("schedule", "--file", "tasks.ndjson", "--run", "tuesday", "--json")
    assert (more.code, more.json()["created"]) == (0, 1_500)


def test_a_file_from_standard_input(node: Node, cli: Cli) -> None:
    done = _process(node, "schedule", "--file", "-", stdin=b'{"delay": "1h", "queue": "stdin"}\n' * 3)
    assert (done.code, done.out) == (0, "standard input: 3 tasks: 3 created, 0 there already, 0 refused\n")


def test_an_interrupted_file_goes_on_where_it_was(node: Node, cli: Cli) -> None:
    lines = b"".join(b'{"delay": "1h", "queue": "broken-off", "payload": "p%d"}\n' % n for n in range(1_500))
    first = subprocess.Popen(
        [sys.executable, "-m", "delaybox", "schedule", "--file", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(node),
    )  # fmt: skip
    assert first.stdin is not None
    first.stdin.write(lines)
    first.stdin.flush()
    # The rest of the second batch never comes.
    until(lambda: len(cli("list", "--queue", "broken-off", "--limit", "2000", "--json").json()["tasks"]) == 1_000)
    time.sleep(0.2)  # the node has it; the command must read the answer
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=20)
    assert first.returncode == 130
    assert out == b"standard input: 1,000 tasks: 1,000 created, 0 there already, 0 refused\n"
    assert b"interrupted after line 1000; the same command again goes on" in err
    again = _process(node, "schedule", "--file", "-", "--json", stdin=lines)
    assert (again.code, again.json()["created"], again.json()["duplicates"]) == (0, 500, 1_000)


# -- watching ---------------------------------------------------------------------------------------------------


def test_queues_stats_and_forecast(cli: Cli) -> None:
    for _ in range(3):
        scheduled(cli, "x", "--delay", "30m", "--queue", "watched")
    scheduled(cli, "x", "--delay", "20s", "--queue", "watched")
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


def test_top_on_a_terminal_gives_the_screen_back(node: Node) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "delaybox", "top", "--every", "0.2"],
        stdout=child, stdin=child, stderr=child, env=_environment(node), start_new_session=True,
    )  # fmt: skip
    os.close(child)
    seen = b""
    while b"\x1b[J" not in seen:
        seen += os.read(parent, 65536)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            seen += part
    os.close(parent)
    assert process.wait(timeout=10) == 0
    assert seen.startswith(b"\x1b[?1049h")
    assert b"DelayBox http://" in seen
    assert seen.endswith(b"\x1b[?1049l")


def test_the_doctor_finds_a_healthy_node_healthy(cli: Cli, node: Node) -> None:
    done = cli("doctor", "--config", str(node.folder / "c.yaml"), "--data-dir", str(node.folder / "data"), "--json")
    found = {finding["name"]: finding for finding in done.json()["findings"]}
    assert done.code == 0, done.out
    for name in ("node", "node clock", "readiness", "nodes", "versions", "server", "policy", "persistence", "store"):
        assert found[name]["word"] == "ok", found[name]
    text = cli("doctor", "--data-dir", str(node.folder / "data")).out
    assert "0 problems" in text
    assert "maxmemory-policy noeviction" in text


def test_the_doctor_says_what_to_do(cli: Cli, node: Node) -> None:
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


def test_a_move_to_a_past_time_is_answered_though_the_task_fires_at_once(cli: Cli) -> None:
    for _ in range(10):
        moved = cli("reschedule", scheduled(cli, "x", "--delay", "1h"), "--at", PAST)
        assert moved.code == 0, moved.err


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


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["schedule", "x", "--delay", "soon"], 2, "delay 'soon' is not a duration"),
        (["schedule", "x", "--at", "2030-01-31T09:00:00"], 2, "has no offset"),
        (["schedule", "x", "--at", "1721672590"], 2, "looks like seconds"),
        (["schedule", "x", "--at", PAST, "--delay", "1m"], 2, "delay"),
        (["schedule", "x", "--at", PAST, "--reject-past"], 2, "in the past"),
        (["schedule", "x", "--queue", "A B"], 2, "'A B' is not a queue name"),
        (["schedule", "date", "--type", "shell"], 4, "--enable-shell"),
        (["get", "nonsense"], 2, "is not a UUID"),
        (["get", UNKNOWN], 5, f"no task {UNKNOWN}"),
        (["get", ids.render((10**12).to_bytes(6, "big") + ids.tails(3, bytes(8))[0])], 5, "has finished"),
        (["cancel", UNKNOWN], 5, "is not pending"),
        (["dead", "discard", UNKNOWN], 5, "is no dead letter"),
        (["dead", "replay", UNKNOWN], 5, "is no dead letter"),
        (["list", "--cursor", "nonsense"], 2, "cursor 'nonsense'"),
        (["list", "--label", "customer id=1"], 2, "label"),
        (["forecast", "--step", "90s"], 2, "not a multiple"),
    ],
)
def test_refusals(cli: Cli, arguments: list[str], code: int, wanted: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert wanted in done.err
    failure = cli(*arguments, "--json")
    assert failure.code == code
    problem = json.loads(failure.out)["results"][0]["error"] if failure.out else json.loads(failure.err)
    assert problem["code"]


def test_another_body_under_the_same_key(cli: Cli) -> None:
    scheduled(cli, "one", "--delay", "1h", "--key", "taken")
    assert cli("schedule", "two", "--delay", "1h", "--key", "taken").code == 6


def test_a_key_that_replaces_and_a_key_that_is_a_lock(cli: Cli) -> None:
    replaced = ("--key", "burst", "--on-conflict", "replace", "--max-wait", "5m")
    first = scheduled(cli, "one", "--delay", "1h", *replaced)
    last = cli("schedule", "two", "--delay", "2h", *replaced, "--json").json()
    assert (last["id"], last["created"], last["payload"]) == (first, False, "two")
    shown = cli("schedule", "three", "--delay", "2h", *replaced).out
    assert re.search(r", in 4 m .* \(replaced: same key\)", shown), shown
    locked = scheduled(cli, "one", "--delay", "1h", "--key", "lock", "--unique-while", "running")
    assert cli("schedule", "two", "--delay", "1h", "--key", "lock", "--unique-while", "running").code == 6
    assert cli("cancel", locked).code == 0
    assert scheduled(cli, "two", "--delay", "1h", "--key", "lock", "--unique-while", "running") != locked


def test_a_local_time_keeps_its_zone(cli: Cli) -> None:
    # 02:30 does not exist on that night; it lies as much behind the gap.
    task_id = scheduled(cli, "x", "--at", "2027-03-28T02:30", "--zone", "Europe/Berlin")
    shown = cli("get", task_id, "--json").json()
    assert (shown["due"], shown["zone"]) == ("2027-03-28T01:30:00.000Z", "Europe/Berlin")
    assert "Europe/Berlin, there 2027-03-28 03:30:00.000+0200" in cli("get", task_id).out
    moved = cli("reschedule", task_id, "--at", "2027-10-31T02:30", "--zone", "Europe/Paris", "--fold", "1", "--json")
    assert (moved.json()["due"], moved.json()["zone"]) == ("2027-10-31T01:30:00.000Z", "Europe/Paris")
    assert cli("reschedule", task_id, "--delay", "1h", "--json").json()["zone"] == "Europe/Paris"
    refused = cli("schedule", "x", "--at", "2027-10-31T02:30Z", "--zone", "Europe/Paris")
    assert refused.code == 2 and "leave the offset out" in refused.err
    assert "--zone UTC has no time" in cli("schedule", "x", "--zone", "UTC").err


def test_at_most_once_is_shown(cli: Cli) -> None:
    task_id = scheduled(cli, "one", "--delay", "1h", "--delivery", "at_most_once")
    assert cli("get", task_id, "--json").json()["delivery"] == "at_most_once"
    assert re.search(r"delivery +at_most_once", cli("get", task_id).out)


def test_tokens_and_scopes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = scheduled(cli, "x", "--delay", "1h")
    monkeypatch.setenv("DELAYBOX_TOKEN", "")
    done = cli("list")
    assert done.code == 4
    assert "DELAYBOX_TOKEN, and neither is set" in done.err
    assert cli("list", "--token", "wrong-0123456789").code == 4
    assert cli("list", "--token", READER).code == 0
    for token, scope, arguments in (
        (READER, "schedule", ["schedule", "x"]),
        (READER, "schedule", ["run-now", task_id]),
        (MANAGER, "cancel", ["cancel", task_id]),
        (MANAGER, "admin", ["dead", "replay", "--all"]),
        (MANAGER, "admin", ["dead", "discard", task_id]),
    ):
        done = cli(*arguments, "--token", token)
        assert done.code == 4
        assert f"lacks the scope {scope}" in done.err
        assert token not in done.err
    Path("t").write_text("{}\n")
    assert cli("schedule", "--file", "t", "--token", READER).code == 4


def test_a_forgotten_context_path(cli: Cli, node: Node) -> None:
    done = cli("list", "--server", node.url.removesuffix("/api"))
    assert done.code == 5
    assert "contextPath" in done.err


# -- as a process -----------------------------------------------------------------------------------------------


def _environment(node: Node) -> dict[str, str]:
    return {**os.environ, "DELAYBOX_SERVER": node.url, "DELAYBOX_TOKEN": ALL}


def _process(node: Node, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "delaybox", *arguments],
        input=stdin, capture_output=True, timeout=60, env={**_environment(node), **environment},
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_without_a_terminal_nothing_is_coloured_or_cut(node: Node, cli: Cli) -> None:
    payload = "x" * 59
    scheduled(cli, payload[:40], "--delay", "1h", "--queue", "q" * 64, "--label", "plain=1")
    done = _process(node, "list", "--label", "plain=1", COLUMNS="20")
    assert done.code == 0
    assert "q" * 64 in done.out
    assert payload[:40] in done.out
    assert "\x1b" not in done.out + done.err


def test_an_ascii_terminal_gets_ascii(node: Node, cli: Cli) -> None:
    scheduled(cli, "x", "--delay", "30m")
    done = _process(node, "forecast", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert "#" in done.out
    task_id = scheduled(cli, "zwölf", "--delay", "30m")
    assert "zw\\xf6lf" in _process(node, "get", task_id, PYTHONIOENCODING="ascii").out


def test_a_reader_that_goes_away_is_no_error(node: Node, cli: Cli) -> None:
    command = f"{sys.executable} -m delaybox top --every 0.2 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, env=_environment(node), timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_completion_knows_commands_and_choices(node: Node) -> None:
    program = Path(sys.executable).with_name("delaybox")
    if not program.exists():
        pytest.skip("the command is not installed beside this Python")

    def completed(*words: str) -> list[str]:
        asked = {
            "_DELAYBOX_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        environment = {**_environment(node), **asked}
        return subprocess.run([program], capture_output=True, text=True, env=environment, timeout=60).stdout.split()

    assert completed("delaybox", "sch") == ["schedule"]
    assert completed("delaybox", "dead", "re") == ["replay"]
    assert completed("delaybox", "list", "--state", "s") == ["scheduled", "succeeded"]
