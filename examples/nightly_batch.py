"""A nightly batch, spread evenly over an hour, so that neither the node nor who does the work sees a burst.

    python3 nightly_batch.py customers.txt                     # tomorrow night from 02:00, over an hour
    python3 nightly_batch.py customers.txt --start 2030-01-31T02:00:00+01:00 --over 3600
    delaybox forecast --next 24h                               # see it coming

A line of the file is a customer. Run it twice, or again after it was cut off: no task is stored twice.
The work itself is a subscriber's, as in reminder_emails.py, or a shell worker's: `--command nightly-report` names a
command of the configuration (docs/shell.md), which gets the customer on its standard input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rest import NoAnswer, Refused, call

AT_ONCE = 1_000
"""Tasks in one request: few enough that it answers in milliseconds, enough that there are few requests."""


def tasks(customers: Sequence[str], start: datetime, over: timedelta, command: str | None) -> list[dict[str, Any]]:
    """One task a customer, at even steps from ``start`` on."""
    night = start.date().isoformat()
    kind = {"type": "shell", "name": command} if command else {"type": "pub_sub", "headers": {"kind": "nightly"}}
    return [
        {
            **kind,
            # From the start and the number alone, so a second run says the same time: a key stands for one task, and
            # the same key with another task is refused.
            "at": (start + over * number / len(customers)).isoformat(timespec="milliseconds"),
            "payload": customer,
            "queue": "nightly",
            "priority": "low",  # when a backlog forms, what people wait for goes first
            "expire_after": "6h",  # after a long outage the nightly work must not run in the middle of the day
            "labels": {"night": night},
            "idempotency_key": f"nightly-{night}-{customer}",
        }
        for number, customer in enumerate(customers)
    ]


def schedule(batch: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """How many were created, were there already, and were refused. Every task of a request has its own answer."""
    created = known = refused = 0
    for first in range(0, len(batch), AT_ONCE):
        part = batch[first : first + AT_ONCE]
        answer = call("POST", "/v1/tasks/batch", {"tasks": part})
        created += answer["created"]
        known += answer["duplicates"]
        for task, item in zip(part, answer["items"], strict=True):
            if item["status"] >= 400:
                refused += 1
                print(f"{task['payload']}: {item['error']['detail']}", file=sys.stderr)
    return created, known, refused


def next_night() -> datetime:
    """02:00 tomorrow, in this machine's zone."""
    return (datetime.now().astimezone() + timedelta(days=1)).replace(hour=2, minute=0, second=0, microsecond=0)


def main() -> int:
    parser = argparse.ArgumentParser(description="A nightly batch with DelayBox, spread over an hour")
    parser.add_argument("customers", type=Path, help="a file with a customer a line")
    parser.add_argument("--start", type=datetime.fromisoformat, help="with an offset; default: 02:00 tomorrow")
    parser.add_argument("--over", type=float, default=3600.0, metavar="SECONDS", help="default: an hour")
    parser.add_argument("--command", help="a named command of the shell workers; default: publish")
    asked = parser.parse_args()
    start = asked.start or next_night()
    if start.tzinfo is None:
        parser.error("--start needs an offset, such as 2030-01-31T02:00:00+01:00")
    # The same customer twice would be one key with two times.
    customers = list(dict.fromkeys(line.strip() for line in asked.customers.read_text().splitlines() if line.strip()))
    try:
        created, known, refused = schedule(tasks(customers, start, timedelta(seconds=asked.over), asked.command))
    except (NoAnswer, Refused) as error:
        print(f"{error}\nRun the same again: what is stored is not stored twice.", file=sys.stderr)
        return 1
    print(
        f"{created} scheduled, {known} were already, {refused} refused; from {start.isoformat()} over {asked.over:g} s"
    )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
