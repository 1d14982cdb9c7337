"""`delaybox cancel reschedule run-now wait`: of tasks named by id, or of all that a filter matches."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from delaybox.cli import messages, naming, options, render
from delaybox.cli.client import NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.exits import Exit
from delaybox.cli.options import (
    DEFAULT_SERVER,
    WHEN,
    AsJson,
    DryRun,
    Fold,
    From,
    Function,
    Group,
    Key,
    Labels,
    PriorityName,
    Queue,
    Server,
    TaskOrKey,
    To,
    Token,
    Type,
    Zone,
    connect,
)
from delaybox.cli.several import Outage, address_of, by_key, each, path_of, show_changed
from delaybox.core.errors import ConfigError

_WAIT_S: Final = 20.0
"""Longest time of one request that waits: below the client's own time-out."""
_ENDS: Final = frozenset({"succeeded", "failed", "cancelled"})

SomeIds = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids; or give a filter below.")]
Everything = Annotated[bool, typer.Option("--all", help="Every pending task; no filter then.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="With a filter: change at most this many.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (("cancel", cancel), ("reschedule", reschedule), ("run-now", run_now), ("wait", wait)):
        app.command(name, rich_help_panel="Tasks")(command)


def cancel(
    task_ids: SomeIds = None,
    key: Key = None,
    running: Annotated[
        bool,
        typer.Option(
            "--running",
            help="Also when it runs: its worker, or the node that runs its command, is asked to stop it. With ids or "
            "--key.",
        ),
    ] = False,
    free_key: Annotated[
        bool,
        typer.Option("--free-key", help="Their idempotency keys may be used again; also of tasks cancelled already."),
    ] = False,
    group: Group = None,
    queue: Queue = None,
    type_: Type = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    everything: Everything = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Cancel pending tasks: those with these ids, or all that match."""
    client = connect(server, token, as_json)
    named = [*(task_ids or ()), *((key,) if key is not None else ())]
    chosen = _chosen(
        named, options.wanted(group, queue, type_, function, label, due_from, due_to), everything, limit, dry_run
    )
    if chosen is not None:
        if running:
            raise ConfigError("--running goes with ids or --key; a filter is for tasks that wait")
        return _many(client, "cancel", {**chosen, "free_keys": free_key or None}, "cancelled", as_json=as_json)
    flags = [name for name, given in (("free_key", free_key), ("running", running)) if given]
    done = "cancelled, or whoever runs it was asked to stop it" if running else "cancelled"
    if key is not None:
        client.call("DELETE", path_of("/v1/tasks", task_ids[0] if task_ids else None, key, flags=flags))
        return by_key(key, done, as_json=as_json)
    return each(
        task_ids or (),
        lambda one: client.call("DELETE", path_of("/v1/tasks", one, None, flags=flags)),
        done,
        as_json=as_json,
    )


def run_now(
    task_ids: SomeIds = None,
    key: Key = None,
    group: Group = None,
    queue: Queue = None,
    type_: Type = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    everything: Everything = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Make pending tasks due now: those with these ids, or all that match (--group releases a group)."""
    client = connect(server, token, as_json)
    named = [*(task_ids or ()), *((key,) if key is not None else ())]
    chosen = _chosen(
        named, options.wanted(group, queue, type_, function, label, due_from, due_to), everything, limit, dry_run
    )
    if chosen is not None:
        return _many(client, "run", chosen, "due now", as_json=as_json)
    if key is not None:
        client.call("POST", path_of("/v1/tasks", task_ids[0] if task_ids else None, key, call="/run"))
        return by_key(key, "due now", as_json=as_json)
    return each(
        task_ids or (),
        lambda one: client.call("POST", path_of("/v1/tasks", one, None, call="/run")),
        "due now",
        as_json=as_json,
    )


def reschedule(
    task_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The task's id; or give a filter below.")
    ] = None,
    key: Key = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=f"New time: {WHEN}")] = None,
    delay: Annotated[str | None, typer.Option("--delay", "-d", metavar="SPAN", help="How long from now.")] = None,
    zone: Zone = None,
    fold: Fold = None,
    priority: Annotated[PriorityName | None, typer.Option("--priority", "-p", help="New priority; with an id.")] = None,
    group: Group = None,
    queue: Queue = None,
    type_: Type = None,
    function: Function = None,
    label: Labels = None,
    due_from: From = None,
    due_to: To = None,
    everything: Everything = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Move a pending task to another time, or give it another priority; or move all that match to one moment."""
    client = connect(server, token, as_json)
    named = [str(task_id or key)] if task_id or key else None
    chosen = _chosen(
        named, options.wanted(group, queue, type_, function, label, due_from, due_to), everything, limit, dry_run
    )
    when = options.without_nothing({"at": options.when(at, zone, fold), "delay": delay})
    if chosen is not None:
        if priority is not None:
            raise ConfigError("--priority goes with an id; a filter moves tasks to another time")
        if not when:
            raise ConfigError("no time is given; give --at or --delay")
        return _many(client, "reschedule", {**chosen, **when}, "moved", as_json=as_json)
    change = options.without_nothing({**when, "priority": priority})
    if not change:
        raise ConfigError("nothing to change; give --at, --delay or --priority")
    task = client.call("PATCH", address_of(task_id, key), change)
    if as_json:
        return messages.out_json(task)
    # A token without the scope read gets only the id, state and due time.
    rank = f", priority {task['priority']}" if "priority" in task else ""
    return messages.out(f"{task['id']}  due {render.due(task, time.time_ns() // 1_000_000)}{rank}")


def wait(
    task_id: TaskOrKey = None,
    key: Key = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Give up after so long, such as 5m; unless given as long as it takes."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Wait until a task has ended, and show it. Exit code 1: it failed, was cancelled, or the time is over."""
    client = connect(server, token, as_json)
    until = None if timeout is None else time.monotonic() + options.duration_ms("--timeout", timeout) / 1000
    address = address_of(task_id, key)
    # A key may name another task by the time that this one has ended, so it is looked up once.
    task: dict[str, Any] = client.get(address) if key is not None else {}
    address = address_of(task.get("id", task_id), None)
    outage = Outage()
    while task.get("state") not in _ENDS:
        left = _WAIT_S if until is None else min(_WAIT_S, until - time.monotonic())
        if task and left <= 0:
            break
        try:
            task = client.get(address, {"wait": f"{max(int(left * 1000), 0)}ms"})
            outage.over()
        except (NodeUnreachable, NodeRefused) as error:
            if not task:
                raise
            if isinstance(error, NodeRefused) and error.status == 410:
                # It was there a moment ago, so it has ended, and left nothing.
                task = {**task, "state": None}
                break
            outage.passes(error)
    if as_json:
        messages.out_json(task)
    elif task["state"] is None:
        messages.out(f"{task['id']}  has ended; no result of it is kept")
    else:
        messages.out(render.one(task, time.time_ns() // 1_000_000))
    if task["state"] not in (None, "succeeded"):
        raise typer.Exit(Exit.FAILED)


def _chosen(
    task_ids: list[str] | str | None, wanted: dict[str, Any], everything: bool, limit: int | None, dry_run: bool
) -> dict[str, Any] | None:
    """The body of a change of many; None where tasks are named by their ids. ConfigError."""
    if not task_ids and not wanted and not everything:
        raise ConfigError("no tasks are named; give ids, a filter such as --group or --queue, or --all")
    if everything and wanted:
        raise ConfigError(f"--all and {naming.named(wanted)} are both given; give one of them")
    rest = options.without_nothing({"all": everything or None, "limit": limit, "dry_run": dry_run or None})
    if not task_ids:
        return wanted | rest
    if extra := wanted | rest:
        raise ConfigError(f"{naming.named(extra)}: not with ids, which say already which tasks are meant")
    return None


def _many(client: RestClient, what: str, body: dict[str, Any], done: str, *, as_json: bool) -> None:
    answer = client.call("POST", f"/v1/tasks/{what}", options.without_nothing(body))
    return show_changed(answer, done, dry_run=bool(body.get("dry_run")), as_json=as_json)
