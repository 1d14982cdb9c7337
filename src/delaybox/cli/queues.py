"""`delaybox queues`: what each queue holds, and its rules."""

from __future__ import annotations

import shlex
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from delaybox.cli import messages, options, render
from delaybox.cli.client import NodeRefused, NodeUnreachable, RestClient, segment
from delaybox.cli.options import DEFAULT_SERVER, AsJson, Server, Token, connect
from delaybox.cli.several import Outage
from delaybox.cli.watch import queue_table
from delaybox.core.errors import ConfigError

OTHERS = "*"
_LOOK_EVERY_S = 0.5


class _Group(TyperGroup):
    """`delaybox queues`, `delaybox queues mail` and `delaybox queues --json` are short for `queues show …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Group, help="Show queues (`queues [QUEUE]`), and set their rules.")

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="Its name; '*': all that have no such rule of their own.")]


@app.command()
def show(
    queue: Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="Only this one, with its rules.")] = None,
    rules: Annotated[bool, typer.Option("--rules", help="The queues that have rules of their own.")] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show the queues that hold something: pending, ready, in flight, for how long the oldest waits, fired a second."""
    if rules and queue:
        raise ConfigError(f"--rules and {queue!r} are both given; leave --rules out: one queue is shown with its rules")
    client = connect(server, token, as_json)
    if rules:
        ruled = client.get("/v1/queue-rules")
        if as_json:
            return messages.out_json(ruled)
        messages.out(_rules_table(ruled["queues"], messages.width()))
        for one in ruled["queues"]:
            _note_newer(one, f"{one['queue']}: ")
        return None
    answer = client.get(f"/v1/queues/{segment(queue)}" if queue is not None else "/v1/queues")
    if as_json:
        return messages.out_json(answer)
    if queue is None:
        return messages.table(queue_table(answer["queues"], messages.width()))
    if answer["types"]:
        messages.table(queue_table(answer["types"], messages.width()))
    elif queue != OTHERS:
        # Any name is a queue's: one that was never used is like one that is empty.
        messages.out(
            f"queue {queue!r} has nothing due soon or in flight, and nothing fired in the last minute; "
            f"`delaybox list --queue {shlex.quote(queue)}` shows all that waits, `delaybox queues` the queues in use"
        )
    _say_rules(answer)
    return None


@app.command("set")
def set_(
    queue: Name,
    pause: Annotated[
        bool, typer.Option("--pause", help="Due tasks wait; scheduling goes on, and what runs already ends.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Due tasks are taken, in order.")] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="With --pause: return when nothing of it runs any more.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Longest time of one attempt of tasks that set none.")
    ] = None,
    keep_result: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long results are kept; 0: not at all.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(metavar="N", help="Attempts in all of tasks without a policy of their own.")
    ] = None,
    backoff: Annotated[str | None, typer.Option(metavar="DURATION", help="The wait after the first failure.")] = None,
    max_backoff: Annotated[str | None, typer.Option(metavar="DURATION", help="The longest wait.")] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Its share where there is more work than places; 1 is usual.", callback=options.finite
        ),
    ] = None,
    slack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRIORITY=DURATION",
            help="How long tasks may wait behind others of the queue, such as low=10m; repeatable.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Most of its tasks that run at a time, over all nodes.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/INTERVAL", help="Most that begin in any interval: 100/s, 5/10m.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option(metavar="N", help="How many of the rate may begin together. Default: all of them.")
    ] = None,
    per: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BY,LIMIT,…",
            help="Limits for each value by itself, such as label:customer,concurrency=5,rate=10/s,burst=2; BY is "
            "label:NAME, fairness_key or group; repeatable.",
        ),
    ] = None,
    key_keep: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long an idempotency key outlives its task.")
    ] = None,
    resume_rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/INTERVAL",
            help="After a pause: most of what waited that begins in any interval, until it has all begun.",
        ),
    ] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Clear a rule, such as paused, timeout or weight; repeatable."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Set rules of a queue, in force at once; what is not named stays as it is."""
    if pause and resume:
        raise ConfigError("--pause and --resume are both given; give one of them")
    if drain and not pause:
        raise ConfigError("--drain waits for a paused queue to run empty; give --pause with it")
    if (pause or resume) and "paused" in (clear or ()):
        raise ConfigError(f"{'--pause' if pause else '--resume'} and --clear paused are both given; give one of them")
    body: dict[str, Any] = dict.fromkeys(clear or ())
    if pause or resume:
        # With '*' paused, one queue is resumed by a rule of its own.
        body["paused"] = pause
    given = {"timeout": timeout, "keep_result": keep_result, "key_keep": key_keep}
    body |= {name: _number_or_text(value) for name, value in given.items() if value is not None}
    limits = {"concurrency": concurrency, "rate": rate, "burst": burst, "resume_rate": resume_rate}
    body |= {name: limit for name, limit in limits.items() if limit is not None}
    wait = {name: value for name, value in (("initial", backoff), ("max", max_backoff)) if value is not None}
    if max_attempts is not None or wait:
        body["retry"] = {"max_attempts": max_attempts, "backoff": wait or None}
    if weight is not None:
        body["weight"] = weight
    if slack:
        body["slack"] = dict(_level(text) for text in slack)
    if per:
        body["keys"] = [_key_limit(text) for text in per]
    if not body:
        raise ConfigError("no rule is given; `delaybox queues set --help` shows them")
    client = connect(server, token, as_json)
    answer = client.call("PATCH", f"/v1/queues/{segment(queue)}", body)
    if drain:
        _drain(client, queue, quiet=as_json)
    if as_json:
        return messages.out_json(answer)
    _say_rules(answer)
    return None


@app.command()
def unset(queue: Name, server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Return a queue to the default: clear its rules. Its tasks stay."""
    client = connect(server, token, as_json)
    client.call("DELETE", f"/v1/queues/{segment(queue)}")
    if as_json:
        return messages.out_json(client.get(f"/v1/queues/{segment(queue)}"))
    return messages.out(f"queue {queue!r} has no rules of its own any more")


def _level(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"--slack {text!r} is not PRIORITY=DURATION; write for example low=10m")
    return name, _number_or_text(value)


def _number_or_text(value: str) -> str | int:
    """Digits of other scripts are for the node to refuse in its words."""
    return int(value) if value.isascii() and value.isdigit() else value


def _key_limit(text: str) -> dict[str, str | int]:
    by, *limits = text.split(",")
    found: dict[str, str | int] = {"by": by.strip()}
    for limit in limits:
        name, equals, value = (part.strip() for part in limit.partition("="))
        if not equals or name not in ("concurrency", "rate", "burst"):
            raise ConfigError(
                f"--per {text!r}: {limit!r} is no limit; write for example label:customer,concurrency=5,rate=10/s"
            )
        found[name] = _number_or_text(value)
    return found


def _drain(client: RestClient, queue: str, *, quiet: bool) -> None:
    last, outage = -1, Outage()
    while True:
        try:
            if queue == OTHERS:
                running = sum(lane["in_flight"] for lane in client.get("/v1/queues")["queues"] if lane["waits"])
            else:
                running = client.get(f"/v1/queues/{segment(queue)}")["in_flight"]
        except (NodeUnreachable, NodeRefused) as error:
            outage.passes(error)
            continue
        outage.over()
        if not running:
            return
        if running != last and not quiet:
            messages.note(f"{running:,} still run")
        last = running
        time.sleep(_LOOK_EVERY_S)


def _say_rules(answer: dict[str, Any]) -> None:
    own, effect = answer.get("rules", {}), answer.get("effect", {})
    for name, value in effect.items():
        origin = "" if name in own else "  (not its own)"
        messages.out(f"{name} = {_value(name, value)}{origin}")
    if not effect:
        messages.out("no rule holds")
    if answer.get("waits"):
        messages.out(answer["waits"])
    if answer.get("full_speed_at"):
        words = f"what waited during its pause begins at {effect.get('resume_rate')}, until about"
        messages.out(f"{words} {answer['full_speed_at']}")
    _note_newer(answer)


def _note_newer(answer: dict[str, Any], queue: str = "") -> None:
    if answer.get("newer"):
        messages.note(f"{queue}a newer DelayBox set {', '.join(answer['newer'])}; this node leaves that alone")


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "retry":
        back = value.get("backoff", {})
        first, most = render.span(back.get("initial", 0)), render.span(back.get("max", 0))
        return f"{value.get('max_attempts')} attempts, {first} to {most} between them"
    if name == "weight":
        return f"{value:g}"
    if name == "slack":
        return ", ".join(f"{level} {render.span(ms)}" for level, ms in value.items())
    if name in ("concurrency", "rate", "burst", "resume_rate"):
        return str(value)
    if name == "keys":
        return "; ".join(",".join([one["by"], *(f"{k}={v}" for k, v in one.items() if k != "by")]) for one in value)
    return render.span(value)


def _rules_table(found: list[dict[str, Any]], width: int) -> str:
    if not found:
        return "no queue has rules of its own; `delaybox queues set QUEUE` sets some"
    rows = [
        [one["queue"], ", ".join(f"{name} = {_value(name, value)}" for name, value in one["rules"].items())]
        for one in found
    ]
    return render.table(["queue", "rules"], rows, width=width)
