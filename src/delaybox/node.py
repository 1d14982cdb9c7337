"""A node: from its configuration to the processes that it keeps running, and the embedded server where there is one.

It holds their sockets and the folder of their counters. It has no engine: the work is done in `delaybox.roles`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from pathlib import Path

import uvloop

from delaybox.config import Config
from delaybox.config.ports import announce, listen
from delaybox.config.specs import specs
from delaybox.embedded import EmbeddedServer
from delaybox.embedded.temporary import find_room
from delaybox.processes import counters, files, hardening, logs, service_manager, telemetry
from delaybox.processes.grace import CALLERS, CALLERS_FIRST_S, ENGINES, grace_s
from delaybox.processes.settings import ProcessSettings
from delaybox.processes.spawn import errors_of_children
from delaybox.processes.spec import ProcessKind
from delaybox.processes.supervise import Supervisor
from delaybox.store.address import ServerSettings

log = logging.getLogger("delaybox.node")


def run(config: Config) -> int:
    """Runs a node until SIGTERM or SIGINT: graceful; again: at once. Returns the exit code."""
    logs.set_up(config.log_format)
    files.raise_limit()
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")  # parts of the node read the working folder, and cannot start without one
        log.warning("the folder that this node was started in was removed; it works in / now")
    if room := find_room(lambda: config.data_folder):
        log.info("this machine has no folder for temporary files that can be written to; they go to %s", room)
    if config.workers.shell.any:
        hardening.not_dumpable()
    name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    end = telemetry.begin(_own_settings(config, name), "node")
    try:
        with counters.folder() as counted_in, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Node(config, name, counted_in).run())
    finally:
        end()


def _own_settings(config: Config, name: str) -> ProcessSettings:
    """Of this process, which does nothing that could be traced."""
    return ProcessSettings(
        node_id=name, logs_to=config.otel.logs_to(os.environ), otlp_protocol=config.otel.protocol or ""
    )


class _Node:
    """One node's life."""

    def __init__(self, config: Config, name: str, counted_in: str) -> None:
        self._config = config
        self._counted_in = counted_in
        self._id = name
        self._stop = asyncio.Event()
        self._store_at: tuple[ServerSettings, str] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        # The embedded server ends last, when nobody needs it any more.
        async with contextlib.AsyncExitStack() as server, contextlib.AsyncExitStack() as stack:
            # The ports come first: a node that cannot have them must not have done anything when it ends.
            listening = listen(self._config, stack)
            children = Supervisor(specs(self._config, self._id, grace_s, listening), counted_in=self._counted_in)
            stack.push_async_callback(children.stop)
            starting = asyncio.create_task(self._start(children, server))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
            elif not starting.exception():
                announce(self._config, listening)
                service_manager.ready()
                scaling = self._scale(children)
                try:
                    await children.run(self._stop)
                finally:
                    await _end(scaling)
                service_manager.stopping()
                # Only the children accept now, and each takes what waits before it closes its own copy. A socket that
                # nobody accepts from would let callers connect and reset them at the end.
                for kind in CALLERS:
                    if kind in listening:
                        listening[kind].close()
                log.info("stopping: requests and running tasks have %.0f s to finish", grace_s(ProcessKind.CLOCK))
                callers = asyncio.create_task(children.stop(CALLERS))
                await asyncio.wait({callers}, timeout=CALLERS_FIRST_S)
                await asyncio.gather(callers, children.stop(ENGINES))
            stopping.cancel()
            if not starting.cancelled():
                starting.result()
        log.info("stopped")
        return 0

    def _scale(self, children: Supervisor) -> asyncio.Task[None] | None:
        """Begins to follow the need, where the configuration asks for that."""
        if not self._config.processes.auto or self._store_at is None:
            return None
        # Without it the parent talks to no store, and does without that code.
        from delaybox.autoscale import Autoscaler

        return asyncio.create_task(Autoscaler(self._config, children, *self._store_at).run())

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("second signal: ending at once; leased tasks run again when their lease expires")
            os._exit(128 + number)
        log.info("got %s", signal.Signals(number).name)
        self._stop.set()

    async def _start(self, children: Supervisor, stack: contextlib.AsyncExitStack) -> None:
        """Starts everything. If a child cannot start, its own error is raised."""
        # The children import what they need while the server starts.
        await children.start()
        server, fresh = await self._server(stack)
        children.learn(server=server, await_subscribers=fresh)
        with errors_of_children():
            # The first child checks the server, and makes the store if need be, before the others begin.
            found = await children.begin_first(partitions=self._config.new_partitions)
        children.learn(**found)
        self._store_at = (server, found.get("store_id", ""))
        await children.begin((ProcessKind.PROBE, *CALLERS))
        with errors_of_children():
            # Children that fire tasks begin last, so that a node that fails at its start fires nothing.
            await children.begin(ENGINES)

    async def _server(self, stack: contextlib.AsyncExitStack) -> tuple[ServerSettings, bool]:
        """The server's address, and whether the server was just started with this node."""
        configured = self._config.server()
        if configured is not None:
            return configured, False
        embedded = EmbeddedServer(self._config.data_folder)
        await embedded.start()
        stack.push_async_callback(embedded.stop)
        how = "attached to the server of another node" if embedded.attached else "embedded server runs"
        log.info("%s, data in %s", how, embedded.data_dir)
        server = ServerSettings(unix_path=str(embedded.unix_path), password=embedded.password)
        return server, not embedded.attached


async def _end(scaling: asyncio.Task[None] | None) -> None:
    if scaling is not None:
        scaling.cancel()
        await asyncio.wait({scaling})
