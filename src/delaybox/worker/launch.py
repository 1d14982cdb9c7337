"""Starts workers from a command line: finds ``module:worker``, and says which settings each of its processes has."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from delaybox.client.transports import direct_url, loaded
from delaybox.core.durations import span_ms
from delaybox.core.errors import ConfigError, DelayBoxError, InvalidTask
from delaybox.otel.environment import begin_logs, begin_program
from delaybox.processes import counters, telemetry
from delaybox.processes.logs import FORMATS, LEVELS
from delaybox.worker import logs, pushing
from delaybox.worker.line import WorkerRefused
from delaybox.worker.supervise import WorkerProcesses
from delaybox.worker.worker import Worker

log = logging.getLogger("delaybox.worker")

WRONG_INPUT: Final = 2
NOT_ALLOWED: Final = 4
VARIABLE: Final = "DELAYBOX_WORKER_REDIS"
"""Not DELAYBOX_REDIS: that is a node's, and where it is set a worker of nodes must stay one."""
METRICS: Final = ("DELAYBOX_WORKER_METRICS_PORT", "DELAYBOX_WORKER_METRICS_HOST")
"""The image sets them, so that its health check and a scraper find a worker where they find a node."""
LOG_FORMAT: Final = "DELAYBOX_LOG_FORMAT"
_DEV: Final = "delaybox.direct.dev:run_dev"
_FINAL: Final = (WRONG_INPUT, NOT_ALLOWED)
"""Exit codes of mistakes that another start would not mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The options of a command line. None: the worker's own setting. The token is passed in the environment."""

    worker: str
    processes: int = 1
    servers: tuple[str, ...] | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int | None = None
    threads: int | None = None
    cpu_processes: int | None = None
    grace: str | None = None
    tls: bool | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    clock: bool | None = None
    lease: str | None = None
    labels: dict[str, str] | None = None
    metrics_port: int | None = None
    metrics_host: str | None = None
    log_format: str = "text"
    log_level: str = "info"
    dev: bool = False
    """An embedded server, unless one is named, and one process that is started again when a source file changes."""

    def settings(self) -> dict[str, Any]:
        """The settings that change the worker."""
        cpu = self.cpu_processes
        if cpu is None and self.processes > 1:
            cpu = max(1, (os.cpu_count() or 1) // self.processes)
        mine = asdict(self) | {"cpu_processes": cpu}
        return {name: value for name, value in mine.items() if name not in ("worker", "processes", "dev")}


def run(launch: Launch) -> int:
    """Runs until it is asked to stop. Returns the exit code. Mistakes are reported in a line on stderr."""
    try:
        logs.set_up(launch.log_format, launch.log_level)
    except ConfigError as error:
        return _report(error)
    if launch.processes < 1:
        return _report(ConfigError(f"--processes {launch.processes}: at least 1"))
    for option, text in (("--grace", launch.grace), ("--lease", launch.lease)):
        if text is not None and not _is_duration(text):
            return _report(ConfigError(f"{option} {text!r} is no duration; write it as 500ms, 10s or 1m30s"))
    with contextlib.ExitStack() as stack:
        pushed = pushing.wanted(os.environ)
        if (pushed or launch.metrics_port is not None) and counters.VARIABLE not in os.environ:
            # Before the worker's module is imported: it may import what counts.
            os.environ[counters.VARIABLE] = stack.enter_context(counters.folder())
        try:
            end = pushing.MetricPush(pushing.of_all_processes).end if pushed else telemetry.nothing
        except ConfigError as error:
            return _report(error)
        if launch.dev:
            return _develop(launch, end)
        return _supervise(launch, end) if launch.processes > 1 else _run(launch, end, until=None)


def _is_duration(text: str) -> bool:
    try:
        return span_ms("option", text, least=0) >= 0
    except InvalidTask:
        return False


def _supervise(launch: Launch, end_push: telemetry.End) -> int:
    try:
        end = telemetry.together(end_push, _log_sent())
    except ConfigError as error:
        return _report(error)
    try:
        # One of them is enough to keep time and to serve metrics for all.
        others = replace(launch, clock=False, metrics_port=None)
        each = [json.dumps(asdict(one)) for one in (launch, *[others] * (launch.processes - 1))]
        return asyncio.run(WorkerProcesses(launch.worker, each, final=_FINAL).run())
    finally:
        end()


def _log_sent() -> telemetry.End:
    """What this process logs goes to a collector, where the environment asks for that. ConfigError."""
    return begin_logs(os.environ, sys.modules["delaybox"].__version__, "worker", logs.TraceFilter())


def _develop(launch: Launch, end_push: telemetry.End) -> int:
    try:
        end = telemetry.together(end_push, _log_sent())
        try:
            code: int = loaded(_DEV, "file:")(launch)
            return code
        finally:
            end()
    except (DelayBoxError, ValueError) as error:
        return _report(error)


def child(settings: str) -> int:
    """One of several processes, as `WorkerProcesses` starts it: its end of stdin means that the supervisor is gone."""
    launch = Launch(**json.loads(settings))
    logs.set_up(launch.log_format, launch.log_level)
    return _run(launch, telemetry.nothing, until=0)


def _run(launch: Launch, end_push: telemetry.End, *, until: int | None) -> int:
    try:
        worker = load(launch.worker)
        worker.change(**launch.settings())
        traced = begin_program(os.environ, sys.modules["delaybox"].__version__, "worker")
        end = telemetry.together(end_push, _log_sent(), traced)
        try:
            return worker.run(until=until, last_exit=True, metrics_sent=True)
        finally:
            end()
    except (DelayBoxError, ValueError) as error:
        return _report(error)


def _report(error: Exception) -> int:
    sys.stderr.write(f"error: {error}\n")
    if isinstance(error, WorkerRefused):
        return NOT_ALLOWED
    return WRONG_INPUT


def load(spec: str) -> Worker:
    """The worker that ``module:attribute`` names (``:worker`` may be left out). ConfigError names what is wrong."""
    name, _, attribute = spec.partition(":")
    attribute = attribute or "worker"
    if name.endswith(".py") and Path(name).is_file() and not Path(name).is_absolute():
        plain = ".".join(Path(name).with_suffix("").parts)
        raise ConfigError(f"{spec!r} names a file; write its module, such as {plain}:{attribute}")
    if not all(part.isidentifier() for part in (*name.split("."), *attribute.split("."))):
        raise ConfigError(f"{spec!r} names no worker; write module:worker, such as myapp.tasks:worker")
    if sys.path[:1] != [os.getcwd()]:  # noqa: PTH109 - the path is for the import system
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"module {error.name!r} is not found; it is looked for in {sys.path[0]} and on Python's path"
            ) from None
        raise ConfigError(f"module {name!r} cannot be imported: {_where(error)}") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ConfigError(f"module {name!r} cannot be imported: {_where(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = sorted(key for key, value in vars(module).items() if isinstance(value, Worker))
            mend = f"it has {', '.join(there)}" if there else "it has no Worker at all"
            raise ConfigError(f"module {name!r} has no {attribute!r}; {mend}")
        found = getattr(found, part)
    if not isinstance(found, Worker):
        raise ConfigError(f"{spec!r} is {type(found).__name__}, not a Worker; name the object made by Worker(...)")
    return found


def _where(error: BaseException) -> str:
    """The error, and the line of the user's that raised it."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    at = f" ({ours[-1].filename}, line {ours[-1].lineno})" if len(ours) > 1 else ""
    return f"{type(error).__name__}: {error}{at}"


def arguments_of(arguments: Sequence[str], command: str = "python -m delaybox.worker") -> Launch:
    """Reads the command's line without typer, for an install without extras."""
    import argparse

    parser = argparse.ArgumentParser(prog=command, description="Run a worker.")
    parser.add_argument("worker", metavar="MODULE:WORKER")
    parser.add_argument("--dev", action="store_true", help="an embedded server, and a restart when a source changes")
    parser.add_argument("--processes", type=int, default=1, help="processes of this worker")
    parser.add_argument("--server", action="append", dest="servers", metavar="HOST:PORT", help="a node; repeatable")
    parser.add_argument("--redis", metavar="URL", help="in place of nodes: the server itself; or DELAYBOX_WORKER_REDIS")
    parser.add_argument("--clock", action=argparse.BooleanOptionalAction, help="with --redis: keep time as well")
    parser.add_argument("--lease", help="with --redis: how long a silent worker keeps its tasks; 15s unless given")
    port, host = (os.environ.get(name) or None for name in METRICS)
    where = f"where /metrics, /healthz and /readyz are served; or {METRICS[0]}"
    parser.add_argument("--metrics-port", type=int, default=port, help=where)
    parser.add_argument("--metrics-host", default=host, help="the address of that port; 127.0.0.1 unless given")
    parser.add_argument("--queues", action="append", metavar="NAMES", help="separated by commas; repeatable")
    parser.add_argument("--label", action="append", dest="labels", metavar="NAME[=VALUE]", help="repeatable")
    parser.add_argument("--concurrency", type=int, help="async functions at once")
    parser.add_argument("--threads", type=int, help="plain functions at once")
    parser.add_argument("--cpu-processes", type=int, help="cpu functions at once")
    parser.add_argument("--grace", help="for what runs when it is told to stop, such as 10s or 1m; 20s unless given")
    parser.add_argument("--token", help="better in the environment: DELAYBOX_TOKEN")
    parser.add_argument("--tls", action="store_true", default=None)
    parser.add_argument("--ca-file")
    parser.add_argument("--cert-file")
    parser.add_argument("--key-file")
    parser.add_argument("--log-format", choices=FORMATS, default=os.environ.get(LOG_FORMAT) or "text")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="the least level that is logged")
    given = vars(parser.parse_args(arguments))
    if token := given.pop("token"):
        os.environ["DELAYBOX_TOKEN"] = token
    try:
        servers = servers_of(given.pop("redis"), given["servers"])
    except ConfigError as error:
        parser.error(str(error))
    labels = labels_of(given["labels"])
    return Launch(**given | {"servers": servers, "queues": names_of(given["queues"]), "labels": labels})


def servers_of(redis: str | None, nodes: Sequence[str] | None) -> tuple[str, ...] | None:
    """The servers that a command line names: nodes, or the URL of the Redis server; None: none. ConfigError."""
    redis = redis or ("" if nodes else os.environ.get(VARIABLE, ""))
    if redis and direct_url(redis)[0] is None:
        # Without a scheme it would be taken for a node's address. It may hold a password.
        raise ConfigError(
            f"--redis (or {VARIABLE}) takes a URL, and this one starts with no known scheme: write "
            "redis://host:6379, rediss:// for TLS, unix:///path/to/socket, or file:FOLDER"
        )
    for node in nodes or ():
        scheme = node.partition("://")[0]
        if scheme in ("http", "https"):
            tls = ", and --tls" if scheme == "https" else ""
            raise ConfigError(f"--server {node!r} is no gRPC address; write host:port{tls}, such as localhost:9088")
    return ((redis,) if redis else ()) + tuple(nodes or ()) or None


def labels_of(given: Iterable[str] | None) -> dict[str, str] | None:
    """``["gpu", "zone=b"]`` as a worker's labels."""
    return {name: value for name, _, value in (one.partition("=") for one in given)} if given else None


def names_of(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """``["a,b", "c"]`` as names."""
    return tuple(name.strip() for text in given for name in text.split(",")) if given else None
