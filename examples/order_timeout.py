"""An order that is dropped when it is not paid in time. Paying cancels the time-out.

    python3 order_timeout.py place 4711 --timeout 15m
    python3 order_timeout.py pay 4711
    python3 order_timeout.py show
    delaybox listen --json | python3 order_timeout.py watch

It stays right when the node is killed at any moment, when it is away while somebody pays, and when a message comes
twice, by three habits: the order's own record decides and not the task, every POST has an idempotency key, and what
the watcher does can be done twice. Start the node with `--set pubsub.require_subscriber=true`: a time-out that comes
while no watcher is connected is then tried again, and in the end kept among the dead letters.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator

from rest import NoAnswer, Refused, call

FILE = os.environ.get("ORDERS_DB", "orders.db")


@contextlib.contextmanager
def orders() -> Iterator[sqlite3.Connection]:
    """The shop's database; what is done in it is committed at the end."""
    database = sqlite3.connect(FILE)
    try:
        with database:
            database.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, state TEXT, task TEXT)")
            yield database
    finally:
        database.close()


def place(order: str, timeout: str) -> None:
    with orders() as database:
        database.execute("INSERT OR IGNORE INTO orders VALUES (?, 'unpaid', '')", (order,))
    # The key makes this safe to run again, and `call` does: when a node dies after it stored the task and before it
    # answered, the second try gets the first one's task, with the time that was counted from the first try.
    task = {
        "delay": timeout,
        "payload_json": {"order": order},
        "headers": {"kind": "order-timeout"},
        "queue": "orders",
        "labels": {"order": order},
        "idempotency_key": f"order-{order}-timeout",
    }
    task_id = call("POST", "/v1/tasks", task)["id"]
    with orders() as database:
        database.execute("UPDATE orders SET task = ? WHERE id = ?", (task_id, order))
    print(f"order {order}: unpaid, time-out {task_id}")


def pay(order: str) -> None:
    # First our own record: from here on the time-out finds nothing to do, whenever and how often it comes.
    with orders() as database:
        paid = database.execute("UPDATE orders SET state = 'paid' WHERE id = ? AND state = 'unpaid'", (order,)).rowcount
        row = database.execute("SELECT state, task FROM orders WHERE id = ?", (order,)).fetchone()
    if row is None or row[0] != "paid":
        raise SystemExit(f"order {order}: {'there is none' if row is None else 'dropped, too late to pay'}")
    print(f"order {order}: paid{'' if paid else ' already'}, {cancel(row[1])}", flush=True)


def cancel(task_id: str) -> str:
    """Cancels the time-out, which only saves it from firing for nothing."""
    try:
        call("DELETE", f"/v1/tasks/{task_id}", patience_s=2)
    except NoAnswer:
        return "the node is away; the time-out will find it paid"
    except Refused as refusal:
        if refusal.status not in (404, 409, 410):  # it has been cancelled, is being delivered, or has been
            raise
        return "the time-out was gone"
    return "time-out cancelled"


def watch() -> None:
    """Drops the orders whose time-outs arrive on standard input and that are still unpaid."""
    for line in sys.stdin:
        task = json.loads(line)
        if task["parameter"].get("kind") != "order-timeout":
            continue
        order = json.loads(base64.b64decode(task["pyload"]))["order"]
        with orders() as database:
            # One statement decides between this and a payment in the same instant. The order is named by the payload:
            # the process that placed it may have died before it wrote the task's id down.
            dropped = database.execute(
                "UPDATE orders SET state = 'dropped' WHERE id = ? AND state = 'unpaid'", (order,)
            ).rowcount
        print(f"order {order}: {'dropped, it was not paid in time' if dropped else 'nothing to do'}", flush=True)


def show() -> None:
    with orders() as database:
        for order, state in database.execute("SELECT id, state FROM orders ORDER BY id"):
            print(f"{order} {state}")


def main() -> int:
    parser = argparse.ArgumentParser(description="An order's time-out with DelayBox")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("place", help="a new order")
    new.add_argument("order")
    new.add_argument("--timeout", default="15m", help="how long it may stay unpaid")
    commands.add_parser("pay", help="pay an order").add_argument("order")
    commands.add_parser("show", help="all orders")
    commands.add_parser("watch", help="act on what `delaybox listen --json` pipes in")
    asked = parser.parse_args()
    try:
        match asked.command:
            case "place":
                place(asked.order, asked.timeout)
            case "pay":
                pay(asked.order)
            case "show":
                show()
            case _:
                watch()
    except (NoAnswer, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
