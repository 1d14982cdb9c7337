"""`delaybox doctor`: a node, its server and the clocks between them, each with what to do where something is wrong.

It asks the node over REST, and its Redis or Valkey where this machine's configuration reaches that.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from delaybox import __version__
from delaybox.cli import colour, messages
from delaybox.cli.client import NodeAnswer, NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.doctor_server import at_server
from delaybox.cli.exits import Exit
from delaybox.cli.findings import SKEW_MS, Finding, Word
from delaybox.cli.watch import late_ms, read_metrics, shown_ms
from delaybox.core import texts

if TYPE_CHECKING:
    from delaybox.config import Config

HTTP_DATE_MS = 1_000
"""An HTTP date tells whole seconds."""
LATE_MS = 1_000
_COLORS: Mapping[Word, str] = {"ok": "32", "warning": "33", "problem": "31", "skipped": "2"}


def run(client: RestClient, load: Callable[[], Config], *, as_json: bool) -> int:
    """Checks everything and prints the findings; FAILED where there is a problem."""
    found, nodes = _node(client)
    findings = [*found, *at_server(load, {str(node.get("id")) for node in nodes})]
    problems = sum(found.word == "problem" for found in findings)
    if as_json:
        messages.out_json({"ok": not problems, "findings": [asdict(found) for found in findings]})
    else:
        messages.out("\n".join(map(_line, findings)))
        warnings = sum(found.word == "warning" for found in findings)
        messages.out(f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    return Exit.FAILED if problems else Exit.DONE


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _line(found: Finding) -> str:
    word = f"{found.word:<8}"
    colored = f"\x1b[{_COLORS[found.word]}m{word}\x1b[0m" if colour.wanted() else word
    done = f"\n{'':8} {'':12} → {texts.line(found.do)}" if found.do else ""
    return f"{colored} {found.name:<12} {texts.line(found.says)}{done}"


# -- over REST --------------------------------------------------------------------------------------------------


def _node(client: RestClient) -> tuple[list[Finding], list[dict[str, Any]]]:
    """What is found at the node, and the living nodes that it names."""
    found: list[Finding] = []
    nodes: list[dict[str, Any]] = []
    try:
        client.probe("/livez")
        sent = time.time()
        answer = client.probe("/livez")
        took_ms = (time.time() - sent) * 1000
    except NodeUnreachable as error:
        text, _, mend = str(error).partition("; ")
        return [Finding("node", "problem", text, mend or "look at the node's log")], nodes
    if answer.status != 200:
        return [
            Finding(
                "node",
                "problem",
                f"{client.url}/livez answers {answer.status}: not a DelayBox node",
                "name the node with --server or DELAYBOX_SERVER",
            )
        ], nodes
    found.append(Finding("node", "ok", f"{client.url} answers in {took_ms:.1f} ms"))
    if client.has_token and not client.tls and not _is_loopback(client.host):
        found.append(
            Finding(
                "transport",
                "warning",
                "the token travels in the clear to another machine",
                "put a proxy with TLS in front of the node and name it as https://",
            )
        )
    found.append(node_clock(answer, sent, sent + took_ms / 1000))
    ready = client.probe("/readyz")
    words = ready.body[:300].decode("utf-8", "replace")
    if ready.status != 200:
        found.append(not_ready(words))
    elif words.startswith("ready; but "):
        found += [_trouble(words.removeprefix("ready; but "))]
    else:
        found.append(Finding("readiness", "ok", "the store runs scripts, and the node's engine lives"))
    try:
        nodes = client.get("/v1/nodes")["nodes"]
    except NodeRefused as error:
        found.append(_refused(error))
    else:
        found += of_nodes(nodes)
    found += of_numbers(client)
    found += _paused(client)
    return found, nodes


def _paused(client: RestClient) -> list[Finding]:
    """Paused queues in which due tasks wait."""
    try:
        lanes = client.get("/v1/queues")["queues"]
    except NodeRefused:
        return []  # said of the nodes already
    waiting: dict[str, int] = {}
    for lane in lanes:
        # A node of an older version does not say.
        if lane.get("waits") and lane["ready"]:
            waiting[lane["queue"]] = waiting.get(lane["queue"], 0) + lane["ready"]
    if not waiting:
        return []
    most = sorted(waiting.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{queue} ({count:,} due)" for queue, count in most[:_PAUSED_SHOWN])
    more = f" and {len(most) - _PAUSED_SHOWN} more" if len(most) > _PAUSED_SHOWN else ""
    return [
        Finding(
            "queues",
            "warning",
            f"paused, while due tasks wait: {shown}{more}",
            "if that is not meant any more: `delaybox queues set QUEUE --resume`",
        )
    ]


_PAUSED_SHOWN = 5


def not_ready(words: str) -> Finding:
    """The findings of readiness, each split into cause and mend."""
    # "cause; mend" or "cause. Mend", as errors are worded here.
    text, _, mend = words.partition("; " if "; " in words else ". ")
    mend = mend or "the node's log says more; the server's checks below too, where they can be made"
    return Finding("readiness", "problem", text, mend)


def _trouble(words: str) -> Finding:
    mend = "the node's log says more"
    if "no connected worker with" in words:
        mend = (
            "start a worker that has what these tasks need (`--label`, `--concurrency` for places); "
            "`delaybox queues` shows what waits"
        )
    elif "no connected worker serves" in words:
        mend = "start a worker with these functions and queues; `delaybox queues` shows what waits"
    elif "no living node" in words:
        mend = "start a node with the role and the commands that these tasks need; `delaybox queues` shows what waits"
    return Finding("readiness", "warning", words, mend)


def _refused(error: NodeRefused) -> Finding:
    text, _, mend = str(error).partition("; ")
    if error.status == 404:
        return Finding(
            "api",
            "problem",
            "the node has no /v1 here",
            "end --server with the node's contextPath; or the node is older than this command",
        )
    return Finding("api", "problem", f"{error.status}: {text}", mend)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def node_clock(answer: NodeAnswer, sent_s: float, got_s: float) -> Finding:
    """This machine's clock against the node's, by the date of an answer (whole seconds)."""
    try:
        node_s = parsedate_to_datetime(answer.headers.get("date", "")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return Finding("node clock", "skipped", "the node's answers carry no date")
    # It was node_s to node_s + 1 (and the node may write the date of a second ago) when the call was under way.
    ahead = max(0.0, node_s - got_s, sent_s - node_s - 2 * HTTP_DATE_MS / 1000)
    if ahead * 1000 <= SKEW_MS:
        return Finding("node clock", "ok", "agrees with this machine's, as far as whole seconds tell")
    way = "ahead of" if node_s > got_s else "behind"
    return Finding(
        "node clock",
        "warning",
        f"some {ahead:.1f} s {way} this machine's",
        "set both by NTP; times given as `at` mean the server's clock, `delay` is not touched",
    )


def of_nodes(nodes: list[dict[str, Any]]) -> list[Finding]:
    """The living nodes, and their versions."""
    if not nodes:
        return [
            Finding(
                "nodes",
                "problem",
                "no node's engine has reported within 10 s",
                "nothing fires; start a node with the roles clock and work, or look at its log",
            )
        ]
    names = [f"{n.get('host')}:{n.get('pid')}" for n in nodes]
    found = [Finding("nodes", "ok", f"{_count(len(nodes), 'living node')}: {', '.join(names)}")]
    versions = sorted({str(n.get("version") or "unknown") for n in nodes})
    if versions == [__version__]:
        found.append(Finding("versions", "ok", f"everything is {__version__}"))
    else:
        found.append(
            Finding(
                "versions",
                "warning",
                f"this command is {__version__}, the nodes {', '.join(versions)}",
                "mixed versions are meant for an upgrade; finish it",
            )
        )
    found += _clocks(nodes)
    for role, does in (("clock", "nothing becomes due"), ("work", "nothing is carried out")):
        if all(n.get("roles") and role not in n["roles"] for n in nodes):
            found.append(
                Finding(
                    "roles", "problem", f"no living node has the role {role}: {does}", f"start one with --roles {role}"
                )
            )
    return found


def _clocks(nodes: list[dict[str, Any]]) -> list[Finding]:
    """Each machine's clock against the server's, by the heartbeats of the processes on it."""
    found: list[Finding] = []
    for node in nodes:
        offsets = [offset for m in node.get("members") or [] if (offset := m.get("clock_offset_ms")) is not None]
        off = max(offsets, key=abs, default=0)
        if abs(off) > SKEW_MS:
            found.append(
                Finding(
                    "node clock",
                    "warning",
                    f"that of {node.get('host')} (node {node.get('id')}) is {abs(off) / 1000:.1f} s "
                    f"{'ahead of' if off > 0 else 'behind'} the server's",
                    "set it by NTP; tasks are in time all the same, for only the server's clock decides, but what the "
                    "node logs is not",
                )
            )
    return found


def of_numbers(client: RestClient) -> list[Finding]:
    """Findings from the node's counters."""
    try:
        numbers = read_metrics(client)
    except NodeRefused as error:
        return [Finding("tasks", "skipped", f"/metrics answers {error.status}")]
    counts = {name: numbers.get(f"{name}_tasks") for name in ("pending", "ready", "in_flight", "dead", "quarantined")}
    about = " (pending and ready are estimates)" if numbers.get("task_counts_estimated") else ""
    text = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()) + about
    found = [Finding("tasks", "ok", text)]
    if not numbers.get("store_up"):
        # Its numbers of tasks are then of an earlier moment, or none.
        found = [Finding("tasks", "skipped", "the store did not answer the node that was asked for its numbers")]
        counts = dict.fromkeys(counts, 0)
    if counts["quarantined"]:
        found.append(
            Finding(
                "quarantine",
                "problem",
                f"{_count(counts['quarantined'], 'record')} could not be read",
                "`delaybox quarantine list` shows them; a newer version may have written them",
            )
        )
    if counts["dead"]:
        found.append(
            Finding(
                "dead",
                "warning",
                _count(counts["dead"], "dead letter"),
                "`delaybox dead list` says why; replay or discard them",
            )
        )
    if missed := numbers.get("published_without_listeners_total"):
        found.append(
            Finding(
                "listeners",
                "warning",
                f"{_count(missed, 'message')} went out while nobody subscribed",
                "start the subscriber first, or set pubsub.require_subscriber",
            )
        )
    late = late_ms(numbers, 0.99)
    if late is not None:
        slow = late > LATE_MS
        found.append(
            Finding(
                "lateness",
                "warning" if slow else "ok",
                f"99 of 100 fired at most {shown_ms(late)} late",
                "counts what was overdue at a start as well; else see ready tasks and the machine's load"
                if slow
                else "",
            )
        )
    return found
