"""What stands between a command and the node that runs it."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from delaybox.processes.hardening import KEPT
from delaybox.targets.shell import ShellOptions, why_not
from tests.nodes import Node
from tests.proc import children_of
from tests.shells import desk
from tests.waiting import PATIENCE_S, Log

pytestmark = pytest.mark.fresh

CANARY = "canary-of-the-node"
NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


# What sets root apart is its capabilities: without them it is bound as any user is.
NO_CAPABILITIES = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_host_slots_and_commands_gain_nothing_and_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAYBOX_AUTH_TOKENS", CANARY)
    monkeypatch.setenv("REDIS_PASS", CANARY)
    async with desk() as d:
        host = d.target.host_pid
        assert (await d.result("grep NoNewPrivs /proc/self/status")).output.split() == [b"NoNewPrivs:", b"1"]
        slots = children_of(host)
        assert len(slots) == 4
        for pid in (host, *slots):
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
            names = {
                pair.partition(b"=")[0].decode() for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            }
            assert names - {""} <= set(KEPT)


@as_root
async def test_commands_can_have_another_users_rights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_PASS", CANARY)
    (tmp_path / "secret").write_text(CANARY)
    async with desk(user="nobody") as d:
        shown = (await d.result("id -u; id -g; id -G; touch mine && stat -c %u mine")).output.decode().split()
        group = pwd.getpwnam("nobody").pw_gid
        assert shown == [str(NOBODY), str(group), *map(str, os.getgrouplist("nobody", group)), str(NOBODY)]
        # Host, slot and command are one user's here, and still the command sees nothing of the others.
        for look in (
            f"cat {tmp_path}/secret",
            "cat /proc/$PPID/environ",
            "head -c 1 /proc/$PPID/mem",
            "ls /proc/$PPID/fd",
        ):
            result = await d.result(look)
            assert b"ermission denied" in result.output and CANARY.encode() not in result.output, look
        assert (await d.result("kill -0 " + str(os.getpid()))).exit_code != 0


def test_who_commands_run_as_must_be_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "whom this machine does not know" in why_not(ShellOptions(user="no-such-user"))
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert "start the node as root, or leave workers.shell.user out" in why_not(ShellOptions(user="root"))
    assert why_not(ShellOptions()) == ""


def test_no_process_of_a_node_shows_its_secrets_to_a_command(tmp_path: Path) -> None:
    """Node, interfaces, embedded server, host and slots run as one user, whom the command runs as too."""
    word = f"canary{os.urandom(8).hex()}"
    started = Node(
        *("--http-port", "0", "--enable-shell", "--data-dir", "data"),
        folder=tmp_path, environ={"SOME_SECRET": word}, under=(sys.executable, "-c", NO_CAPABILITIES),
    )  # fmt: skip
    try:
        started.ready()
        look = f"for p in /proc/[0-9]*; do cat $p/environ; done 2>/dev/null | tr '\\0' '\\n' | grep -c {word}"
        _, _, made = started.call("POST", "/v1/tasks", {"type": "shell", "payload": look})

        def ended() -> Any:
            task = started.call("GET", f"/v1/tasks/{made['id']}")[2]
            return task if task["state"] in ("succeeded", "failed") else None

        task = started.until(ended)
        assert task["result"]["output"].strip() == "0", task
    finally:
        assert started.stop() == 0


def test_nothing_is_imported_from_the_working_folder(tmp_path: Path) -> None:
    """Whoever can write to the folder in which a node is started must not have it run code of his."""
    (tmp_path / "uvloop.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    (tmp_path / "msgspec.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    flags = ("--http-port", "0", "--grpc-port", "0", "--data-dir", "data", "--enable-shell")
    command = [str(Path(sys.executable).with_name("delaybox")), "serve", *flags]
    log = Log(tmp_path / "log")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log.fd, stderr=log.fd)
    log.started()
    log.wait_for("listening on http")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert not (tmp_path / "proof").exists()
