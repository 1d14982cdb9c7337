"""Options that several commands share."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any

import typer

from delaybox.cli import messages
from delaybox.cli.client import DEFAULT_SERVER as DEFAULT_SERVER
from delaybox.cli.client import RestClient
from delaybox.core.errors import ConfigError


class TypeName(StrEnum):
    """Task types."""

    PUB_SUB = "pub_sub"
    SHELL = "shell"
    HTTP = "http"
    WORKER = "worker"


class PriorityName(StrEnum):
    """Priorities."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class StateName(StrEnum):
    """States of a task."""

    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EndedName(StrEnum):
    """How a task can have ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


WHEN = "RFC 3339 with an offset (2030-01-31T09:00:00+01:00), or Unix ms."

Server = Annotated[
    str,
    typer.Option(
        "--server", envvar="DELAYBOX_SERVER", metavar="URL", help="The node, with its contextPath if it has one."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="DELAYBOX_TOKEN",
        metavar="TOKEN",
        show_default=False,
        help="Bearer token. In the environment it stays off the list of processes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]

TaskOrKey = Annotated[str | None, typer.Argument(metavar="[ID]", help="The task's id; or give --key.")]
Key = Annotated[str | None, typer.Option("--key", metavar="TEXT", help="The task with this idempotency key.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="One or more ids.")]

Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Queue.")]
Type = Annotated[TypeName | None, typer.Option("--type", "-t", help="Task type.")]
Function = Annotated[str | None, typer.Option("--function", help="Function or command.")]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Label; repeatable.")]
Group = Annotated[str | None, typer.Option("--group", "-g", metavar="NAME", help="Group of tasks.")]
Zone = Annotated[
    str | None,
    typer.Option("--zone", metavar="NAME", help="Time zone of --at, which has no offset then: --at 2027-03-28T02:30."),
]
Fold = Annotated[
    int | None,
    typer.Option("--fold", min=0, max=1, help="With --zone: 1 is the second of two such times (clocks go back)."),
]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Due at or after: RFC 3339 with offset, or Unix ms.")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Due before.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With a filter: count and show a sample, change nothing.")]


def wanted(
    group: str | None,
    queue: str | None,
    kind: str | None,
    function: str | None,
    labels: list[str] | None,
    due_from: str | None,
    due_to: str | None,
) -> dict[str, Any]:
    """The filter that a command's options say, as REST takes it. ConfigError."""
    return without_nothing(
        {
            "group": group,
            "queue": queue,
            "type": kind,
            "function": function,
            "labels": pairs("--label", labels),
            "due_from": due_from,
            "due_to": due_to,
        }
    )


def connect(server: str, token: str, as_json: bool) -> RestClient:
    """The client that a command's options ask for; from here on errors are printed in the form they ask for, too."""
    messages.as_json = as_json
    client = RestClient(server, token)
    _connected.append(client)
    return client


_connected: list[RestClient] = []


def disconnect() -> None:
    """Closes what `connect` opened."""
    while _connected:
        _connected.pop().close()


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """KEY=VALUE options as a map; ConfigError for what is none or comes twice."""
    found: dict[str, str] = {}
    for one in given or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {one}: write KEY=VALUE, such as {option} customer=42")
        if key in found:
            raise ConfigError(f"{option} {key} is given twice; give it once")
        found[key] = value
    return found


def when(at: str | None, zone: str | None, fold: int | None) -> object:
    """What REST takes as ``at``. ConfigError for a zone without a time, and a time without zone and offset."""
    if zone is None:
        if fold is not None:
            raise ConfigError("--fold belongs to --zone; give that too, or leave it out")
        if at is not None and _is_local(at):
            raise ConfigError(
                f"--at {at!r} has no offset; add one such as +01:00, or Z for UTC, behind the seconds, or name its "
                "time zone with --zone, such as Europe/Berlin"
            )
        return at
    if at is None:
        raise ConfigError(f"--zone {zone} has no time; give --at as a clock shows it there, such as 2027-03-28T02:30")
    return without_nothing({"local": at, "zone": zone, "fold": fold})


def _is_local(at: str) -> bool:
    from delaybox.core.localtime import LOCAL

    return LOCAL.fullmatch(at) is not None


def finite(value: float | None) -> float | None:
    """For an option: refuses nan and inf, which no JSON holds."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number; give one")
    return value


def moment_ms(option: str, text: str) -> int:
    """Unix ms of a moment on the command line; InvalidTask."""
    from delaybox.wire.json.moments import moment_ms as read

    return read(option, text)


def duration_ms(option: str, text: str, *, least: int = 0) -> int:
    """Milliseconds of a duration on the command line; InvalidTask."""
    from delaybox.core.durations import duration_ms as read

    return read(option, text, least=least)


def without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what was not given."""
    return {name: value for name, value in fields.items() if value is not None and value != {}}
