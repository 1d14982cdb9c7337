"""Keeps the folder's server running: starts it, or attaches to it if another node has the lock, and brings it back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from delaybox.embedded import folder
from delaybox.embedded.process import (
    NotReadyError,
    OthersServer,
    OwnServer,
    RunningServer,
    connect,
    count_all,
    find_binary,
    last_words,
    launch,
)
from delaybox.embedded.trust import LOCK_FILE, LOG_FILE, SERVER_CONFIG, EmbeddedServerError, open_own
from delaybox.processes.restart import RestartBackoff

log = logging.getLogger("delaybox.embedded")

LONGEST_LOG_BYTES = 10 << 20
SILENCE_S = 30.0
"""How long a server may give no answer (not even that it loads) before the start is given up."""
POLL_S = 0.02
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.1, 5.0, 10.0


class EmbeddedServer:
    """Keeps the folder's server running, as its starter or attached to another node's.

    `start` returns when it answers and has loaded its data; `unix_path` and `password` then stay the same for good.
    While running, a server that ends is started again on the same data with back-off. `stop` may be called twice.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: Path | None = None,
        arguments: Sequence[str] = (),
        watcher: bool | None = None,
    ) -> None:
        self._dir = data_dir.expanduser().absolute()
        self._binary = binary
        self._arguments = tuple(arguments)
        self._watcher = watcher
        self._server: RunningServer | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._reached = False
        self.unix_path = Path()
        self.password: str | None = None
        """None: an older version started the server that this node found."""
        self.restarts = 0

    @property
    def data_dir(self) -> Path:
        return self._dir

    @property
    def pid(self) -> int | None:
        """The server's process id while it is ours; None while attached to another node's, or down."""
        return self._server.pid if self._server else None

    @property
    def attached(self) -> bool:
        """Whether another node started the server that runs now."""
        return self._server is not None and self._server.pid is None

    async def start(self) -> None:
        """EmbeddedServerError when it cannot be had."""
        self._binary = self._binary or find_binary()
        folder.prepare(self._dir)
        self._server = await self._come_up()
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-server")

    async def stop(self, *, grace_s: float = 15.0) -> None:
        """End the server if it is ours (its append-only file is synced first); leave another node's alone."""
        if supervisor := self._supervisor:
            self._supervisor = None
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor
        if server := self._server:
            self._server = None
            await server.close(grace_s)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = RestartBackoff(first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S, steady_s=STEADY_S)
        while True:
            assert self._server is not None
            up_since = loop.time()
            why = await self._server.gone()
            lived_s = loop.time() - up_since
            pause = backoff.pause_s(lived_s)
            log.warning("the embedded server is gone (%s) after %.0f s; bringing it back", why, lived_s)
            await self._server.close(0)
            while True:
                await asyncio.sleep(pause)
                try:
                    self._server = await self._come_up()
                    break
                except (EmbeddedServerError, OSError) as error:
                    pause = backoff.pause_s()
                    log.error("%s; trying again in %.1f s", error, pause)
            self.restarts += 1

    async def _come_up(self) -> RunningServer:
        """Start the server, or attach to the one that runs if the lock is taken, and wait until it serves."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SILENCE_S
        while True:
            if (lock := folder.try_lock(self._dir)) is not None:
                return await self._start_own(lock)
            self.unix_path = folder.recorded_socket(self._dir) or self.unix_path
            try:
                connection = await connect(self.unix_path, folder.password(self._dir))
            except NotReadyError as state:
                if state.loading:
                    deadline = loop.time() + SILENCE_S
                elif loop.time() > deadline:
                    lock_file = self._dir / LOCK_FILE
                    raise EmbeddedServerError(
                        f"another process holds {lock_file}, but no server answers at {self.unix_path}; "
                        f"end that process (`fuser {lock_file}` names it), or use another --data-dir"
                    ) from None
                await asyncio.sleep(POLL_S)
                continue
            if not self._reached:
                self.password = connection.password
            elif self.password != connection.password:
                connection.writer.close()
                raise EmbeddedServerError(
                    f"the server on {self._dir} has another password than when this node started; restart this node"
                )
            self._reached = True
            log.info("attached to the server that another node runs on %s", self._dir)
            return OthersServer(connection.reader, connection.writer)

    async def _start_own(self, lock: int) -> RunningServer:
        try:
            self.unix_path = folder.choose_socket(self._dir)
            if not self._reached:
                # Later it stays as it is, because this node's processes know it. Nodes of an older version that ran the
                # server had none: the next one that finds none running makes one.
                self.password = folder.make_password(self._dir)
            # In a file, because everybody on the machine can read command lines.
            file = [str(self._dir / SERVER_CONFIG)] if self.password else []
            command = [str(self._binary), *file, *self._settings(), *self._arguments]
            log_path = self._dir / LOG_FILE
            with contextlib.suppress(FileNotFoundError):
                if log_path.stat().st_size > LONGEST_LOG_BYTES:
                    log_path.replace(log_path.with_suffix(".log.1"))
            output = open_own(log_path, os.O_WRONLY | os.O_APPEND)
            try:
                log_start = os.fstat(output).st_size
                process, pipe = launch(command, output=output, keep=(lock,), watcher=self._watcher)
            finally:
                os.close(output)
        except OSError as error:
            raise EmbeddedServerError(f"cannot start the embedded server {self._binary}: {error}") from None
        finally:
            # The server holds it now (or nobody does, when it did not start).
            os.close(lock)
        server = OwnServer(process, pipe)
        try:
            await self._wait_until_serving(server, log_path, log_start)
        except BaseException:
            await server.close(1.0)
            raise
        self._reached = True
        return server

    async def _wait_until_serving(self, server: OwnServer, log_path: Path, log_start: int) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline, next_note = started + SILENCE_S, started + 2.0
        while True:
            if server.ended:
                raise EmbeddedServerError(
                    f"the embedded server ended at its start ({server.exit_words()}): "
                    f"{last_words(log_path, log_start)} (all of it is in {log_path})"
                )
            try:
                connection = await connect(self.unix_path, self.password)
            except NotReadyError as state:
                if state.loading:
                    deadline = loop.time() + SILENCE_S
                    if loop.time() > next_note:
                        next_note = loop.time() + 5.0
                        log.info("the embedded server loads its data (%.0f s so far)", loop.time() - started)
                elif loop.time() > deadline:
                    raise EmbeddedServerError(
                        f"the embedded server does not answer at {self.unix_path}; see {log_path}"
                    ) from None
                await asyncio.sleep(POLL_S)
            else:
                await count_all(connection)
                connection.writer.close()
                return

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.unix_path),
            "unixsocketperm": "700",
            "dir": str(self._dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # So the append-only file can be read up to a moment; costs 15 bytes a second.
            "aof-timestamp-enabled": "yes",
            # The append-only file is the data; snapshots beside it would only stop writes when the disk is full.
            "save": "",
            "maxmemory-policy": "noeviction",
            # The default (32 MB, or 8 MB for a minute) cuts a subscriber off in the middle of a herd of some 100,000.
            "client-output-buffer-limit": "pubsub 512mb 128mb 60",
            "always-show-logo": "no",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]
