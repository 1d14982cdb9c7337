"""Processes where they are started: as the first of a container, with a low limit of open files, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from delaybox.processes.restart import RestartBackoff
from delaybox.processes.settings import ProcessSettings
from delaybox.processes.spawn import ChildProcess
from delaybox.processes.spec import ProcessKind, Spec
from delaybox.processes.supervise import Keeper
from tests.nodes import node
from tests.proc import children_of
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.fresh

IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

FIRST_PROCESS = """
import os, signal, subprocess, sys, time
from delaybox.processes.init import as_init

def zombies():
    states = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                states.append(open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0])
            except OSError:
                pass
    return states.count("Z")

def main():
    # Each leaves a process behind whose parent is gone; it ends a moment later.
    for _ in range(20):
        subprocess.run(["sh", "-c", "sleep 0.05 &"])
    give_up = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) and subprocess.run(["pgrep", "-x", "sleep"], capture_output=True).stdout:
        assert time.monotonic() < give_up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("pid", os.getpid(), "zombies", zombies(), flush=True)
    while True:
        time.sleep(10)

sys.exit(as_init(main))
"""


def can_make_containers() -> bool:
    return subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True).returncode == 0


@pytest.fixture
def first_process() -> Iterator[subprocess.Popen[str]]:
    if not can_make_containers():
        assert not os.environ.get("CI"), "unshare --pid does not work here"
        pytest.skip("making a process namespace needs root")
    process = subprocess.Popen(
        [*IN_A_CONTAINER, sys.executable, "-c", FIRST_PROCESS], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def child_of(pid: int) -> int:
    return children_of(pid)[0]


def test_the_first_process_of_a_container_reaps_orphans_and_hands_on_signals(
    first_process: subprocess.Popen[str],
) -> None:
    assert first_process.stdout is not None
    facts = first_process.stdout.readline().split()
    assert facts[0::2] == ["pid", "zombies"] and facts[1] != "1" and facts[3] == "0"
    # unshare waits for it, and ends with its exit code.
    os.kill(child_of(first_process.pid), signal.SIGTERM)
    assert first_process.wait(PATIENCE_S) == 7


def limit_of(pid: int) -> int:
    found = re.search(r"Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found
    return int(found[1])


def test_every_process_of_a_node_raises_its_limit_of_open_files(
    server: RealServer, prefix: str, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    try:
        with node(
            "--redis", server.url, "--set", f"storage.prefix={prefix}", "--http-port", "0", folder=tmp_path
        ) as made:
            pid = made.process.pid
            children = children_of(pid)
            assert len(children) >= 2
            assert all(limit_of(p) > 1_024 for p in [pid, *children])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Sleeper(Keeper):
    """Keeps a process that does nothing. ``back`` is set when there is one again."""

    back = asyncio.Event()

    async def start(self) -> None:
        command = ("sleep", "60")
        self._child = ChildProcess(await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE), "sleeper")

    async def begin(self, *, again: bool = False) -> Mapping[str, str]:
        self._since = asyncio.get_running_loop().time()
        self.back.set()
        return {}


async def test_the_pause_before_a_restart_begins_anew_after_a_steady_life(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    spec = Spec(kind=ProcessKind.CLOCK, settings=ProcessSettings())
    keeper = Sleeper(spec, backoff=RestartBackoff(first_s=0.01, longest_s=10.0, steady_s=0.3))
    back = keeper.back = asyncio.Event()
    await keeper.start()
    await keeper.begin()
    stop = asyncio.Event()
    running = asyncio.create_task(keeper.run(stop))

    async def dies() -> None:
        back.clear()
        keeper.child.kill()
        await asyncio.wait_for(back.wait(), PATIENCE_S)
        # The keeper goes on in this turn of the loop or the next.
        while keeper.child.exit_code is not None:
            await asyncio.sleep(0)

    for _ in range(4):
        await dies()
    began = time.monotonic()
    while time.monotonic() - began < 0.4:
        await asyncio.sleep(0.05)
    await dies()
    stop.set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE_S)
    await keeper.stop()
    pauses = [float(m[1]) for r in caplog.records if (m := re.search(r"in ([\d.]+) s$", r.getMessage()))]
    assert len(pauses) == 5 and pauses[4] <= 0.01
    assert all("was ended by SIGKILL after" in r.getMessage() for r in caplog.records)
