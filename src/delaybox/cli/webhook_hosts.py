"""What a node's /metrics say of the hosts to which it sends webhooks. `facts` and `table` are pure."""

from __future__ import annotations

import re
from typing import Any, Final

from delaybox.cli import render
from delaybox.cli.client import RestClient

ANSWERS: Final = ("2xx", "3xx", "4xx", "5xx", "no_answer", "refused")
_LINE = re.compile(r'delaybox_webhook_(\w+)\{((?:\w+="[^"]*",?)+)\} ([^ ]+)')
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def read(client: RestClient) -> str:
    """The node's metrics as text. Unreachable, Refused."""
    answer = client.probe("/metrics")
    if answer.status != 200:
        raise client.refusal(answer)
    return answer.body.decode("utf-8", "replace")


def facts(text: str) -> list[dict[str, Any]]:
    """The hosts, those with the most requests first: answers by class, means in ms, and whether it is left alone.

    From Prometheus's text. A mean is None where nothing was measured.
    """
    values: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        labels: dict[str, str] = dict(_LABEL.findall(match[2]))
        host = values.setdefault(labels.get("host", ""), {})
        name = labels.get("answer") or str(match[1])
        host[name] = host.get(name, 0.0) + float(match[3])
    values.pop("", None)
    found = [
        {
            "host": host,
            "answers": {name: int(of[name]) for name in ANSWERS if of.get(name)},
            "took_ms": _mean_ms(of, "host_seconds"),
            "late_ms": _mean_ms(of, "host_lateness_seconds"),
            "left_alone": of.get("host_closed", 0) > 0,
        }
        for host, of in values.items()
    ]
    return sorted(found, key=lambda one: (-sum(one["answers"].values()), one["host"]))


def _mean_ms(of: dict[str, float], name: str) -> float | None:
    count = of.get(f"{name}_count", 0)
    return round(of.get(f"{name}_sum", 0) / count * 1_000, 1) if count else None


def table(found: list[dict[str, Any]], width: int = 0) -> str:
    """One host a line."""
    header = ["host", *(name.replace("_", " ") for name in ANSWERS), "took", "late", ""]
    rows = [
        [
            one["host"],
            *(f"{one['answers'].get(name, 0):,}" for name in ANSWERS),
            _ms(one["took_ms"]),
            _ms(one["late_ms"]),
            "left alone: it does not answer" if one["left_alone"] else "",
        ]
        for one in found
    ]
    return render.table(header, rows, right=range(1, len(header) - 1), width=width)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms"
