"""`delaybox webhook hosts`: the hosts to which a node sends webhooks, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from delaybox.cli import render
from delaybox.cli.client import RestClient
from delaybox.wire.webhook_hosts import ANSWERS, WebhookHost, hosts_of


def read(client: RestClient) -> list[WebhookHost]:
    """The node's hosts. Unreachable, Refused."""
    return hosts_of(client.metrics())


def table(found: Sequence[WebhookHost], width: int = 0) -> str:
    """One host a line."""
    header = ["host", *(name.replace("_", " ") for name in ANSWERS), "took", "late", ""]
    rows = [
        [
            one.host,
            *(f"{one.answers.get(name, 0):,}" for name in ANSWERS),
            _ms(one.took_ms),
            _ms(one.late_ms),
            _standing(one),
        ]
        for one in found
    ]
    return render.table(header, rows, right=range(1, len(header) - 1), width=width)


def _standing(one: WebhookHost) -> str:
    waits = f"{one.waiting:,} {'task waits' if one.waiting == 1 else 'tasks wait'}" if one.waiting else ""
    return ", ".join(filter(None, ("left alone: it does not answer" if one.left_alone else "", waits)))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms"
