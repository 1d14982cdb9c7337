"""The REST process: it accepts from the socket that its node holds, and serves nothing else."""

from __future__ import annotations

import asyncio
import logging

from delaybox.api.metrics_refresh import Pushing
from delaybox.api.opening import Opening
from delaybox.api.rest.answered import Answered
from delaybox.api.rest.app import PROBES, build_app, quick_posts, refusals
from delaybox.api.rest.http1.server import RESERVE, HttpServer
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.settings import ApiSettings
from delaybox.otel import tracing
from delaybox.processes import child, files, telemetry
from delaybox.processes.child import Stopping
from delaybox.processes.sockets import inherited
from delaybox.processes.spec import ProcessKind
from delaybox.roles import opening
from delaybox.roles.beating import Beating

_log = logging.getLogger("delaybox.api")

_OTHER_FILES = 256
"""Files beside connections: those of the store, of logs and of the process itself."""


async def serve(settings: ApiSettings) -> int:
    """The process's whole life; returns its exit code."""
    stopping = Stopping()
    settings = await opening.prepared(settings)
    listening = inherited(settings.listening)
    bodies = RequestBodies(settings)
    beating = Beating(settings, _kind(settings))
    late = Opening(settings, _log, beating.begin)
    trying: asyncio.Task[None] | None = None
    pushing: Pushing | None = None
    try:
        trying = await late.start()
        answered = Answered()
        app = build_app(late.service, settings, bodies=bodies, answered=answered)
        wanted = settings.max_connections
        most, reserve = shares(files.raise_limit(wanted + RESERVE + _OTHER_FILES), wanted)
        # Spans last as long as coroutines, so where this process traces no POST could take the short way.
        quick = quick_posts(late.service, settings, bodies, answered).take if tracing.spans is None else None
        server = HttpServer(
            app,
            refusals(settings),
            probes=PROBES,
            quick=quick,
            most=most,
            reserve=reserve,
            head_s=settings.header_timeout_s,
            idle_s=settings.idle_timeout_s,
        )
        if settings.metrics_to is not None and settings.number == 1:
            pushing = Pushing(late.service, settings.metrics_to, settings.otlp_protocol, telemetry.facts(settings))
        bodies.start()
        await server.start(listening, settings.backlog)
        child.ready(store_id=settings.store_id)
        await stopping.wait_or(trying)
        server.stopping = True  # what is answered from now on closes its connection
        await late.service.end_waits()
        await server.stop(settings.grace_s)
        await late.service.close()  # after the last request, whose events and ends it writes
        return 0
    finally:
        if trying is not None:
            trying.cancel()
        bodies.stop()
        if pushing is not None:
            await pushing.end()
        listening.close()
        await beating.end()
        await late.close()


def _kind(settings: ApiSettings) -> ProcessKind:
    if settings.probes_only:
        return ProcessKind.PROBE
    alone = settings.dashboard is not None and settings.dashboard.alone
    return ProcessKind.DASHBOARD if alone else ProcessKind.REST


def shares(limit: int, most: int) -> tuple[int, int]:
    """How many callers' connections, and how many in reserve for probes, where ``limit`` files may be open."""
    reserve, others = min(RESERVE, limit // 4), min(_OTHER_FILES, limit // 4)
    return max(1, min(most, limit - reserve - others)), reserve


if __name__ == "__main__":
    child.main(ApiSettings, serve)
