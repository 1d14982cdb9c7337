"""What a node's metrics say of the hosts to which it sends webhooks. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ANSWERS: Final = ("2xx", "3xx", "4xx", "5xx", "no_answer", "refused")
_LINE = re.compile(r'delaybox_webhook_(\w+)\{((?:\w+="[^"]*",?)+)\} ([^ ]+)')
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class WebhookHost:
    """``host``: scheme, name and port. ``answers``: how many of each class. ``took_ms``, ``late_ms``: means; None where
    nothing was measured. ``left_alone``: only probes are sent, because it does not answer; ``waiting``: so many tasks
    wait for it meanwhile."""

    host: str
    answers: dict[str, int]
    took_ms: float | None
    late_ms: float | None
    left_alone: bool
    waiting: int = 0


def hosts_of(text: str) -> list[WebhookHost]:
    """The hosts in Prometheus's text, those with the most requests first."""
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
        WebhookHost(
            host,
            {name: int(of[name]) for name in ANSWERS if of.get(name)},
            _mean_ms(of, "host_seconds"),
            _mean_ms(of, "host_lateness_seconds"),
            of.get("host_closed", 0) > 0,
            int(of.get("host_waiting_tasks", 0)),
        )
        for host, of in values.items()
    ]
    return sorted(found, key=lambda one: (-sum(one.answers.values()), one.host))


def _mean_ms(of: dict[str, float], name: str) -> float | None:
    count = of.get(f"{name}_count", 0)
    return round(of.get(f"{name}_sum", 0) / count * 1_000, 1) if count else None
