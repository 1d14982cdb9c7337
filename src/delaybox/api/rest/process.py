"""The API process: one Python process that serves REST and nothing else. Started by ``supervise.spawn_api``.

Its ready line names the ``port``; delaybox.processes.child says how it lives with the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from typing import Any, cast

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from delaybox import metrics
from delaybox.api.rest.app import AsgiApp, TaskService, build_app
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import ConfigError, StoreUnavailable
from delaybox.processes import child
from delaybox.service import Readiness, Service
from delaybox.store.connect import make_client
from delaybox.store.store import Store

_log = logging.getLogger("delaybox.api")

MAX_CONNECTIONS = 8_192
_REOPEN_S = 0.5


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


class LateService:
    """Stands before the service, and refuses for it while the store cannot be opened."""

    def __init__(self) -> None:
        self.inner: Any = _NoStore("the store is being opened")

    def __getattr__(self, call: str) -> Any:
        return getattr(self.inner, call)


class _NoStore:
    """Refuses every call."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, call: str) -> Any:
        async def refuse(*_: object, **__: object) -> None:
            raise StoreUnavailable(self._reason)

        return refuse

    async def check(self) -> Readiness:
        return Readiness(False, self._reason)


class ApiServer:
    """Binds, serves and stops one API; `run` is its whole life."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._service = LateService()
        self._client = make_client(settings.server)

    async def run(self) -> int:
        """Serves until `stop`; returns the exit code. ConfigError when the address cannot be bound."""
        settings = self._settings
        bound = bind(settings.host, settings.port, settings.backlog)
        port = bound.getsockname()[1]
        edge = Edge(settings)
        opening: asyncio.Task[None] | None = None
        try:
            try:
                await self._open()
            except StoreUnavailable as error:
                _log.warning("the store cannot be opened yet: %s", error)
                self._service.inner = _NoStore(str(error))
                opening = asyncio.create_task(self._keep_opening())
            server = _Server(build_app(cast(TaskService, self._service), settings, edge=edge), bound, settings)
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
            with contextlib.suppress(Exception):
                await self._client.aclose()

    def stop(self) -> None:
        """Ends `run` after the requests in flight; called again, ends the process at once."""
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()

    async def _open(self) -> None:
        settings = self._settings
        store = await Store.open(self._client, prefix=settings.prefix, observe=metrics.script_took)
        self._service.inner = Service(store, node_id=settings.node_id or None, on_scheduled=metrics.scheduled)

    async def _keep_opening(self) -> None:
        while True:
            await asyncio.sleep(_REOPEN_S)
            try:
                await self._open()
            except StoreUnavailable as error:
                self._service.inner = _NoStore(str(error))
            else:
                _log.info("the store is open")
                return


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket that nobody shares; ConfigError says how to mend what is in the way."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"cannot listen on {shown}: the host is not known; give an address of this machine") from None
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        match error.errno:
            case errno.EADDRINUSE:
                why = "the port is taken; stop the program that has it or choose another port with --http-port"
            case errno.EACCES:
                why = "this user may not use the port; choose one above 1023 with --http-port"
            case errno.EADDRNOTAVAIL:
                why = "the address is not one of this machine; choose another with --host"
            case _:
                why = error.strerror or "unknown error"
        raise ConfigError(f"cannot listen on {shown}: {why}") from None
    return sock


def _connections() -> int:
    """How many connections to serve at once; the rest wait in the backlog. Raises the limit of open files for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MAX_CONNECTIONS, soft // 2))


async def _serve(settings: ApiSettings) -> int:
    server = ApiServer(settings)
    child.stop_on_signals(server.stop)
    return await server.run()


if __name__ == "__main__":
    code = child.run(ApiSettings.from_json, _serve)
    logging.shutdown()
    # granian's threads may still hold a connection that never finished; nothing here waits for them.
    os._exit(code)
