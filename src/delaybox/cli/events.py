"""`delaybox events`: what happens to tasks, as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from delaybox.cli import colour, options, several
from delaybox.cli.client import NodeRefused, NodeUnreachable, Query, RestClient
from delaybox.cli.options import DEFAULT_SERVER, AsJson, Labels, Queue, Server, Token, Type, connect
from delaybox.cli.several import Outage
from delaybox.core import texts

_START = "0-0.0"
_QUIET_S = 1.0
"""Without --follow: the feed has no more for now when nothing came for so long."""
_SILENT_S = 40.0
"""A stream shows every 15 s that it is alive."""
_PREFIX = "io.delaybox.task."


class KindName(StrEnum):
    """What happened."""

    SCHEDULED = "scheduled"
    CHANGED = "changed"
    FIRED = "fired"
    RETRIED = "retried"
    DEAD = "dead"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="What happens from now on, until Ctrl+C; else what the feed holds.")
    ] = False,
    kind: Annotated[list[KindName] | None, typer.Option("--kind", "-k", help="Only this; repeatable.")] = None,
    type_: Type = None,
    queue: Queue = None,
    function: Annotated[str | None, typer.Option("--function", help="Function or command.")] = None,
    label: Labels = None,
    after: Annotated[str, typer.Option(metavar="ID", help="Go on behind the event with this id.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many; 0: never.")] = 0,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show what happens to tasks; with --json one CloudEvent a line."""
    client = connect(server, token, as_json)
    query = {
        "kind": ",".join(kind) if kind else None,
        "type": type_,
        "queue": queue,
        "function": function,
        "label": [f"{key}={value}" for key, value in options.pairs("--label", label).items()],
    }
    lines = _lines(client, query, after or ("" if follow else _START), follow=follow)
    for shown, line in enumerate(lines, 1):
        print(line if as_json else _drawn(json.loads(line)), flush=True)  # noqa: T201
        if shown == count:
            return


def _lines(client: RestClient, query: Query, after: str, *, follow: bool) -> Iterator[str]:
    """The data of each event; goes on where a stream was cut."""
    outage = Outage()
    while True:
        try:
            quiet_s = _SILENT_S if follow else _QUIET_S
            for event_id, data in client.stream("/v1/events", {**query, "after": after or None}, quiet_s=quiet_s):
                outage.over()
                after = event_id or after
                if data:
                    yield data
        except (NodeUnreachable, NodeRefused) as error:
            if not after or not follow:
                raise
            outage.passes(error)
            continue
        if not follow:
            return
        time.sleep(several.AGAIN_S)


def _drawn(event: dict[str, Any]) -> str:
    """One event as a line."""
    data = event.get("data", {})
    if "missed" in data:
        many = data["missed"] or "some"
        return colour.missed(f"{many} events are missing here: {texts.line(str(data.get('reason', '')))}")
    at = datetime.fromisoformat(event["time"]).astimezone()
    lane = texts.line(":".join(filter(None, (data.get("type", "?"), data.get("queue", "?"), data.get("name", "")))))
    more = []
    kind = event["type"].removeprefix(_PREFIX)
    if kind in ("scheduled", "changed", "retried"):
        more.append(f"due {datetime.fromisoformat(data['due']).astimezone():%Y-%m-%d %H:%M:%S}")
    if data.get("attempt"):
        more.append(f"attempt {data['attempt']}")
    more += [f"{name}={value}" for name, value in data.get("labels", {}).items()]
    if data.get("reason"):
        more.append(data["reason"])
    clock = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
    text = f"{clock}  {texts.line(kind):9}  {texts.line(data.get('id', ''))}  {lane}  {texts.line('  '.join(more))}"
    return colour.event(text.rstrip(), kind)
