"""`delaybox stats forecast nodes workers top`: how many tasks are where now, and how many are due when."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from delaybox.cli import messages, options, render, scrape
from delaybox.cli.client import RestClient
from delaybox.cli.open import open_
from delaybox.cli.options import DEFAULT_SERVER, AsJson, Server, Token, connect
from delaybox.core.errors import ConfigError
from delaybox.core.membership import SILENT_MS
from delaybox.wire.json.moments import moment_ms

BUCKET_MS = 60_000
"""Forecasts come in steps of whole minutes."""
DEFAULT_NEXT = "1h"
_COUNTS = ("pending", "ready", "in_flight", "dead", "quarantined")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("nodes", nodes),
        ("workers", workers),
        ("stats", stats),
        ("forecast", forecast),
        ("scaling", scaling),
        ("top", top),
        ("open", open_),
    ):
        app.command(name, rich_help_panel="Watching")(command)


def nodes(server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Show the living nodes and their processes: what each is for, keeps and hands out, its lag, and its clock."""
    answer = connect(server, token, as_json).get("/v1/nodes")
    if as_json:
        return messages.out_json(answer)
    found = answer["nodes"]
    return messages.table(
        node_table(found, messages.width(), members=True) if found else "no node's engine has reported within 10 s"
    )


def node_table(found: list[dict[str, Any]], width: int = 0, *, members: bool = False) -> str:
    """Nodes, one a line. ``members``: below each its processes, where it has several."""
    rows: list[list[str]] = []
    # By beats alone, because this machine's clock may be off.
    newest = max((seen for node in found if (seen := _seen_ms(node))), default=0)
    for node in found:
        # By its id, as `workers` and the log name it: two nodes may share a host.
        rows.append(_node_row(str(node.get("id", "")), node, newest))
        # A node of an older version does not list them.
        inside = node.get("members") or []
        rows[-1] += _facts(inside) if len(inside) == 1 else [""] * 4
        if members and len(inside) > 1:
            named = ((f"  {member.get('kind') or 'engine'}", member) for member in inside)
            rows += [_node_row(name, member, newest) + _facts([member]) for name, member in named]
    header = ["node", "pid", "version", "roles", "types", "in flight"]
    if not members:
        return render.table(header, [row[: len(header)] for row in rows], right=[1, 5], width=width)
    header += ["fired/s", "lag", "clock", "keeps"]
    return render.table(header, rows, right=[1, 5, 6, 7, 8], width=width)


def _seen_ms(facts: dict[str, Any]) -> int:
    """When a node or process beat last (Unix ms); 0: it is not known."""
    seen = facts.get("seen")
    return moment_ms("seen", seen) if seen else 0


def _node_row(name: str, facts: dict[str, Any], newest_ms: int) -> list[str]:
    """``newest_ms``: the last beat of all: who has not beaten for a while before that was killed, or stands still."""
    silent_ms = newest_ms - (_seen_ms(facts) or newest_ms)
    return [
        f"{name} (silent for {render.span(silent_ms)})" if silent_ms >= SILENT_MS else name,
        str(facts.get("pid", "")),
        str(facts.get("version", "")),
        ",".join(facts.get("roles") or []),
        ",".join(facts.get("types") or []),
        f"{facts.get('in_flight', 0):,}",
    ]


def _facts(members: list[dict[str, Any]]) -> list[str]:
    """What a process hands out, how it is, and the partitions that it keeps time for."""
    (member,) = members
    if "lag_ms" not in member:
        # The node that answers is of the previous version.
        return [""] * 4
    offset = member.get("clock_offset_ms")
    more = " …" if member["partition_count"] > len(member["partitions"]) else ""
    return [
        f"{member['fired_per_s']:,.1f}",
        f"{member['lag_ms']:,.0f} ms",
        "" if offset is None else f"{offset:+,} ms",
        f"{member['partition_count']}: {ranges(member['partitions'])}{more}" if member["partition_count"] else "",
    ]


def ranges(numbers: list[int]) -> str:
    """Rising numbers as people write them: ``0-3,7``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


def workers(server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Show the connected workers: a line for each session, with what it runs just now."""
    answer = connect(server, token, as_json).get("/v1/workers")
    if as_json:
        return messages.out_json(answer)
    found = answer["workers"]
    now_ms = time.time_ns() // 1_000_000
    table = _worker_table(found, now_ms, messages.width()) if found else "no worker is connected to a living node"
    messages.table(table)
    if answer["count"] > len(found):
        messages.note(f"{answer['count'] - len(found):,} more are connected; a node names its first 200")
    return None


def _worker_table(found: list[dict[str, Any]], now_ms: int, width: int) -> str:
    began = [moment_ms("since", since) if (since := worker.get("since")) else 0 for worker in found]
    rows = [
        [
            f"{worker['running']:,}",
            f"{worker['concurrency']:,}" if worker["concurrency"] else "-",
            f"{worker['functions']:,}",
            "connected" if worker["connected"] else "away",
            worker["identity"],
            worker["node"],
            ",".join(f"{name}={value}" for name, value in sorted(worker["labels"].items())),
            # A node of an older version does not report when.
            render.span(max(0, now_ms - since_ms)) if since_ms else "",
            render.moment(since_ms) if since_ms else "",
        ]
        for worker, since_ms in sorted(
            zip(found, began, strict=True), key=lambda pair: (pair[0]["identity"], pair[0]["node"])
        )
    ]
    header = ["running", "of", "functions", "", "worker", "node", "labels", "connected for", "since"]
    return render.table(header, rows, right=[0, 1, 2], width=width, drop=["since", "labels", "node"])


def queue_table(lanes: list[dict[str, Any]], width: int = 0) -> str:
    """The lanes of an answer as a table, with why due tasks wait."""
    if not lanes:
        empty = "nothing is due soon or in flight, and nothing fired in the last minute"
        return f"{empty}; `delaybox list` shows all that waits"
    # These columns are there only where they show something.
    wait = any(lane.get("oldest_wait_ms") for lane in lanes)
    standing = [_reason(lane) for lane in lanes]
    last = [""] if any(standing) else []
    rows = [
        [
            lane["queue"],
            lane["type"],
            f"{lane['pending']:,}",
            f"{lane['ready']:,}",
            f"{lane['in_flight']:,}",
            *([render.span(ms) if (ms := lane.get("oldest_wait_ms")) else "-"] if wait else []),
            # An older node does not report rates.
            "-" if (rate := lane.get("fired_per_s")) is None else f"{rate:,.1f}",
            *([stands] if last else []),
        ]
        for lane, stands in zip(lanes, standing, strict=True)
    ]
    waiting = "pending" if all(lane.get("pending_complete") for lane in lanes) else "due soon"
    names = ["queue", "type", waiting, "ready", "in flight", *(["oldest waits"] if wait else []), "fired/s"]
    return render.table([*names, *last], rows, right=range(2, len(names)), width=width)


def _reason(lane: dict[str, Any]) -> str:
    functions = lane.get("unserved") or ()
    return lane.get("waits") or (f"waits: nobody serves {', '.join(functions)}" if functions else "")


def read_metrics(client: RestClient) -> scrape.Numbers:
    """The node's numbers. Unreachable, Refused."""
    return scrape.parse(client.metrics())


def stats(server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Show how many tasks stand where, what this node has done, and how late tasks fire."""
    client = connect(server, token, as_json)
    numbers = read_metrics(client)
    store = {name: numbers.get(f"{name}_tasks") for name in _COUNTS}
    node = {
        "scheduled": numbers.get("scheduled_tasks_total"),
        "duplicates": numbers.get("idempotent_duplicates_total"),
        "fired": numbers.get("fired_tasks_total"),
        "retries": numbers.get("retries_total"),
        "dead_lettered": numbers.get("dead_lettered_tasks_total"),
        "expired": numbers.get("expired_tasks_total"),
        "lost_leases": numbers.get("lost_leases_total"),
        "stale_acks_refused": numbers.get("stale_acks_refused_total"),
        "published_without_listeners": numbers.get("published_without_listeners_total"),
    }
    late = {f"p{share * 100:g}": late_ms(numbers, share) for share in (0.5, 0.9, 0.99, 0.999)}
    up = bool(numbers.get("store_up"))
    if as_json:
        return messages.out_json({"store_up": up, "store": store, "node": node, "late_ms": late})
    if not up:
        messages.warning("the store does not answer the node; the store's numbers are those of an earlier moment")
    rows = [*((f"{name.replace('_', ' ')}", f"{count:,}") for name, count in store.items())]
    done = [*((f"{name.replace('_', ' ')}", f"{count:,}") for name, count in node.items())]
    lates = [*((f"{name} at most", shown_ms(ms)) for name, ms in late.items())]
    width = messages.width()
    return messages.drawn(
        "\n".join(
            [
                render.table(["the whole store now", ""], rows, right=[1], width=width),
                "",
                render.table(["this node since its start", ""], done, right=[1], width=width),
                "",
                render.table(["how late it fired", ""], lates, right=[1], width=width),
            ]
        )
    )


def late_ms(numbers: scrape.Numbers, share: float, since: scrape.Numbers | None = None) -> float | None:
    """Lateness in ms; None when nothing fired."""
    late = numbers.late_s(share, since)
    return None if late is None else round(late * 1000, 2)


def shown_ms(ms: float | None) -> str:
    """Milliseconds in words; a dash for none."""
    return "-" if ms is None else f"{ms:,.1f} ms"


def forecast(
    next_: Annotated[str | None, typer.Option("--next", metavar="SPAN", help="How far; default 1h.")] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Default: now.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Instead of --next.")] = None,
    step: Annotated[str | None, typer.Option(metavar="SPAN", help="Whole minutes; default: some 30 rows.")] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Draw how many tasks are due when, as a histogram."""
    client = connect(server, token, as_json)
    if next_ is not None and end is not None:
        raise ConfigError("--next and --to exclude each other; give one")
    from_ms = time.time_ns() // 1_000_000 if start is None else options.moment_ms("--from", start)
    to_ms = (
        options.moment_ms("--to", end)
        if end is not None
        else from_ms + options.duration_ms("--next", next_ or DEFAULT_NEXT, least=1)
    )
    step_ms = render.step_for(to_ms - from_ms) if step is None else options.duration_ms("--step", step, least=1)
    answer = client.get("/v1/forecast", {"from": from_ms, "to": to_ms, "step": step_ms})
    if as_json:
        return messages.out_json(answer)
    drawn = render.histogram(answer["steps"], answer["step_ms"], width=messages.width() or 80, blocks=messages.blocks())
    return messages.drawn(f"{_totals(answer)}\n\n{drawn}")


def _totals(answer: dict[str, Any]) -> str:
    """How many are due in all, and where most of them are."""
    total, step = answer["total"], render.span(answer["step_ms"])
    line = f"{total:,} task{'' if total == 1 else 's'} due, a line for each {step}"
    if total < 2 or len(answer["steps"]) < 2:
        return line
    most = max(answer["steps"], key=lambda one: one["count"])
    mean = total * 1_000 / (len(answer["steps"]) * answer["step_ms"])
    return f"{line}\nmost from {render.moment(most['start_ms'])[11:16]} on: {most['count']:,}; on average {mean:,.1f}/s"


def scaling(
    queue: Annotated[str | None, typer.Option(help="The workers that serve this queue.")] = None,
    function: Annotated[str | None, typer.Option(help="The workers that serve this function.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only clock, grpc, rest or webhook processes; or worker: all workers.")
    ] = None,
    places: Annotated[str | None, typer.Option(metavar="NUMBER", help="Tasks that one worker runs at once.")] = None,
    lead: Annotated[str | None, typer.Option(metavar="SPAN", help="How far ahead to look; default 30s.")] = None,
    clear: Annotated[
        str | None, typer.Option(metavar="SPAN", help="In which time a backlog should be gone; default 30s.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show how many processes are needed now, or with --queue or --function how many workers, and what for."""
    asked = {"queue": queue, "function": function, "kind": kind, "places": places, "lead": lead, "clear": clear}
    answer = connect(server, token, as_json).get("/v1/scaling", asked)
    if as_json:
        return messages.out_json(answer)
    return messages.out(_scaling_text(answer, messages.width()))


def _sort_of(term: dict[str, Any]) -> str:
    """What a term is about, with what its queue's limits allow."""
    name, most = str(term.get("name", "-")), term.get("most")
    return name if most is None else f"{name} (paused)" if not most else f"{name} (at most {most:,.4g} places)"


def _scaling_text(answer: dict[str, Any], width: int) -> str:
    rows: list[list[str]] = []
    for need in answer["needs"]:
        figures = [f"{need['needed']:,}", f"{need['running']:,}", f"{need['places']:,.2f}"]
        for at, term in enumerate(need["terms"] or [{}]):
            terms = [
                _sort_of(term),
                f"{term.get('due', 0):,}",
                f"{term.get('busiest_per_s', 0):,.1f}",
                f"{term.get('unforeseen_per_s', 0):,.1f}",
                f"{term.get('backlog', 0):,}",
                f"{term.get('occupied', 0):,.0f}",
                f"{term.get('service_ms', 0):,.2f}" + ("" if term.get("measured", True) else " (assumed)"),
            ]
            rows.append([*([need["kind"], *figures] if at == 0 else [""] * 4), *terms])
    header = ["kind", "needed", "running", "places"]
    header += ["for", "due", "busiest/s", "unforeseen/s", "backlog", "in use", "ms each"]
    table = render.table(
        header,
        rows,
        right=[1, 2, 3, 5, 6, 7, 8, 9, 10],
        width=width,
    )
    return (
        f"{table}\n\ndue: within {render.span(answer['lead_ms'])}; a backlog is to be gone in "
        f"{render.span(answer['clear_ms'])}; places are to be {answer['target_use']:.0%} in use"
    )


def top(
    every: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="How often.", callback=options.finite)
    ] = 2.0,
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0: go on.")] = 0,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Watch a node live; where there is no terminal, a line each time."""
    from delaybox.cli.top import watch

    raise typer.Exit(watch(connect(server, token, as_json), every=every, count=count, as_json=as_json))
