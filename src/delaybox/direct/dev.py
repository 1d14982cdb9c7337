"""`delaybox worker --dev`: an embedded server and one worker on it, started again when a source file changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from delaybox.client.endpoints import VARIABLE
from delaybox.embedded import EmbeddedServer
from delaybox.processes import counters
from delaybox.worker.launch import Launch

log = logging.getLogger("delaybox.worker")

FOLDER: Final = ".delaybox"
"""The data folder, in the working folder, unless the command names a server."""
GRACE: Final = "1s"
_LOOK_S: Final = 0.3
_MOST_FILES: Final = 5_000
_LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
_KILL_AFTER_S: Final = 10.0


def run_dev(launch: Launch) -> int:
    """Runs until it is asked to stop. Returns the exit code. EmbeddedServerError when there is no server to be had."""
    return asyncio.run(_Development(launch).run())


class _Development:
    """Keeps one worker process that has the sources as they are."""

    def __init__(self, launch: Launch) -> None:
        self._root = Path.cwd()
        self._launch = replace(launch, dev=False, processes=1, grace=launch.grace or GRACE)
        self._stopping = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        server: EmbeddedServer | None = None
        servers = self._launch.servers
        if servers is None:
            folder = self._root / FOLDER
            server = EmbeddedServer(folder)
            await server.start()
            servers = (f"file:{quote(str(folder))}",)
            log.info("an embedded server in %s; programs here reach it by Client.embedded(%r)", folder, FOLDER)
        self._launch = replace(self._launch, servers=servers)
        # For clients that the functions make, and name no server.
        os.environ[VARIABLE] = servers[0]
        try:
            await self._keep()
        finally:
            if server is not None:
                await server.stop()
        return 0

    def _ask_to_stop(self) -> None:
        """Called again, it ends the worker at once."""
        if self._stopping.is_set() and self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
        self._stopping.set()

    async def _keep(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        seen = await asyncio.to_thread(_stamps, self._root)
        while not stopping.done():
            await self._start()
            assert self._child is not None
            ended = asyncio.create_task(_end_of(self._child))
            reported = False
            while not stopping.done():
                await asyncio.wait({stopping} if reported else {stopping, ended}, timeout=_LOOK_S,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                if ended.done() and not reported:
                    reported = True
                    if not stopping.done():
                        log.warning(
                            "the worker ended with code %s; it starts again when a file changes", ended.result()
                        )
                now = await asyncio.to_thread(_stamps, self._root)
                if now != seen:
                    changed = sorted(str(path) for path in dict(now.items() ^ seen.items()))
                    log.info("%s changed: the worker starts again", ", ".join(changed[:3]))
                    seen = now
                    break
            await self._end(ended)
        stopping.cancel()

    async def _start(self) -> None:
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "delaybox.worker", "--child", json.dumps(asdict(self._launch)),
            stdin=asyncio.subprocess.PIPE,  # the child reads its end as a sign that this process is gone
            start_new_session=True,
        )  # fmt: skip

    async def _end(self, ended: asyncio.Task[int]) -> None:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({ended}, timeout=_KILL_AFTER_S)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await ended


async def _end_of(child: asyncio.subprocess.Process) -> int:
    """Its exit code, when it has ended. What it showed of its last moment is shown no more."""
    code = await child.wait()
    if folder := os.environ.get(counters.VARIABLE):
        counters.forget(folder, str(child.pid))
    return code


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    """When each source below a folder was changed, and its size; the first few thousand."""
    found: dict[Path, tuple[int, int]] = {}
    for path in _sources(root):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found[path.relative_to(root)] = stat.st_mtime_ns, stat.st_size
        if len(found) >= _MOST_FILES:
            break
    return found


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        # Sorted in place, which os.walk follows: the same files each time, where there are too many.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _LEFT_OUT and not (Path(folder) / name / "pyvenv.cfg").exists()
        )
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".py"))
