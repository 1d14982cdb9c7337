"""The command line against a real node: the life of tasks, wrong input, exit codes, JSON."""

from __future__ import annotations

import array
import fcntl
import json
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from delaybox.core import ids
from tests.cli_node import (
    MANAGER,
    PAST,
    READER,
    Cli,
    ServedNode,
    commands,
    dead_letter,
    environment,
    process,
    scheduled,
    serving,
)
from tests.waiting import PATIENCE_S, until

UNKNOWN = ids.render((1 << 43).to_bytes(6, "big") + ids.tails(3, bytes(8))[0])


@pytest.fixture(scope="module")
def node() -> Iterator[ServedNode]:
    yield from serving()


@pytest.fixture
def cli(node: ServedNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return commands(node, monkeypatch, capsys, tmp_path)


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
    nobody = cli("list", "--queue", "life", "--label", "customer=43")
    assert nobody.out == "no tasks\n" and "so all that waits is looked through" in nobody.err
    assert not cli("list", "--queue", "life").err
    looked = cli("cancel", "--label", "customer=43", "--dry-run")
    assert looked.out.startswith("0 match") and "so all that waits is looked through" in looked.err
    assert "delaybox history --state cancelled" in cli("list", "--queue", "life", "--state", "cancelled").out

    moved = cli("reschedule", task_id, "--at", "2030-01-31T09:00:00+01:00", "--priority", "low", "--json")
    assert (moved.code, moved.json()["due"], moved.json()["priority"]) == (0, "2030-01-31T08:00:00.000Z", "low")
    assert "priority low" in cli("reschedule", task_id, "--delay", "2h").out

    assert cli("run-now", task_id).out == f"{task_id}  due now\n"

    def succeeded() -> bool:
        # An end is written down a moment after it; until then the answer is that the task is gone.
        found = cli("get", task_id, "--json")
        return found.code == 0 and found.json()["state"] == "succeeded"

    until(succeeded)
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


def test_a_file_from_standard_input(node: ServedNode, cli: Cli) -> None:
    done = process(node, "schedule", "--file", "-", stdin=b'{"delay": "1h", "queue": "stdin"}\n' * 3)
    assert (done.code, done.out) == (0, "standard input: 3 tasks: 3 created, 0 there already, 0 refused\n")


def _unread(pipe: IO[bytes]) -> int:
    """How many bytes in it wait to be read."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_an_interrupted_file_goes_on_where_it_was(node: ServedNode, cli: Cli) -> None:
    lines = b"".join(b'{"delay": "1h", "queue": "broken-off", "payload": "p%d"}\n' % n for n in range(1_500))
    first = subprocess.Popen(
        [sys.executable, "-m", "delaybox", "schedule", "--file", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(node),
    )  # fmt: skip
    pipe = first.stdin
    assert pipe is not None
    pipe.write(lines)
    pipe.flush()
    # The rest of the second batch never comes.
    until(lambda: len(cli("list", "--queue", "broken-off", "--limit", "2000", "--json").json()["tasks"]) == 1_000)
    # It reads on only when it has the answer.
    until(lambda: not _unread(pipe))
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130
    assert out == b"standard input: 1,000 tasks: 1,000 created, 0 there already, 0 refused\n"
    assert b"interrupted after line 1000; the same command again goes on" in err
    again = process(node, "schedule", "--file", "-", "--json", stdin=lines)
    assert (again.code, again.json()["created"], again.json()["duplicates"]) == (0, 500, 1_000)


# -- watching ---------------------------------------------------------------------------------------------------


def test_a_move_to_a_past_time_is_answered_though_the_task_fires_at_once(cli: Cli) -> None:
    for _ in range(10):
        moved = cli("reschedule", scheduled(cli, "x", "--delay", "1h"), "--at", PAST)
        assert moved.code == 0, moved.err


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["schedule", "x", "--delay", "soon"], 2, "error: --delay 'soon' is not a duration"),
        (["schedule", "x", "--backoff", "soon"], 2, "error: --backoff 'soon' is not a duration"),
        (["schedule", "x", "--expire-after", "soon"], 2, "error: --expire-after 'soon' is not a duration"),
        (["schedule", "x", "--max-wait", "5m"], 2, "error: --max-wait "),
        (["schedule", "x", "--key", "k" * 300], 2, "error: --key has 300 bytes"),
        (["schedule", "x", "--label", f"{'n' * 65}=1"], 2, "error: --label: 'nnn"),
        (["schedule", "x", "--at", "2030-01-31T09:00:00"], 2, "has no offset"),
        (["schedule", "x", "--at", "2030-01-31T09:00"], 2, "or name its time zone with --zone, such as Europe/Berlin"),
        (["schedule", "x", "--at", "1721672590"], 2, "looks like seconds"),
        (["schedule", "x", "--at", PAST, "--delay", "1m"], 2, "delay"),
        (["schedule", "x", "--at", PAST, "--reject-past"], 2, "in the past"),
        (["schedule", "x", "--queue", "A B"], 2, "error: --queue 'A B' is not a queue name"),
        (["schedule", "date", "--type", "shell"], 4, "--enable-shell"),
        (["get", "nonsense"], 2, "is not a UUID"),
        (["get", UNKNOWN], 5, f"no task {UNKNOWN}"),
        (["get", ids.render((10**12).to_bytes(6, "big") + ids.tails(3, bytes(8))[0])], 5, "has finished"),
        (["cancel", UNKNOWN], 5, "is not pending"),
        (["dead", "discard", UNKNOWN], 5, "is no dead letter"),
        (["dead", "replay", UNKNOWN], 5, "is no dead letter"),
        (["list", "--cursor", "nonsense"], 2, "error: --cursor 'nonsense'"),
        (["list", "--label", "customer id=1"], 2, "label"),
        (["forecast", "--step", "90s"], 2, "error: --step "),
        (["list", "--from", "soon"], 2, "error: --from 'soon'"),
        (["cancel", "--queue", "a", "--to", "soon"], 2, "error: --to 'soon'"),
        (["reschedule", UNKNOWN, "--delay", "soon"], 2, "error: --delay 'soon'"),
        (["history", "--from", "soon"], 2, "error: --from 'soon'"),
        (["queues", "set", "a", "--rate", "5"], 2, "error: --rate '5' is no rate"),
        (["queues", "set", "a", "--slack", "low=soon"], 2, "error: --slack 'soon'"),
        (["queues", "set", "a", "--max-attempts", "0"], 2, "error: --max-attempts "),
        (["queues", "set", "a", "--per", "label:c,burst=2"], 2, "error: --per "),
        (["dead", "discard", "--queue", "a", "--from", "soon"], 2, "error: --from 'soon'"),
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
    assert re.search(r", in (4 m .*|5 m +)\(replaced: same key\)", shown), shown  # by how quick the machine is
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


def test_a_forgotten_context_path(cli: Cli, node: ServedNode) -> None:
    done = cli("list", "--server", node.url.removesuffix("/api"))
    assert done.code == 5
    assert "contextPath" in done.err
