"""Puts a node together: server, store, engine, API process. The only place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from delaybox import logs
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.grpc.supervise import GrpcProcess, spawn_grpc
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.supervise import ApiProcess, spawn_api
from delaybox.config import Config
from delaybox.config.model import ROLES
from delaybox.config.workers import Shell
from delaybox.core.delivery import Target
from delaybox.core.errors import ConfigError, DelayBoxError, StoreUnavailable
from delaybox.core.lane import ANY_QUEUE, lane_of
from delaybox.core.membership import Activity
from delaybox.core.task import TaskType
from delaybox.embedded import EmbeddedServer
from delaybox.embedded.temporary import find_room
from delaybox.processes import collector, files, hardening
from delaybox.processes.listening import bracketed
from delaybox.processes.supervise import ChildProcess, Keeper
from delaybox.store.connect import ServerSettings
from delaybox.store.publish import listeners
from delaybox.store.servers import Servers
from delaybox.store.store import Store

if TYPE_CHECKING:
    from delaybox.api.kafka.settings import IntakeSettings
    from delaybox.engine.engine import Engine
    from delaybox.targets.kafka import KafkaTarget

log = logging.getLogger("delaybox.node")

GRACE_S = 10.0
WAIT_FOR_SERVER_S = 15.0
WAIT_FOR_SUBSCRIBERS_S = 3.0
STREAM_LENGTH = 100_000
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METRICS_PREFIX = "delaybox-metrics-"


def run(config: Config) -> int:
    """Runs a node until it is told to stop (SIGTERM or SIGINT: graceful; again: at once). Returns the exit code."""
    logs.set_up(config.log_format)
    files.raise_limit()
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")  # parts of the node ask for the folder, and cannot start without one
        log.warning("the folder that this node was started in was removed; it works in / now")
    if room := find_room(lambda: config.data_folder):
        log.info("this machine has no folder for temporary files that can be written to; they go to %s", room)
    with _metrics_folder() as metrics_dir, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Node(config, metrics_dir).run())


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """A temporary folder for the counters of this node's processes; those that killed nodes left behind are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_METRICS_PREFIX}*"):
        # Somebody else's cannot be opened, a living node's is locked, one that is just being made is young.
        with contextlib.suppress(OSError), _locked(left):
            if time.time() - left.stat().st_mtime > 60:
                shutil.rmtree(left)
    folder = tempfile.mkdtemp(prefix=_METRICS_PREFIX)
    # prometheus-client reads it when it is imported, which the engine's modules do: hence the late imports below.
    os.environ[_METRICS_VARIABLE] = folder
    try:
        with _locked(Path(folder)):
            yield folder
    finally:
        os.environ.pop(_METRICS_VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with this process; OSError where another one has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def shell_lanes(shell: Shell) -> tuple[bytes, ...]:
    """The lanes of shell tasks that a node with these settings can run, in any queue."""
    names = [*([""] if shell.enabled else []), *shell.commands]
    return tuple(lane_of(TaskType.SHELL_CMD, ANY_QUEUE, name) for name in names)


class _Node:
    """One node's life."""

    def __init__(self, config: Config, metrics_dir: str) -> None:
        self._config = config
        self._metrics_dir = metrics_dir
        self._node_id = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._stop = asyncio.Event()
        self._embedded: EmbeddedServer | None = None
        self._kafka_troubles: list[str] = []

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        async with contextlib.AsyncExitStack() as stack:
            server = await self._server(stack)
            servers = Servers.connect(server)
            stack.push_async_callback(servers.close)
            store = await self._open(servers, server)
            if store is None:
                return 0
            fronts: list[Keeper[Any]] = []
            if "api" in self._config.duties:
                # First the ports: a node that cannot have them must not fire anything on its way out.
                fronts = await self._fronts(server, store, stack)
            shell = await self._shell(stack)
            kafka = await self._kafka(stack, store.partitions)
            if self._config.workers.shell.via == "topic":
                await self._shell_from_topic(shell, stack)
                shell = None
            engine = self._engine(store, shell, kafka)
            if "clock" in self._config.duties:
                with contextlib.suppress(DelayBoxError):
                    await self._await_subscribers(store)
            collector.set_apart()
            collector.slow_down()
            await engine.start()
            stack.push_async_callback(engine.stop, GRACE_S)
            self._channel(store, engine, stack)
            if self._config.duties != ROLES:
                log.info("roles: %s", ", ".join(self._config.duties))
            await asyncio.gather(self._stop.wait(), *(front.run(self._stop) for front in fronts))
            log.info("stopping: requests and running tasks have %.0f s to finish", GRACE_S)
        log.info("stopped")
        return 0

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("second signal: ending at once; leased tasks run again when their lease expires")
            os._exit(128 + number)
        log.info("got %s", signal.Signals(number).name)
        self._stop.set()

    async def _server(self, stack: contextlib.AsyncExitStack) -> ServerSettings:
        configured = self._config.server()
        if configured is not None:
            return configured
        self._embedded = embedded = EmbeddedServer(self._config.data_folder)
        await embedded.start()
        stack.push_async_callback(embedded.stop)
        how = "attached to the server of another node" if embedded.attached else "embedded server runs"
        log.info("%s, data in %s", how, embedded.data_dir)
        return ServerSettings(unix_path=str(embedded.unix_path), password=embedded.password)

    async def _open(self, servers: Servers, server: ServerSettings) -> Store | None:
        """The store; None when told to stop meanwhile. A server that does not answer yet is waited for."""
        from delaybox import metrics

        deadline = asyncio.get_running_loop().time() + WAIT_FOR_SERVER_S
        said = ""
        while not self._stop.is_set():
            try:
                features = await servers.probe()
                store = await Store.open(
                    servers,
                    prefix=self._config.storage.prefix,
                    partitions=self._config.partitions,
                    observe=metrics.script_took,
                    on_lost=metrics.store_lost,
                )
            except StoreUnavailable as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreUnavailable(
                        f"{error} ({server.describe()}); gave up after {WAIT_FOR_SERVER_S:.0f} s. Start that server, "
                        "or correct its address: --redis, storage.redisUrl or storage.redisHost"
                    ) from None
                if said != str(error):
                    said = str(error)
                    log.warning("waiting up to %.0f s for %s: %s", WAIT_FOR_SERVER_S, server.describe(), error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 0.5)
                continue
            if not features.aof:
                log.warning(
                    "%s keeps no append-only file: tasks are lost when it stops. Set `appendonly yes` on it",
                    server.describe(),
                )
            log.info("store %r on %s %s at %s", store.prefix, features.kind, features.version, server.describe())
            if store.partitions != (wanted := self._config.partitions):
                log.info("the store has %d partitions; that is fixed at creation", store.partitions)
                if wanted != Config.model_fields["partitions"].default:
                    log.warning(
                        "partitions is %d, and counts for a new store only: take it out, or name another store with "
                        "storage.prefix",
                        wanted,
                    )
            return store
        return None

    async def _shell(self, stack: contextlib.AsyncExitStack) -> Target | None:
        """The target of SHELL_CMD tasks, running; None where this node runs none."""
        shell = self._config.workers.shell
        if not shell.any or "work" not in self._config.duties:
            return None
        from delaybox.targets.shell import Limits, ShellOptions, ShellTarget, why_not

        options = ShellOptions(
            payloads=shell.enabled,
            user=shell.user,
            commands=shell.commands,
            concurrency=shell.concurrency,
            timeout_ms=shell.timeout,
            grace_ms=shell.grace,
            keep_result_ms=shell.keep_result,
            limits=Limits(
                cpu_s=-(-shell.limits.cpu // 1_000),
                memory=shell.limits.memory,
                file_size=shell.limits.file_size,
                open_files=shell.limits.open_files,
                processes=shell.limits.processes,
            ),
        )
        if problem := why_not(options):
            raise ConfigError(problem)
        # Commands run as this user: they must not read this process's environment and memory.
        hardening.not_dumpable()
        target = ShellTarget(options)
        await target.start()
        stack.push_async_callback(target.stop)
        what = "payloads and named commands" if shell.enabled and shell.commands else "payloads"
        log.info(
            "shell commands: %s, %d at once, as user %s",
            what if shell.enabled else f"only those named {', '.join(shell.commands)}",
            shell.concurrency,
            shell.user or os.getuid(),
        )
        if os.getuid() == 0 and shell.user in ("", "root"):
            log.warning(
                "shell commands run as root, whom nothing binds: they can read every secret of the node. Set "
                "workers.shell.user, or run the node as another user"
            )
        return target

    async def _shell_from_topic(self, shell: Target | None, stack: contextlib.AsyncExitStack) -> None:
        """Feeds the target of shell tasks from the execution topic, where this node has one."""
        kafka = self._config.kafka
        settings = kafka.settings()
        if settings is None:
            raise ConfigError("workers.shell.via is topic, which needs kafka.enabled: true; set that, or via: direct")
        if shell is None:
            return
        from delaybox.api.kafka.topic_command import Commands
        from delaybox.api.kafka.topic_work import TopicWork
        from delaybox.wire.signing import Signing

        rules = self._config.workers.shell
        if rules.accept_unsigned:
            log.warning(
                "workers.shell.acceptUnsigned is true: whoever may write to topic %s can run commands as this node's "
                "user",
                kafka.task_execution_topic,
            )
        work = TopicWork(
            settings,
            kafka.task_execution_topic,
            kafka.group,
            shell,
            Commands(Signing(rules.keys), accept_unsigned=rules.accept_unsigned),
            slots=self._config.workers.shell.concurrency,
            instance=kafka.instance,
        )
        await work.start()
        stack.push_async_callback(work.stop, GRACE_S)

    async def _kafka(self, stack: contextlib.AsyncExitStack, partitions: int) -> KafkaTarget | None:
        """The target of PUB_SUB tasks where Kafka is on, running; None where it is off or this node fires nothing."""
        kafka = self._config.kafka
        settings = kafka.settings()
        if settings is None or "clock" not in self._config.duties:
            return None
        try:
            from delaybox.targets.kafka import KafkaTarget
        except ImportError:
            raise ConfigError(
                "kafka.enabled is true, but the package confluent-kafka is not installed; install delaybox[kafka]"
            ) from None
        target = KafkaTarget(
            settings,
            kafka.rules(),
            value=kafka.value,
            source=f"/delaybox/{self._config.storage.prefix}",
            compression=kafka.compression,
            linger_ms=kafka.linger,
            delivery_timeout_ms=kafka.delivery_timeout,
            max_payload_bytes=self._config.limits.body,
            partitions=partitions,
            signing_keys=self._config.workers.shell.keys,
        )
        stack.push_async_callback(target.stop)
        await target.start()
        log.info("PUB_SUB tasks go to topic %s of Kafka at %s", kafka.task_execution_topic, settings.describe())
        return target

    def _engine(self, store: Store, shell: Target | None, kafka: KafkaTarget | None) -> Engine:
        from delaybox.engine.engine import Engine
        from delaybox.engine.options import EngineOptions
        from delaybox.targets.pubsub import PubSubTarget

        c = self._config
        channel = c.storage.task_execution_chanel
        stream = STREAM_LENGTH if c.pubsub.stream else 0
        in_place = c.pubsub.fire_in_place and not c.pubsub.require_subscriber and not c.kafka.enabled
        clock = "clock" in c.duties
        targets: dict[TaskType, Target] = {}
        if kafka is not None:
            targets[TaskType.PUB_SUB] = kafka
            if c.workers.shell.via == "topic":
                targets[TaskType.SHELL_CMD] = kafka
        elif clock:
            # Publishing is the clock's, in place or not: no node needs to be a worker for it.
            targets[TaskType.PUB_SUB] = PubSubTarget(
                store, channel=channel, stream=stream, require_subscriber=c.pubsub.require_subscriber
            )
        if shell is not None:
            targets[TaskType.SHELL_CMD] = shell
        options = EngineOptions(
            node_id=self._node_id,
            clock=clock,
            roles=c.duties,
            lanes=shell_lanes(c.workers.shell) if shell is not None else (),
            channel=channel if in_place and clock else "",
            stream=stream,
            lease_ms=c.lease_ms,
            heartbeat_ms=c.heartbeat_ms,
            poll_ms=c.frequency_ms,
            catch_up_rate=c.catch_up.rate,
            dead_age_ms=c.dead_letters.age,
            quarantine_age_ms=c.quarantine.age,
        )
        return Engine(store, targets, options, facts=partial(self._facts, kafka))

    def _channel(self, store: Store, engine: Engine, stack: contextlib.AsyncExitStack) -> None:
        """Takes tasks from the input channel, where this node keeps time and has one."""
        c = self._config
        if "clock" not in c.duties or not c.storage.scheduler_chanel:
            return
        from delaybox.api.channel.intake import ChannelIntake, ChannelSettings

        settings = ChannelSettings(
            channel=c.storage.scheduler_chanel,
            node_id=self._node_id,
            types=engine.serves,
            max_payload_bytes=c.limits.body,
        )
        intake = ChannelIntake(store, settings)
        intake.start()
        stack.push_async_callback(intake.stop)

    async def _await_subscribers(self, store: Store) -> None:
        """Gives the subscribers of an embedded server that has just come back a moment before overdue tasks are fired.

        They were cut off when it ended, and what is published before they are back reaches nobody.
        """
        embedded = self._embedded
        if embedded is None or embedded.attached or self._config.pubsub.stream or self._config.kafka.enabled:
            return
        overdue = sum(c.due for c in await store.counts())
        channel = self._config.storage.task_execution_chanel
        deadline = asyncio.get_running_loop().time() + WAIT_FOR_SUBSCRIBERS_S
        while overdue and not self._stop.is_set() and asyncio.get_running_loop().time() < deadline:
            if await listeners(store, channel):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.05)
        if overdue:
            log.warning("%d tasks are overdue and nobody listens on %s yet; firing them all the same", overdue, channel)

    async def _fronts(
        self, server: ServerSettings, store: Store, stack: contextlib.AsyncExitStack
    ) -> list[Keeper[Any]]:
        """The processes that serve callers, listening, each with what keeps it running."""
        c = self._config
        common: dict[str, Any] = {
            "server": server,
            "prefix": c.storage.prefix,
            "store_id": store.store_id,
            "payload_limit": c.limits.body,
            "tokens": c.auth.tokens,
            "shell": c.workers.shell.enabled,
            "shell_commands": tuple(c.workers.shell.commands),
            "queues": c.results.rules(),
            "topics": c.kafka.rules() if c.kafka.enabled else None,
            "node_id": self._node_id,
            "metrics_dir": self._metrics_dir,
            "log_format": c.log_format,
            "grace_s": GRACE_S,
        }
        rest = ApiSettings(
            **common,
            host=c.http_server.host,
            port=c.http_server.port,
            context_path=c.http_server.context_path,
            allowed_hosts=c.http_server.allowed_hosts,
        )
        starting: list[Awaitable[Keeper[Any]]] = [self._rest(rest, stack)]
        if c.grpc_server.enabled:
            tls = c.grpc_server.tls
            grpc = GrpcSettings(
                **common,
                host=c.grpc_host,
                port=c.grpc_server.port,
                cert_file=tls.cert_file or "",
                key_file=tls.key_file or "",
                client_ca_file=tls.client_ca_file or "",
                reflection=c.grpc_server.reflection,
                lease_ms=c.lease_ms,
                heartbeat_ms=c.heartbeat_ms,
                poll_ms=c.frequency_ms,
                max_output=c.results.max_bytes,
            )
            starting.append(self._grpc(grpc, stack))
        if (kafka := c.kafka.settings()) is not None:
            from delaybox.api.kafka.settings import IntakeSettings

            intake = IntakeSettings(
                **{name: value for name, value in common.items() if name not in ("tokens", "node_id", "queues")},
                kafka=kafka,
                sources=c.kafka.scheduler_topics,
                group=c.kafka.group,
                instance=c.kafka.instance,
                pass_through=c.kafka.value == "payload",
            )
            starting.append(self._intake(intake, stack))
        # Each is awaited even where another failed, so that all that started is on the stack and ends with it.
        fronts: list[Keeper[Any]] = []
        for front in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(front, BaseException):
                raise front
            fronts.append(front)
        if c.grpc_server.enabled:
            log.info("grpc listening on %s:%d", bracketed(c.grpc_host), fronts[1].child.port)
        log.info("listening on http://%s:%d%s", bracketed(rest.host), fronts[0].child.port, rest.context_path)
        return fronts

    @staticmethod
    async def _rest(settings: ApiSettings, stack: contextlib.AsyncExitStack) -> Keeper[ApiProcess]:
        api = await spawn_api(settings)
        stack.push_async_callback(api.stop)

        async def again(dead: ApiProcess) -> ApiProcess:
            return await spawn_api(replace(settings, port=dead.port))

        return Keeper("API process", api, again, log)

    @staticmethod
    async def _grpc(settings: GrpcSettings, stack: contextlib.AsyncExitStack) -> Keeper[GrpcProcess]:
        process = await spawn_grpc(settings)
        stack.push_async_callback(process.stop)

        async def again(dead: GrpcProcess) -> GrpcProcess:
            return await spawn_grpc(replace(settings, port=dead.port))

        return Keeper("gRPC process", process, again, log)

    async def _intake(self, settings: IntakeSettings, stack: contextlib.AsyncExitStack) -> Keeper[ChildProcess]:
        from delaybox.api.kafka.supervise import spawn_intake

        def troubles(now: list[str]) -> None:
            self._kafka_troubles = now

        async def again(dead: ChildProcess) -> ChildProcess:
            self._kafka_troubles = ["the Kafka process ended and is started again"]
            return await spawn_intake(settings, troubles)

        process = await spawn_intake(settings, troubles)
        stack.push_async_callback(process.stop)
        log.info("tasks are taken from Kafka: %s", ", ".join(settings.sources))
        return Keeper("Kafka process", process, again, log)

    def _facts(self, kafka: KafkaTarget | None) -> Activity:
        """What the heartbeat reports of this node's parts, for its readiness."""
        troubles = [f"PUB_SUB tasks wait: {kafka.trouble}"] if kafka is not None and kafka.trouble else []
        troubles += [f"tasks are not taken from Kafka: {trouble}" for trouble in self._kafka_troubles]
        return Activity(troubles=tuple(troubles))
