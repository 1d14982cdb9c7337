"""The API process: one Python process that serves REST and nothing else. Started by ``supervise.spawn_api``.

Its ready line names the ``port``; delaybox.processes.child says how it lives with the node.
"""

from __future__ import annotations

import asyncio
import logging
import os

from delaybox.api.opening import Opening
from delaybox.api.rest.app import PROBES, build_app, refusals
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.http1.server import RESERVE, Server
from delaybox.api.rest.settings import ApiSettings
from delaybox.processes import child, files
from delaybox.processes.listening import bind

_log = logging.getLogger("delaybox.api")


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
            app = build_app(self._opening.service, settings, edge=edge)
            wanted = settings.max_connections
            most, reserve = shares(files.raise_limit(wanted + RESERVE + _OTHER_FILES), wanted)
            server = Server(
                app,
                refusals(settings),
                probes=PROBES,
                most=most,
                reserve=reserve,
                head_s=settings.header_timeout_s,
                idle_s=settings.idle_timeout_s,
            )
            edge.start()
            await server.start(bound, settings.backlog)
            child.say({"ready": True, "port": port})
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stop, opening} if opening else {stop}, return_when=asyncio.FIRST_COMPLETED)
            if opening is not None and opening.done() and opening.exception():
                # The store is there now, and is not one that this version may touch.
                _log.critical("%s", opening.exception())
                return 1
            await stop
            await server.stop(settings.grace_s)
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


def shares(limit: int, most: int) -> tuple[int, int]:
    """How many callers' connections, and how many in reserve for probes, where ``limit`` files may be open."""
    reserve, others = min(RESERVE, limit // 4), min(_OTHER_FILES, limit // 4)
    return max(1, min(most, limit - reserve - others)), reserve


_OTHER_FILES = 256
"""Those of the store, of logs and of the process itself."""


async def _serve(settings: ApiSettings) -> int:
    server = ApiServer(settings)
    child.stop_on_signals(server.stop)
    return await server.run()


if __name__ == "__main__":
    code = child.run(ApiSettings.from_json, _serve)
    logging.shutdown()
    os._exit(code)
