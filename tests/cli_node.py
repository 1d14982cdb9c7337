"""A node as users of the command line have it: with its own server, a context path and tokens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Command, Done
from tests.waiting import PATIENCE_S, until

ALL, READER, MANAGER = "all-of-it-0123456789", "reader-0123456789", "manager-0123456789"
CONFIG = f"""
httpServer: {{contextPath: /api}}
auth:
  tokens:
    - {{token: {ALL}, scopes: [read, schedule, cancel, admin]}}
    - {{token: {READER}, scopes: [read]}}
    - {{token: {MANAGER}, scopes: [read, schedule]}}
"""
PAST = "2024-07-22T18:23:10Z"

Cli = Callable[..., Done]


@dataclass(frozen=True, slots=True)
class ServedNode:
    """Where it answers, and its folder: `c.yaml` and `data`."""

    url: str
    folder: Path


def serving() -> Iterator[ServedNode]:
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
        yield ServedNode(found[1], folder)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=PATIENCE_S)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def commands(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> Cli:
    """Runs a command with the token that may everything, in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DELAYBOX_SERVER", node.url)
    monkeypatch.setenv("DELAYBOX_TOKEN", ALL)
    return Command(monkeypatch, capsys)


def environment(node: ServedNode) -> dict[str, str]:
    """For a process that is to talk to the node with the token that may everything."""
    return {**os.environ, "DELAYBOX_SERVER": node.url, "DELAYBOX_TOKEN": ALL}


def process(node: ServedNode, *arguments: str, stdin: bytes = b"", **variables: str) -> Done:
    """Runs a command in a process of its own, without a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "delaybox", *arguments],
        input=stdin, capture_output=True, timeout=60, env={**environment(node), **variables},
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def scheduled(cli: Cli, *arguments: str) -> str:
    done = cli("schedule", *arguments, "--json")
    assert done.code == 0, done.err
    task_id: str = done.json()["id"]
    return task_id


def dead_letter(cli: Cli, queue: str, *arguments: str) -> str:
    """A task that is too late at once."""

    def end() -> str:
        found = cli("get", task_id, "--json").out
        state: str = json.loads(found).get("state") or "" if found else ""
        return state if state in ("failed", "succeeded") else ""

    for _ in range(20):
        task_id = scheduled(cli, "late", "--at", PAST, "--expire-after", "1ms", "--queue", queue, *arguments)
        # A node that is quicker than that carries it out.
        if until(end) == "failed":
            return task_id
    raise AssertionError("each was carried out within a millisecond")
