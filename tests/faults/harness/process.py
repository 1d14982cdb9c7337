"""Node processes: started, watched, killed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import Log

ROOT = Path(__file__).parents[3]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def dies_with_parent() -> None:
    """For ``preexec_fn``: nothing that a test starts outlives a test run that is itself killed (Linux)."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child whose output goes to ``folder/name.log`` and that says ``ready`` there once it works.

    ``root``: the tree whose code it runs, where that is not this one's.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        name: str,
        ready: str,
        env: Mapping[str, str],
        root: Path = ROOT,
    ) -> None:
        self._arguments, self._ready, self._root = list(arguments), ready, root
        self._file = folder / f"{name}.log"
        self._log: Log | None = None
        path = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), str(root / "src"), str(root))))
        self._env = {**os.environ, **env, "PYTHONPATH": path}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, *, ready: bool = True) -> None:
        """Returns when it is ready; AssertionError with its output when it is not. ``ready`` False: it may die before
        it is, and is not waited for."""
        self._file.unlink(missing_ok=True)
        self._log = Log(self._file)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log.fd,
                stderr=self._log.fd,
                env=self._env,
                cwd=self._root,
                start_new_session=True,
                preexec_fn=dies_with_parent,
            )
        finally:
            self._log.started()
        if ready:
            await self.logged(self._ready)

    async def logged(self, text: str) -> str:
        """Waits until its output holds ``text``; that line. AssertionError when it ends or time is up before."""
        assert self._log is not None
        found = await asyncio.to_thread(self._log.wait_for, f"(?m)^.*{re.escape(text)}.*$")
        return found[0]

    def output(self) -> str:
        assert self._log is not None
        if not self.running:
            self._log.end()
        return self._log.text()

    def send(self, what: signal.Signals) -> None:
        """A signal; harmless when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, what)

    async def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Sends the signal and waits for the end; its exit code."""
        self.send(how)
        return await self.wait()

    async def wait(self) -> int:
        """Waits for the end; its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def clean_up(self) -> None:
        """Kills its whole group, for a node's API child must not outlive the test either."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.wait()


def worker(
    folder: Path, name: str, settings: Mapping[str, Any], env: Mapping[str, str] | None = None, root: Path = ROOT
) -> Process:
    """A leased-path node (node_proc.py) with these settings."""
    arguments = [sys.executable, "-m", "tests.faults.node_proc", json.dumps(settings)]
    return Process(arguments, folder=folder, name=name, ready="ready", env=env or {}, root=root)


def serve(folder: Path, name: str, *, redis_url: str, port: int, env: Mapping[str, str] | None = None) -> Process:
    """A whole node: `delaybox serve` on a server of ours."""
    arguments = [
        sys.executable,
        "-m",
        "delaybox",
        "serve",
        "--redis",
        redis_url,
        "--http-port",
        str(port),
        "--grpc-port",
        "0",
    ]
    arguments += ["--data-dir", str(folder / f"{name}-data")]
    return Process(arguments, folder=folder, name=name, ready="listening on", env=env or {})
