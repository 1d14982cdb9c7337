"""`delaybox dead list/replay/discard`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from delaybox.cli import messages, naming, options, render
from delaybox.cli.client import RestClient
from delaybox.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    DryRun,
    From,
    Function,
    Group,
    Key,
    Labels,
    Queue,
    Server,
    To,
    Token,
    Type,
    connect,
)
from delaybox.cli.several import by_key, each, note_more, pages, path_of, show_changed
from delaybox.core.errors import ConfigError
from delaybox.core.limits import DEFAULT_REPLAY, MAX_REPLAY

app = typer.Typer(
    help="Dead letters: tasks that failed for good. List them, bring them back, throw them away.", no_args_is_help=True
)


SomeIds = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids; or give a filter below, or --all.")]
Everything = Annotated[bool, typer.Option("--all", help="All that the options below leave, newest first.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", "-n", min=1, max=MAX_REPLAY, help=f"Without ids: at most this many; {DEFAULT_REPLAY:,} unless given."
    ),
]


@app.command("list")
def list_dead(
    group: Group = None,
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
        "group": group,
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
    task_ids: SomeIds = None,
    key: Key = None,
    everything: Everything = False,
    group: Group = None,
    queue: Queue = None,
    type_: Type = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Bring dead letters back, due at once, their attempts forgotten: those with these ids, or all that match."""
    client = connect(server, token, as_json)
    wanted = options.wanted(group, queue, type_, function, label, due_from, due_to)
    named = [*(task_ids or ()), *((key,) if key is not None else ())]
    if _by_ids(named, wanted, everything=everything, limit=limit, dry_run=dry_run):
        if key is not None:
            client.call("POST", path_of("/v1/dead", task_ids[0] if task_ids else None, key, call="/replay"))
            return by_key(key, "brought back", as_json=as_json)
        return each(
            task_ids or (),
            lambda one: client.call("POST", path_of("/v1/dead", one, None, call="/replay")),
            "brought back",
            as_json=as_json,
        )
    return _many(client, "replay", wanted, "brought back", limit=limit, dry_run=dry_run, as_json=as_json)


@app.command()
def discard(
    task_ids: SomeIds = None,
    key: Key = None,
    everything: Everything = False,
    group: Group = None,
    queue: Queue = None,
    type_: Type = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good: those with these ids, or all that match. Try a filter with --dry-run first."""
    client = connect(server, token, as_json)
    wanted = options.wanted(group, queue, type_, function, label, due_from, due_to)
    named = [*(task_ids or ()), *((key,) if key is not None else ())]
    if _by_ids(named, wanted, everything=everything, limit=limit, dry_run=dry_run):
        if key is not None:
            client.call("DELETE", path_of("/v1/dead", task_ids[0] if task_ids else None, key))
            return by_key(key, "discarded", as_json=as_json)
        return each(
            task_ids or (),
            lambda one: client.call("DELETE", path_of("/v1/dead", one, None)),
            "discarded",
            as_json=as_json,
        )
    return _many(client, "discard", wanted, "discarded", limit=limit, dry_run=dry_run, as_json=as_json)


def _by_ids(
    task_ids: list[str] | None, wanted: dict[str, Any], *, everything: bool, limit: int | None, dry_run: bool
) -> bool:
    """Whether dead letters are named by their ids. ConfigError."""
    if not task_ids:
        if not wanted and not everything:
            raise ConfigError("no dead letters are named; give ids, a filter such as --queue, or --all")
        return False
    rest = {"all": everything or None, "limit": limit, "dry_run": dry_run or None}
    if extra := options.without_nothing({**wanted, **rest}):
        raise ConfigError(f"{naming.named(extra)}: not with ids, which say already which dead letters are meant")
    return True


def _many(
    client: RestClient, what: str, wanted: dict[str, Any], done: str, *, limit: int | None, dry_run: bool, as_json: bool
) -> None:
    most = DEFAULT_REPLAY if limit is None else limit
    # A node of an earlier version knows no `all` of a replay.
    body = {**wanted, "all": (not wanted and what == "discard") or None, "limit": most, "dry_run": dry_run or None}
    answer = client.call("POST", f"/v1/dead/{what}", options.without_nothing(body))
    if not as_json:
        answer.setdefault("changed", answer.get("replayed", 0))
    show_changed(answer, done, dry_run=dry_run, as_json=as_json)
    if not as_json and max(answer["changed"], answer.get("matched") or 0) >= most:
        again = "" if dry_run else ", or the same command again"
        messages.note(f"there may be more than {most:,}: --limit, up to {MAX_REPLAY:,}{again}")
