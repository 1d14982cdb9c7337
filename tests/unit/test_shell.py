"""The shell target's parts that need no process: rules, configuration, output, outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delaybox.config import load
from delaybox.core.delivery import Done, Failed, HandBack
from delaybox.core.errors import ConfigError, InvalidTask, TypeDisabled
from delaybox.core.limits import MAX_COMMAND_BYTES
from delaybox.targets import shell_frames as frames
from delaybox.targets.shell import ShellOptions, outcome_of, why_not
from delaybox.targets.shell_output import Output
from delaybox.targets.shell_pool import Ended
from delaybox.wire.original.request import OriginalRules, parse_task
from delaybox.wire.shell_rules import ShellRules


def refused(rules: ShellRules, payload: bytes = b"date", name: str = "") -> tuple[type[InvalidTask], str]:
    with pytest.raises(InvalidTask) as caught:
        rules.check(payload, name)
    return type(caught.value), str(caught.value)


def test_nothing_is_allowed_by_default():
    rules = ShellRules()
    assert not rules.any
    kind, words = refused(rules)
    assert kind is TypeDisabled and "--enable-shell" in words and "workers.shell.enabled" in words
    kind, words = refused(rules, name="backup")
    assert kind is TypeDisabled and "'backup'" in words and "workers.shell.commands" in words


def test_named_commands_can_be_allowed_alone():
    rules = ShellRules(commands=frozenset({"backup"}))
    assert rules.any
    rules.check(b"\0 anything: it goes to the command's input", "backup")
    assert refused(rules)[0] is TypeDisabled
    assert "only named commands" in refused(rules)[1]
    for other in ("Backup", "backup ", "backup;id", "/bin/sh", "../backup", "backup\n"):
        kind, words = refused(rules, name=other)
        assert kind is TypeDisabled and "there are backup" in words, other


def test_a_payload_that_no_shell_could_be_started_with_is_refused():
    rules = ShellRules(payloads=True)
    rules.check(b"x" * MAX_COMMAND_BYTES)
    kind, words = refused(rules, b"echo a\0b")
    assert kind is InvalidTask and "NUL byte (at 6)" in words
    kind, words = refused(rules, b"x" * (MAX_COMMAND_BYTES + 1))
    assert kind is InvalidTask and "130049 bytes" in words


def test_the_compatible_post_says_it_of_pyload():
    from delaybox.core.task import TaskType

    rules = OriginalRules(types=frozenset({TaskType.PUB_SUB, TaskType.SHELL_CMD}))
    with pytest.raises(InvalidTask, match=r"^pyload holds a NUL byte") as caught:
        parse_task(b'{"taskType":"SHELL_CMD","pyload":"AGE="}', rules)
    assert caught.value.field == "pyload" and caught.value.code == "invalid_task"
    with pytest.raises(InvalidTask, match=r"^payload holds a NUL byte"):
        parse_task(b'{"taskType":"SHELL_CMD","payload":"AGE="}', rules)
    assert parse_task(b'{"taskType":"PUB_SUB","pyload":"AGE="}', rules).payload == b"\0a"


def config(text: str = "", **environ: str):
    path = Path("config.yaml")
    path.write_text(text)
    return load(path=path, environ=environ).config.workers.shell


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


COMMANDS = """
workers:
  shell:
    commands:
      backUp_1.x: {path: /usr/bin/rsync, args: [-a, "/srv/a b", $(id)]}
      date: {path: /bin/date}
"""


def test_commands_are_read_as_they_stand():
    shell = config(COMMANDS)
    assert shell.commands == {"backUp_1.x": ("/usr/bin/rsync", "-a", "/srv/a b", "$(id)"), "date": ("/bin/date",)}
    assert shell.any and not shell.enabled


def test_defaults_and_units():
    shell = config()
    assert not shell.any and shell.concurrency == 16 and shell.limits.processes == 256
    shell = config(
        "workers:\n  shell:\n    enabled: true\n    timeout: 10s\n    keepResult: 2h\n"
        "    limits: {memory: 1GiB, cpu: 0s}"
    )
    assert (shell.enabled, shell.timeout, shell.keep_result) == (True, 10_000, 7_200_000)
    assert (shell.limits.memory, shell.limits.cpu) == (1 << 30, 0)


def test_the_environment_sets_them_too():
    text = json.dumps({"date": {"path": "/bin/date", "args": ["-u"]}})
    shell = config("", DELAYBOX_WORKERS_SHELL_COMMANDS=text, DELAYBOX_WORKERS_SHELL_ENABLED="true")
    assert shell.commands == {"date": ("/bin/date", "-u")} and shell.enabled
    assert config("", DELAYBOX_ENABLE_SHELL="true").enabled


@pytest.mark.parametrize(
    "wrong",
    [
        "{date: {path: date}}",
        "{date: /bin/date}",
        "{date: {path: /bin/date, args: -u}}",
        "{date: {path: /bin/date, arguments: [-u]}}",
        "{date: {args: [-u]}}",
        "{'a b': {path: /bin/date}}",
        "[date]",
        "date",
    ],
)
def test_commands_that_are_none_are_refused_with_an_example(wrong: str):
    with pytest.raises(ConfigError) as caught:
        config(f"workers:\n  shell:\n    commands: {wrong}")
    words = str(caught.value)
    assert words.startswith("workers.shell.commands (config.yaml) is ") and "{backup: {path: /usr/bin/rsync" in words


def test_a_command_that_is_not_there_is_said_at_start(tmp_path: Path):
    assert why_not(ShellOptions(commands={"date": ("/bin/date", "-u")})) == ""
    plain = tmp_path / "plain"
    plain.write_text("")
    for path in ("/nowhere/at/all", "/tmp", str(plain)):
        words = why_not(ShellOptions(commands={"x": (path,)}))
        assert words.startswith(f"workers.shell.commands: x is {path}, which this user cannot run"), words


def test_output_keeps_both_ends_and_says_what_was_cut():
    whole = Output(100)
    whole.add(b"a" * 60)
    whole.add(b"b" * 40)
    assert whole.kept() == b"a" * 60 + b"b" * 40 and not whole.truncated
    cut = Output(1_000)
    for letter in b"abcdefghij":
        cut.add(bytes([letter]) * 1_000)
    kept = cut.kept()
    assert cut.truncated and len(kept) <= 1_000
    assert kept.startswith(b"a" * 468 + b"\n[... 9064 bytes cut ...]\n") and kept.endswith(b"\n" + b"j" * 468)


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000, 1_000_000])
@pytest.mark.parametrize("chunk", [1_000, 65_536, 1_000_000])
def test_output_is_never_over_its_cap(size: int, chunk: int):
    output = Output(64 * 1024)
    data = bytes(at % 251 for at in range(size))
    for at in range(0, size, chunk):
        output.add(data[at : at + chunk])
    kept = output.kept()
    assert output.truncated == (size > 64 * 1024)
    assert len(kept) <= 64 * 1024
    assert (kept == data) if not output.truncated else (kept[:1000] == data[:1000] and kept[-1000:] == data[-1000:])


def ending(**words) -> Ended:
    return Ended({"ms": 12, "why": "", "truncated": False, "survivors": False, **words}, b"out")


def test_outcomes():
    done = outcome_of(ending(code=0), 5_000, now_ms=7)
    assert isinstance(done, Done) and done.keep_ms == 5_000 and done.result is not None
    assert (done.result.ok, done.result.exit_code, done.result.output, done.result.duration_ms) == (True, 0, b"out", 12)
    for ended, reason, code in (
        (ending(code=3), "exit code 3", 3),
        (ending(code=-11), "killed by SIGSEGV", 139),
        (ending(code=-15, why="timed out"), "timed out after 12 ms", None),
        (ending(code=0, why="timed out"), "timed out after 12 ms", None),
        (Ended({}, b""), "the process that ran it died", None),
        (Ended({"error": "no room", "ms": 0}, b""), "it could not be started: no room", None),
    ):
        failed = outcome_of(ended, 1, now_ms=7)
        assert isinstance(failed, Failed) and failed.result is not None, ended
        assert (failed.reason, failed.result.exit_code, failed.result.ok) == (reason, code, False)
        assert failed.result.reason == reason and failed.retryable
    assert outcome_of(ending(code=-15, why="cancelled"), 1, cancelled=True) == HandBack()
    stopped = outcome_of(ending(code=-15, why="cancelled"), 1, cancelled=True, stopped=True)
    assert isinstance(stopped, Done) and stopped.result is not None and stopped.result.cancelled
    assert isinstance(outcome_of(ending(code=0), 1, cancelled=True), Done), "it ended before it heard of it"


def test_frames_carry_any_payload():
    for size in (0, 1, 65_536, 65_537, 300_000):
        payload = bytes(at % 256 for at in range(size))
        datagrams = list(frames.job({"id": "x"}, payload))
        head, total, start = frames.job_head(datagrams[0])
        assert head == {"id": "x"} and total == size and max(map(len, datagrams)) < frames.DATAGRAM
        assert start + b"".join(d[1:] for d in datagrams[1:]) == payload
        assert all(d.startswith(frames.MORE) for d in datagrams[1:])
    assert frames.read_end(frames.end({"code": 1}, b"\0x")) == ({"code": 1}, b"\0x")
