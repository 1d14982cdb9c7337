"""The API process: one Python process that serves REST and nothing else. Started by ``supervise.spawn_api``.

Its ready line names the ``port``; delaybox.processes.child says how it lives with the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any, cast

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from delaybox.api.opening import Opening
from delaybox.api.rest.app import AsgiApp, TaskService, build_app
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.settings import ApiSettings
from delaybox.processes import child, files
from delaybox.processes.listening import bind

_log = logging.getLogger("delaybox.api")

MAX_CONNECTIONS = 8_192


class _Server(Server):
    """granian on a socket that is bound already: its own binding shares the port with whoever asks for it too."""

    def __init__(self, app: AsgiApp, bound: socket.socket, settings: ApiSettings) -> None:
        # granian closes the descriptor when it stops.
        self._descriptor = bound.detach()
        super().__init__(
            target=app,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=settings.backlog,
            backpressure=_connections(),
            http1_settings=HTTP1Settings(
                header_read_timeout=int(settings.header_timeout_s * 1000), max_buffer_size=256 * 1024
            ),
            log_enabled=False,
        )

    def _init_shared_socket(self) -> None:
        # The constructor takes what unpickling gives it, which granian's stubs leave out.
        make_holder: Any = SocketHolder
        self._shd: Any = make_holder(self._descriptor, False, self.backlog)
        self._sfd: Any = self._descriptor


class ApiServer:
    """Binds, serves and stops one API; `run` is its whole life."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._opening = Opening(settings, _log)

    async def run(self) -> int:
        """Serves until `stop`; returns the exit code. ConfigError when the address cannot be bound."""
        settings = self._settings
        bound = bind(settings.host, settings.port, settings.backlog, option="--http-port")
        port = bound.getsockname()[1]
        edge = Edge(settings)
        opening: asyncio.Task[None] | None = None
        try:
            opening = await self._opening.start()
            service = cast(TaskService, self._opening.service)
            server = _Server(build_app(service, settings, edge=edge), bound, settings)
            edge.start()
            serving = asyncio.create_task(server.serve())
            for _ in range(5):
                await asyncio.sleep(0)
            if not serving.done():
                child.say({"ready": True, "port": port})
            stop = asyncio.create_task(self._stopping.wait())
            waiting: set[asyncio.Task[Any]] = {serving, stop} | ({opening} if opening else set())
            while not serving.done() and not stop.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if opening is not None and opening in done and opening.exception():
                    # The store is there now, and is not one that this version may touch.
                    _log.critical("%s", opening.exception())
                    return 1
            if serving.done():
                _log.critical("the HTTP server ended by itself: %s", serving.exception())
                return 1
            server.stop()  # type: ignore[no-untyped-call]
            with contextlib.suppress(TimeoutError):
                # granian lets requests in flight finish, but also waits for a caller that stopped in mid-header.
                await asyncio.wait_for(serving, settings.grace_s)
            return 0
        finally:
            if opening is not None:
                opening.cancel()
            edge.stop()
            bound.close()
            await self._opening.close()

    def stop(self) -> None:
        """Ends `run` after the requests in flight; called again, ends the process at once."""
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()


def _connections() -> int:
    """How many connections to serve at once; the rest wait in the backlog. Raises the limit of open files for it."""
    return max(16, min(MAX_CONNECTIONS, files.raise_limit(2 * MAX_CONNECTIONS) // 2))


async def _serve(settings: ApiSettings) -> int:
    server = ApiServer(settings)
    child.stop_on_signals(server.stop)
    return await server.run()


if __name__ == "__main__":
    code = child.run(ApiSettings.from_json, _serve)
    logging.shutdown()
    # granian's threads may still hold a connection that never finished; nothing here waits for them.
    os._exit(code)
