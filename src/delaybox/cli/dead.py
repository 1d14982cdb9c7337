"""`delaybox dead list/replay/discard`."""

from __future__ import annotations

from typing import Annotated

import typer

from delaybox.cli import messages, options, render
from delaybox.cli.client import segment
from delaybox.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    From,
    Function,
    Labels,
    Queue,
    Server,
    TaskIds,
    To,
    Token,
    Type,
    connect,
)
from delaybox.cli.several import each, note_more, pages
from delaybox.core.errors import ConfigError
from delaybox.core.limits import DEFAULT_REPLAY, MAX_REPLAY

app = typer.Typer(
    help="Dead letters: tasks that failed for good. List them, bring them back, throw them away.", no_args_is_help=True
)


@app.command("list")
def list_dead(
    type_: Type = None,
    queue: Queue = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 100,
    cursor: Annotated[str, typer.Option(help="Go on where an earlier list ended.")] = "",
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first, each with its reason."""
    client = connect(server, token, as_json)
    query = {
        "type": type_,
        "queue": queue,
        "function": function,
        "label": [f"{key}={value}" for key, value in options.pairs("--label", label).items()],
        "due_from": due_from,
        "due_to": due_to,
    }
    found, more = pages(client, "/v1/dead", query, limit=limit, cursor=cursor)
    if as_json:
        return messages.out_json({"tasks": found, "cursor": more})
    messages.table(render.dead(found, width=messages.width()) if found else "no dead letters")
    return note_more(more)


@app.command()
def replay(
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids; or give --all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the options below leave, newest first.")] = False,
    type_: Type = None,
    queue: Queue = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MAX_REPLAY, help="With --all: at most.")
    ] = DEFAULT_REPLAY,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Bring dead letters back: due at once, their attempts forgotten."""
    client = connect(server, token, as_json)
    chosen = options.without_nothing(
        {
            "type": type_,
            "queue": queue,
            "function": function,
            "labels": options.pairs("--label", label),
            "due_from": due_from,
            "due_to": due_to,
        }
    )
    if bool(task_ids) == everything:
        raise ConfigError("give ids, or --all (with --queue and so on for some of them)")
    if task_ids:
        if chosen:
            raise ConfigError(f"{', '.join(sorted(chosen))}: only with --all; ids say already which tasks are meant")
        each(
            task_ids,
            lambda one: client.call("POST", f"/v1/dead/{segment(one)}/replay"),
            "brought back",
            as_json=as_json,
        )
    answer = client.call("POST", "/v1/dead/replay", {**chosen, "limit": limit})
    if as_json:
        return messages.out_json(answer)
    return messages.out(f"{answer['replayed']:,} brought back")


@app.command()
def discard(task_ids: TaskIds, server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Delete dead letters for good."""
    client = connect(server, token, as_json)
    each(task_ids, lambda one: client.call("DELETE", f"/v1/dead/{segment(one)}"), "discarded", as_json=as_json)
