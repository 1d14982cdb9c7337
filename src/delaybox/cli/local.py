"""Shared by commands that use the store themselves, by the configuration of this machine."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from delaybox.cli.exits import Exit
from delaybox.core.errors import ConfigError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; default ./config/config.yaml or $APP_CONF_PATH.")
]
Redis = Annotated[
    str | None,
    typer.Option(
        "--redis",
        help="redis://, rediss:// or unix:// URL of a server of yours; default: the embedded one. With a password use "
        "DELAYBOX_REDIS or the configuration file: the list of processes shows options to everybody on the machine.",
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the embedded server.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration file; repeatable.")
]


def flags_of(settings: list[str] | None, named: Mapping[str, object]) -> dict[str, object]:
    """The settings of --set and of the flags with names of their own, where they are given."""
    return assignments(settings) | {key: value for key, value in named.items() if value is not None}


def processes_of(given: str | None) -> dict[str, object]:
    """What --processes sets: the number of each kind that may need a core of its own, or that it follows the need."""
    if given is None:
        return {}
    if given == "auto":
        return {"processes.auto": True}
    if not (given.isascii() and given.isdigit() and len(given) < 3 and 1 <= int(given) <= 64):
        raise ConfigError(f"--processes {given}: write a number from 1 to 64, or auto")
    return {f"processes.{kind}": int(given) for kind in ("clock", "grpc", "rest")}


def assignments(settings: list[str] | None) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as --set storage.prefix=staging")
        pairs[key.strip()] = value
    return pairs


def run_to_end(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    import asyncio

    try:
        return asyncio.run(work())
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
