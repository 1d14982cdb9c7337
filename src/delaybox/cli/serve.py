"""`delaybox serve`: runs a node, by the configuration of this machine and the flags."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Annotated

import typer

from delaybox.cli import messages
from delaybox.cli.local import ConfigFile, DataDir, Redis, Settings, flags_of, processes_of

if TYPE_CHECKING:
    from delaybox.config import Config


def serve(
    config: ConfigFile = None,
    redis: Redis = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on, default 127.0.0.1; another needs auth.tokens or --insecure."),
    ] = None,
    http_port: Annotated[
        str | None, typer.Option(metavar="PORT", help="REST port, default 8088; 0: any free one.")
    ] = None,
    grpc_port: Annotated[
        str | None, typer.Option(metavar="PORT", help="gRPC port, default 9088; 0: any free one.")
    ] = None,
    data_dir: DataDir = None,
    log_format: Annotated[str | None, typer.Option(metavar="text|json", help="How to log; default text.")] = None,
    roles: Annotated[
        str | None,
        typer.Option(metavar="api,clock,work", help="What this node is for: any of the three; default all of them."),
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Clock, gRPC and REST processes, so many of each; auto: from 1 to the number of cores, by need. "
            "Default 1.",
        ),
    ] = None,
    enable_shell: Annotated[
        bool, typer.Option("--enable-shell", help="Run payloads of SHELL_CMD tasks as shell commands of this user.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve others without any credential.")] = False,
    settings: Settings = None,
) -> None:
    """Run a node: REST and gRPC on their ports, tasks fired at their time."""
    from delaybox.config import load

    named = {
        "storage.redisUrl": redis,
        "httpServer.host": host,
        "httpServer.port": http_port,
        "grpcServer.port": grpc_port,
        "roles": roles,
        "dataDir": data_dir,
        "logFormat": log_format,
        "workers.shell.enabled": enable_shell or None,
        "insecure": insecure or None,
    } | processes_of(processes)
    flags = flags_of(settings, named)
    loaded = load(path=config, flags=flags)
    chosen = loaded.config
    messages.as_json = chosen.log_format == "json"
    if loaded.path is not None:
        messages.note(f"configuration file: {loaded.path}")
    for warning in loaded.warnings:
        messages.warning(warning)
    if (system := platform.system()) != "Linux":
        messages.warning(
            f"DelayBox is tested on Linux only, and this is {system}. Shell commands do not run here, and "
            "without Linux's timer tasks can fire some milliseconds later."
        )
    if chosen.exposed and "api" in chosen.duties and not chosen.auth.tokens:
        messages.warning(
            f"INSECURE: everybody who reaches {_exposed(chosen)} can schedule, read and cancel tasks, without any "
            "credential. Set auth.tokens to change that."
        )

    from delaybox.node import run as run_node

    raise typer.Exit(run_node(chosen))


def _exposed(config: Config) -> str:
    http, grpc = config.http_server, config.grpc_server
    where = {"httpServer.host": f"{http.host}:{http.port}", "grpcServer.host": f"{config.grpc_host}:{grpc.port}"}
    where["dashboard.host"] = f"{config.dashboard_host}:{config.dashboard.port}"
    if "httpServer.host" in config.exposed and grpc.enabled and grpc.host is None:
        where["httpServer.host"] += f" or port {grpc.port}"
    return " or ".join(where[key] for key in config.exposed)
