"""`delaybox worker`: runs functions of yours for WORKER tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Repeated = list[str] | None


def worker(
    name: Annotated[
        str, typer.Argument(metavar="MODULE:WORKER", help="Where the Worker is, such as myapp.tasks:worker.")
    ],
    processes: Annotated[int, typer.Option(min=1, help="Processes of it, each with sessions of its own.")] = 1,
    server: Annotated[
        Repeated,
        typer.Option(
            metavar="HOST:PORT",
            help="A node's gRPC address; repeatable. Default: as the worker says, else DELAYBOX_GRPC_SERVERS.",
        ),
    ] = None,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev",
            help="For a laptop: an embedded server in the folder .delaybox (unless one is named), and one process that "
            "is started again when a source file changes.",
        ),
    ] = False,
    redis: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="DELAYBOX_WORKER_REDIS",
            show_default=False,
            help="In place of nodes the Redis server itself: redis://, rediss://, unix:// or file:FOLDER. With a "
            "password use DELAYBOX_WORKER_REDIS.",
        ),
    ] = "",
    clock: Annotated[
        bool | None,
        typer.Option("--clock/--no-clock", help="With --redis: keep time as well, in a child process. Default: yes."),
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="With --redis: how long a silent worker keeps its tasks. Default: 15s."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            envvar="DELAYBOX_WORKER_METRICS_PORT",
            show_default=False,
            help="The port of /metrics, /healthz and /readyz; or DELAYBOX_WORKER_METRICS_PORT.",
        ),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(
            envvar="DELAYBOX_WORKER_METRICS_HOST",
            show_default=False,
            help="The address that this port is on; or DELAYBOX_WORKER_METRICS_HOST. Default: 127.0.0.1.",
        ),
    ] = None,
    queues: Annotated[
        Repeated, typer.Option(metavar="NAMES", help="Queues to take tasks from, separated by commas; repeatable.")
    ] = None,
    label: Annotated[
        Repeated,
        typer.Option(metavar="NAME[=VALUE]", help="What tasks may require or prefer: gpu, zone=b; repeatable."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Async functions at once in a process.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Plain functions at once in a process.")] = None,
    cpu_processes: Annotated[
        int | None, typer.Option(min=1, help="Cpu functions at once, each in a process of its own.")
    ] = None,
    grace: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="For what runs on SIGTERM (10s, 1m), before it is handed back."),
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="DELAYBOX_TOKEN", show_default=False, help="Bearer token with scope worker.")
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Connect with TLS.")] = False,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file of the authority that signed the node's.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="PEM file of the worker's own certificate.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    log_format: Annotated[
        str, typer.Option(metavar="text|json", envvar="DELAYBOX_LOG_FORMAT", help="How to log; or DELAYBOX_LOG_FORMAT.")
    ] = "text",
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="The least level that is logged.")
    ] = "info",
) -> None:
    """Run a worker: your functions, called for tasks that are due. Ends on SIGTERM when what runs has ended."""
    from delaybox.worker import launch

    if token:
        os.environ["DELAYBOX_TOKEN"] = token  # for the processes that are started, off the list of processes
    asked = launch.Launch(
        worker=name,
        processes=processes,
        servers=launch.servers_of(redis if not server else None, server),
        dev=dev,
        clock=clock,
        lease=lease,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        queues=launch.names_of(queues),
        labels=launch.labels_of(label),
        concurrency=concurrency,
        threads=threads,
        cpu_processes=cpu_processes,
        grace=grace,
        tls=tls or None,
        ca_file=str(ca_file) if ca_file else None,
        cert_file=str(cert_file) if cert_file else None,
        key_file=str(key_file) if key_file else None,
        log_format=log_format,
        log_level=log_level,
    )
    raise typer.Exit(launch.run(asked))
