"""The commands up to where the node begins: flags, words on stderr, exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from delaybox import __version__
from delaybox.cli import main
from delaybox.config import Config, load
from delaybox.core.scopes import Access, Token

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs ``delaybox …`` in an empty folder; its exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("delaybox.cli.messages.as_json", False)
    # Where a check is missing, no node that really runs on this machine must be asked.
    monkeypatch.setenv("DELAYBOX_SERVER", "http://127.0.0.1:1")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["delaybox", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configurations that reached the node, which is only an exit code 7 here."""
    configs: list[Config] = []

    def run(config: Config) -> int:
        configs.append(config)
        return 7

    node = types.ModuleType("delaybox.node")
    monkeypatch.setattr(node, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, "delaybox.node", node)
    return configs


def test_the_version_is_told_without_loading_anything_heavy() -> None:
    code = (
        "import sys; sys.argv = ['delaybox', '--version']; from delaybox.cli import main; main(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, modules = done.stdout.splitlines()
    assert first == f"delaybox {__version__}"
    assert not {"typer", "rich", "redis", "pydantic", "yaml", "asyncio"} & set(modules.split())


def test_help_loads_no_server_parts() -> None:
    code = "import sys; from delaybox.cli import app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"redis", "pydantic", "msgspec", "rich", "asyncio", "ssl", "http.client"}
    assert not heavy & set(done.stdout.split())


def test_flags_reach_the_node_and_its_exit_code_comes_back(run: Run, served: list[Config], tmp_path: Path) -> None:
    flags = "--http-port 1 --grpc-port 2 --redis redis://h:3 --log-format json --data-dir d --set lease=20s"
    code, _, err = run("serve", *flags.split())
    assert (code, err) == (7, "")
    (config,) = served
    assert (config.http_server.port, config.grpc_server.port, config.log_format) == (1, 2, "json")
    assert config.data_folder == tmp_path / "d"
    assert config.lease_ms == 20_000
    assert str(config.server()).count("host='h', port=3") == 1


def test_set_reaches_keys_that_have_a_flag_of_their_own(run: Run, served: list[Config], tmp_path: Path) -> None:
    run("serve", "--set", "storage.redisUrl=redis://h:3", "--set", "dataDir=d", "--set", "logFormat=json")
    (config,) = served
    assert str(config.server()).count("host='h', port=3") == 1
    assert (config.data_folder, config.log_format) == (tmp_path / "d", "json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("serve --http-port x", "error: httpServer.port (flag --http-port) is 'x'; it must be a port"),
        ("serve --host 0.0.0.0", "error: httpServer.host (flag --host) is '0.0.0.0': others could"),
        ("serve --config nowhere.yaml", "error: there is no configuration file nowhere.yaml"),
        ("serve --set nothing", "error: --set nothing: write KEY=VALUE"),
        ("serve --set storage.prefx=a", "did you mean storage.prefix?"),
        ("serve --redis http://h", "error: storage.redisUrl (flag --redis): the server's URL starts with 'http'"),
        ("serve --set kafka.enabled=true", "kafka.brokers is not set; give host:port"),
        ("serve --no-such-flag", "No such option"),
        ("nonsense", "No such command"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_exit_code_2(
    run: Run, served: list[Config], arguments: str, words: str
) -> None:
    code, _, err = run(*arguments.split())
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert served == []


def test_an_insecure_address_is_told_loudly(run: Run, served: list[Config]) -> None:
    code, _, err = run("serve", "--host", "0.0.0.0", "--insecure")
    assert code == 7
    assert "warning: INSECURE: everybody who reaches 0.0.0.0:8088" in err
    assert served[0].insecure


def test_unknown_keys_are_warnings_when_serving_and_errors_when_checking(run: Run, served: list[Config]) -> None:
    Path("c.yaml").write_text("httpServer: {prot: 1}")
    code, _, err = run("serve", "--config", "c.yaml")
    assert code == 7
    assert "warning: unknown key httpServer.prot in c.yaml is ignored; did you mean httpServer.port?" in err
    code, _, err = run("config", "check", "--config", "c.yaml")
    assert code == 2
    assert "did you mean httpServer.port?" in err
    Path("c.yaml").write_text("httpServer: {port: 1}")
    assert run("config", "check", "--config", "c.yaml") == (0, "c.yaml: no mistakes\n", "")


def test_the_variables_of_the_command_line_are_no_configuration(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAYBOX_SERVER", "http://elsewhere:1")
    monkeypatch.setenv("DELAYBOX_TOKEN", "not-to-be-seen")
    assert run("config", "check") == (0, "no configuration file: no mistakes\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("schedule", "nothing to schedule"),
        ("schedule a --payload-json 1", "more than one payload"),
        ("schedule --payload-json {a", "--payload-json is no JSON"),
        ("schedule --payload-file nowhere", "--payload-file nowhere: No such file"),
        ("schedule --file nowhere", "--file nowhere: No such file"),
        ("schedule --file f --queue q --delay 1m", "leave out delay, queue"),
        ("schedule a --run x", "--run belongs to --file"),
        ("schedule a --label x", "--label x: write KEY=VALUE"),
        ("schedule a --header a=1 --header a=2", "--header a is given twice"),
        ("schedule a --priority urgent", "'urgent' is not one of"),
        ("list --state gone", "'gone' is not one of"),
        ("list --limit 0", "'--limit' / '-n': 0 is out of range; give at least 1"),
        ("get ''", "an id or name is empty; give it"),
        ("cancel ''", "an id or name is empty; give it"),
        ("queues set '' --pause", "an id or name is empty; give it"),
        ("queues set a --resume --clear paused", "--resume and --clear paused are both given; give one of them"),
        ("queues set a --weight nan", "'--weight': nan is no finite number"),
        (
            "worker app:w --metrics-port x",
            "(env var: 'DELAYBOX_WORKER_METRICS_PORT'): 'x' is no whole number; give one",
        ),
        ("worker app:w --metrics-port 65536", "_METRICS_PORT'): 65536 is out of range; give at most 65535"),
        ("list --limit x", "'--limit' / '-n': 'x' is no whole number; give one"),
        ("schedule a --attempts 1.5", "'--attempts': '1.5' is no whole number; give one"),
        ("schedule a --fairness-weight x", "'--fairness-weight': 'x' is no number; give one"),
        ("schedule a --fairness-weight nan", "'--fairness-weight': nan is no finite number; give one"),
        ("top --every inf", "'--every': inf is no finite number; give one"),
        ("reschedule x", "nothing to change"),
        ("cancel", "no tasks are named; give ids, a filter such as --group"),
        ("cancel x --group g --from 1", "--from, --group: not with ids"),
        ("cancel --group g --all", "--all and --group are both given"),
        ("cancel --group g --running", "--running goes with ids"),
        ("reschedule --group g", "no time is given"),
        ("dead replay", "no dead letters are named; give ids, a filter such as --queue, or --all"),
        ("dead replay x --all --label a=b", "--all, --label: not with ids"),
        ("dead replay x --limit 5", "--limit: not with ids"),
        ("dead discard", "no dead letters are named; give ids, a filter such as --queue, or --all"),
        ("dead discard x --dry-run", "--dry-run: not with ids"),
        ("dead discard --queue q --limit 10001", "10001 is out of range"),
        ("forecast --next 1h --to 1900000000000", "exclude each other"),
        ("forecast --next soon", "'soon' is not a duration"),
        ("forecast --from 1900000000", "looks like seconds"),
        ("top --every 0", "0 is out of range; give at least"),
        ("list --server redis://h", "--server (or DELAYBOX_SERVER) is 'redis://h'"),
    ],
)
def test_wrong_input_is_told_before_any_node_is_asked(run: Run, arguments: str, words: str) -> None:
    code, out, err = run(*shlex.split(arguments))
    assert (code, out) == (2, "")
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    ["schedule a", "get x", "list", "cancel x", "reschedule x --delay 1m", "run-now x", "dead list", "dead replay x",
     "dead replay --all", "dead discard x", "dead discard --queue q --dry-run", "queues", "stats", "forecast", "top"],
)  # fmt: skip
def test_without_a_node_every_command_says_what_to_start(run: Run, arguments: str) -> None:
    code, out, err = run(*arguments.split(), "--server", "http://127.0.0.1:1")
    assert (code, out) == (3, "")
    assert "error: no node answers at http://127.0.0.1:1 (Connection refused); start one with `delaybox serve`" in err
    code, out, err = run(*arguments.split(), "--server", "http://127.0.0.1:1", "--json")
    assert (code, out) == (3, "")
    assert json.loads(err)["code"] == "unreachable"


def test_where_no_node_runs_it_is_said(run: Run, tmp_path: Path) -> None:
    code, _, err = run("listen", "--data-dir", str(tmp_path))
    assert code == 3
    assert f"no node has run on the data folder {tmp_path}" in err
    code, _, err = run("listen", "--redis", "redis://127.0.0.1:1")
    assert code == 3
    assert "127.0.0.1:1" in err and err.endswith("; start that server, or correct its address\n")


def test_fsck_of_a_mistyped_folder_makes_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("fsck", "--data-dir", str(tmp_path / "typo"))
    assert code == 3
    assert f"no node has run on the data folder {tmp_path / 'typo'}" in err
    assert not (tmp_path / "typo").exists()


def test_a_token_is_made_with_its_entry_for_the_configuration(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("token", "--name", "ci", "--scope", "read", "--scope", "shell")
    assert code == 0
    secret = next(line.strip() for line in output.splitlines() if line.strip().startswith("dbx_"))
    assert len(secret) == len("dbx_") + 43
    entry = output.partition("auth:\n")[2]
    assert secret not in entry
    (tmp_path / "c.yaml").write_text("auth:\n" + entry)
    (token,) = load(path=tmp_path / "c.yaml", environ={}).config.auth.tokens
    assert token == Token.of(secret, (Access.READ, Access.SHELL), "ci")
    assert run("token")[1] != run("token")[1]


def test_a_token_may_expire(run: Run, tmp_path: Path) -> None:
    before = time.time_ns() // 1_000_000
    output = run("token", "--expires", "90d")[1]
    (tmp_path / "c.yaml").write_text("auth:\n" + output.partition("auth:\n")[2])
    (token,) = load(path=tmp_path / "c.yaml", environ={}).config.auth.tokens
    assert 0 <= token.expires_ms - before - 90 * 86_400_000 < 60_000
    assert json.loads(run("token", "--expires", "2100-01-01T00:00:00+01:00", "--json")[1])["expires"] == (
        "2099-12-31T23:00:00.000Z"
    )
    for wrong, words in (
        ("soon", "is not a duration"),
        ("2001-01-01T00:00:00Z", "is past"),
        ("2001-01-01", "a moment"),
        ("-5d", "--expires '-5d' is negative"),
    ):
        code, output, errors = run("token", "--expires", wrong)
        assert (code, output) == (2, "") and words in errors


def test_a_token_of_an_unknown_scope_is_not_made(run: Run) -> None:
    code, output, errors = run("token", "--scope", "root")
    assert (code, output) == (2, "")
    assert "scopes are read, schedule, cancel, admin, worker, shell" in errors
