"""`delaybox schedule get list`."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from delaybox.cli import messages, options, render
from delaybox.cli.client import NodeUnreachable
from delaybox.cli.events import events
from delaybox.cli.options import (
    DEFAULT_SERVER,
    WHEN,
    AsJson,
    EndedName,
    Fold,
    From,
    Function,
    Group,
    Key,
    Labels,
    PriorityName,
    Queue,
    Server,
    StateName,
    TaskOrKey,
    To,
    Token,
    Type,
    Zone,
    connect,
)
from delaybox.cli.several import address_of, note_more, pages
from delaybox.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("schedule", schedule),
        ("get", get),
        ("list", list_tasks),
        ("history", history),
        ("events", events),
    ):
        app.command(name, rich_help_panel="Tasks")(command)


def schedule(
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="Text; - reads it from standard input.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=f"When: {WHEN}")] = None,
    zone: Zone = None,
    fold: Fold = None,
    delay: Annotated[
        str | None, typer.Option("--delay", "-d", metavar="SPAN", help="How long from now: 15m, 1h30m, PT15M, or ms.")
    ] = None,
    type_: Type = None,
    queue: Queue = None,
    priority: Annotated[PriorityName | None, typer.Option("--priority", "-p", help="Priority.")] = None,
    payload_json: Annotated[
        str | None, typer.Option(metavar="JSON", help="The payload as JSON, checked before it is sent.")
    ] = None,
    payload_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The payload from a file, byte for byte.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="KEY=VALUE", help="Travels along; repeatable.")
    ] = None,
    label: Labels = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="TEXT", help="Idempotency key: scheduled once, however often sent.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Function (worker) or named command (shell).")] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Call this URL (type http), the payload as the body.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="METHOD", help="With --url: POST unless given.")] = None,
    retry_on: Annotated[
        list[int] | None, typer.Option(metavar="STATUS", help="With --url: this 4xx is tried again; repeatable.")
    ] = None,
    on_success: Annotated[
        str | None, typer.Option(metavar="URL", help="With --url: called when it has ended well.")
    ] = None,
    on_failure: Annotated[
        str | None, typer.Option(metavar="URL", help="With --url: called when it became a dead letter.")
    ] = None,
    cloudevents: Annotated[
        str | None, typer.Option(metavar="FORM", help="With --url: a CloudEvent, binary or structured; or none.")
    ] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="Attempts in all.")] = None,
    backoff: Annotated[str | None, typer.Option(metavar="SPAN", help="Wait after the first failure.")] = None,
    backoff_max: Annotated[str | None, typer.Option(metavar="SPAN", help="Longest wait.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="SPAN", help="Longest time of one attempt.")] = None,
    expire_after: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Late by more: not run, but a dead letter.")
    ] = None,
    keep_result: Annotated[str | None, typer.Option(metavar="SPAN", help="How long its result is kept.")] = None,
    max_snooze: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="For how long in all its own code may put it off; 7d unless given."),
    ] = None,
    delivery: Annotated[
        str | None, typer.Option(metavar="WAY", help="at_most_once: never carried out twice, perhaps not at all.")
    ] = None,
    on_conflict: Annotated[
        str | None, typer.Option(metavar="WAY", help="With a --key that is taken: keep the first task, or replace it.")
    ] = None,
    max_wait: Annotated[
        str | None, typer.Option(metavar="SPAN", help="With --on-conflict replace: put off no longer than this in all.")
    ] = None,
    unique_while: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="--key is a lock while the task is pending, or running."),
    ] = None,
    group: Group = None,
    fairness_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Keys of a queue take turns where there are fewer places than work."),
    ] = None,
    fairness_weight: Annotated[
        float | None,
        typer.Option(metavar="N", help="The key's share beside other keys; 1 is usual.", callback=options.finite),
    ] = None,
    cost: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many places it takes: of its worker, or of the process that carries it out."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="LABEL", help="Its worker must have this label: gpu, zone=b; repeatable."),
    ] = None,
    prefer: Annotated[
        list[str] | None,
        typer.Option("--prefer", metavar="LABEL", help="Workers with this label are asked first; repeatable."),
    ] = None,
    reject_past: Annotated[
        bool, typer.Option("--reject-past", help="Refuse a past time, which else means at once.")
    ] = False,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Many tasks: a JSON object a line, fields as in POST /v1/tasks; - is "
            "standard input. The same command again goes on where it was cut off.",
        ),
    ] = None,
    run: Annotated[
        str, typer.Option(metavar="NAME", help="With --file: another name schedules the same lines once more.")
    ] = "",
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Schedule a task, or a file of them."""
    client = connect(server, token, as_json)
    back = options.without_nothing({"initial": backoff, "max": backoff_max})
    body = options.without_nothing(
        {
            "type": type_ or ("http" if url is not None else None),
            "queue": queue,
            "priority": priority,
            "at": options.when(at, zone, fold),
            "delay": delay,
            "headers": options.pairs("--header", header),
            "labels": options.pairs("--label", label),
            "idempotency_key": key,
            "name": name,
            "url": url,
            "method": method,
            "retry_on": retry_on or None,
            "on_success": on_success,
            "on_failure": on_failure,
            "cloudevents": cloudevents,
            "retry": options.without_nothing({"max_attempts": attempts, "backoff": back}),
            "timeout": timeout,
            "expire_after": expire_after,
            "keep_result": keep_result,
            "max_snooze": max_snooze,
            "delivery": delivery,
            "on_conflict": on_conflict,
            "max_wait": max_wait,
            "unique_while": unique_while,
            "group": group,
            "fairness_key": fairness_key,
            "fairness_weight": fairness_weight,
            "cost": cost,
            "requires": require or None,
            "prefers": prefer or None,
            "reject_past": reject_past or None,
        }
    )
    body |= _payload(payload, payload_json, payload_file)
    if file is not None:
        if body:
            raise ConfigError(f"--file has everything in its lines; leave out {', '.join(sorted(body))}")
        from delaybox.cli.bulk import schedule_file

        raise typer.Exit(schedule_file(client, file, run=run, as_json=as_json))
    if run:
        raise ConfigError("--run belongs to --file; for one task give --key")
    if not body:
        raise ConfigError("nothing to schedule; give a PAYLOAD, --delay 10s and so on, or --file (--help shows all)")
    try:
        task = client.send("POST", "/v1/tasks", _written(body))
    except NodeUnreachable as error:
        if not error.sent or key:
            raise
        raise NodeUnreachable(
            f"{error}. The task may be stored all the same; with --key the command can be repeated safely", sent=True
        ) from None
    if as_json:
        return messages.out_json(task)
    if task.get("warning"):
        messages.warning(task["warning"])
    how = "replaced" if on_conflict == "replace" else "there already"
    there = "" if task.get("created", True) else f"  ({how}: same key)"
    return messages.out(f"{task['id']}  due {render.due(task, time.time_ns() // 1_000_000)}{there}")


def _payload(text: str | None, as_json: str | None, file: Path | None) -> dict[str, Any]:
    if sum(given is not None for given in (text, as_json, file)) > 1:
        raise ConfigError("more than one payload; give one of PAYLOAD, --payload-json and --payload-file")
    if as_json is not None:
        try:
            json.loads(as_json)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--payload-json is no JSON ({error}); quote it for the shell: '{{\"a\": 1}}'") from None
        # Over REST a null is a field that was left out.
        return {"payload": "null"} if as_json.strip() == "null" else {"payload_json": as_json}
    if file is not None:
        try:
            return _bytes(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"--payload-file {file}: {error.strerror}") from None
    if text == "-":
        return _bytes(sys.stdin.buffer.read())
    return {} if text is None else {"payload": text}


def _written(body: dict[str, Any]) -> bytes:
    """As JSON. payload_json is JSON already and stays as it was written."""
    parts = [
        f"{json.dumps(name)}: {value if name == 'payload_json' else json.dumps(value)}" for name, value in body.items()
    ]
    return f"{{{', '.join(parts)}}}".encode("utf-8", "surrogateescape")


def _bytes(data: bytes) -> dict[str, Any]:
    try:
        return {"payload": data.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(data).decode()}


def get(
    task_id: TaskOrKey = None,
    key: Key = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show a task: its state, attempts, result."""
    task = connect(server, token, as_json).get(address_of(task_id, key))
    if as_json:
        return messages.out_json(task)
    return messages.drawn(render.one(task, time.time_ns() // 1_000_000))


def list_tasks(
    state: Annotated[StateName | None, typer.Option("--state", "-s", help="State.")] = None,
    type_: Type = None,
    queue: Queue = None,
    function: Function = None,
    label: Labels = None,
    group: Group = None,
    due_from: From = None,
    due_to: To = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 100,
    cursor: Annotated[str, typer.Option(help="Go on where an earlier list ended.")] = "",
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List tasks, those of the soonest minute first."""
    client = connect(server, token, as_json)
    query = {
        "state": state,
        "type": type_,
        "queue": queue,
        "function": function,
        "label": [f"{key}={value}" for key, value in options.pairs("--label", label).items()],
        "group": group,
        "due_from": due_from,
        "due_to": due_to,
    }
    found, more = pages(client, "/v1/tasks", query, limit=limit, cursor=cursor)
    found.sort(key=lambda task: int(task["due_ms"]))
    if as_json:
        return messages.out_json({"tasks": found, "cursor": more})
    none = "no tasks"
    if state in (StateName.SUCCEEDED, StateName.CANCELLED):
        none += f"; `delaybox history --state {state}` lists how tasks ended"
    messages.table(render.tasks(found, time.time_ns() // 1_000_000, width=messages.width()) if found else none)
    return note_more(more)


def history(
    state: Annotated[EndedName | None, typer.Option("--state", "-s", help="How they ended.")] = None,
    type_: Type = None,
    queue: Queue = None,
    function: Function = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Ended at or after: RFC 3339 with offset, or Unix ms.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Ended before.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 100,
    cursor: Annotated[str, typer.Option(help="Go on where an earlier list ended.")] = "",
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List how tasks ended, the newest end first."""
    client = connect(server, token, as_json)
    query = {"state": state, "type": type_, "queue": queue, "function": function, "ended_from": start, "ended_to": end}
    found, more = pages(client, "/v1/history", query, limit=limit, cursor=cursor)
    if as_json:
        return messages.out_json({"tasks": found, "cursor": more})
    messages.table(render.ended(found, time.time_ns() // 1_000_000, width=messages.width()) if found else "no ends")
    return note_more(more)
