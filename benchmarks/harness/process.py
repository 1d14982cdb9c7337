"""Child processes of a run: started with care, read by lines, stopped by pid."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc: Any = None
if sys.platform == "linux":
    with contextlib.suppress(OSError):
        _libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Runs in the child before exec: a benchmark that is killed leaves no process behind (Linux only)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ChildFailedError(RuntimeError):
    """A child ended badly or said nothing; the message holds the end of what it wrote to stderr."""


class Child:
    """A child that speaks JSON lines on stdout. Use as a context manager: leaving it stops the child."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        # A file and not a pipe: a node that logs must never wait for us to read.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child, closed by stop()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=folder or ROOT,
            env=dict(environment) if environment is not None else None,
            preexec_fn=die_with_parent,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def read(self) -> dict[str, Any]:
        """The next JSON line; raises ChildFailedError when the child ends instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                record: dict[str, Any] = json.loads(line)
                return record
        code = self._process.wait(timeout=30)
        raise ChildFailedError(f"exit code {code}: {self.words() or 'no word'}")

    def words(self, *, limit: int = 600) -> str:
        """The end of what the child wrote to stderr."""
        self._stderr.seek(0)
        return self._stderr.read()[-limit:].decode(errors="replace").strip()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def close_input(self) -> None:
        """End of input: the way children of this package are told to finish."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self, *, grace_s: float = 10.0) -> int:
        """SIGTERM, then SIGKILL after ``grace_s``; returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        code = self._process.wait(timeout=30)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return code


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
