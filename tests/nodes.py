"""Whole nodes for tests, started by the command as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE_S, Log, until

JSON = {"Content-Type": "application/json"}
_ANY_GRPC_PORT = ("--grpc-port", "0")
_OURS = re.compile(r"DELAYBOX_|APP_|REDIS_|BROKERS$|WORKER_ENABLE$|SERVER_CONTEXT_PATH$")


class Node:
    """`delaybox serve` in a folder of its own. ``under``: a command that runs the node."""

    def __init__(
        self, *arguments: str, folder: Path, environ: Mapping[str, str] | None = None, under: Sequence[str] = ()
    ) -> None:
        # Somebody's settings for another node must not reach this one.
        inherited = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        self._log = Log(folder / f"node-{time.monotonic_ns()}.log")
        try:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "delaybox", "serve", *_ANY_GRPC_PORT, *arguments],
                stdout=self._log.fd,
                stderr=self._log.fd,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**inherited, **(environ or {})},
            )
        finally:
            self._log.started()
        self.folder = folder
        self.port = 0
        self.grpc_port = 0

    def output(self) -> str:
        if self.process.poll() is not None:
            self._log.end()
        return self._log.text()

    def wait_for(self, words: str) -> re.Match[str]:
        """Returns when it has said what matches ``words``; AssertionError when it ends or takes too long."""
        return self._log.wait_for(words)

    def address(self, way: str) -> str:
        """For a client: over ``grpc``, or straight to the server of its data folder, which lies at ``data``."""
        return f"127.0.0.1:{self.grpc_port}" if way == "grpc" else f"file:{self.folder / 'data'}"

    def ready(self) -> Node:
        """Itself, when it listens and its readiness is given."""
        self.port = int(self.wait_for(r"listening on http://\S+?:(\d+)")[1])
        self.until(lambda: self.call("GET", "/readyz")[0] == 200)
        if found := re.search(r"grpc listening on \S+?:(\d+)", self.output()):
            self.grpc_port = int(found[1])
        return self

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers, and the body: read as JSON where it is some."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, text, dict(headers))
            answer = connection.getresponse()
            out = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, json.loads(out) if "json" in found.get("content-type", "") and out else out
        finally:
            connection.close()

    def until(self, true: Callable[[], Any], *, within_s: float = PATIENCE_S) -> Any:
        """What ``true`` answers, once that is true; AssertionError with the log when it takes too long."""
        return until(true, self.output, within_s=within_s)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_S)
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()


@contextlib.contextmanager
def node(
    *arguments: str, folder: Path, environ: Mapping[str, str] | None = None, under: Sequence[str] = ()
) -> Iterator[Node]:
    """A node that is ready, stopped at the end."""
    started = Node(*arguments, folder=folder, environ=environ, under=under)
    try:
        yield started.ready()
    finally:
        started.stop()
