"""An order that is dropped when it is not paid in time. Paying cancels the time-out.

    python3 order_timeout.py place 4711 --timeout 15m
    python3 order_timeout.py pay 4711
    python3 order_timeout.py show
    python3 order_timeout.py receive

The node calls `receive` when a time-out is due: a webhook. Start both with the same secret in DELAYBOX_WEBHOOKS_SECRET
(`whsec_$(openssl rand -base64 32)`), and the node with `--set webhooks.enabled=true --set webhooks.allow=127.0.0.1`.

It stays right when the node is killed at any moment, when it is away while somebody pays, when the receiver is away,
and when a call comes twice, by three habits: the order's own record decides and not the task, every POST has an
idempotency key, and what the receiver does can be done twice. A call that gets no answer is tried again, and in the end
kept among the dead letters.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rest import NoAnswer, Refused, call

from delaybox import webhook

FILE = os.environ.get("ORDERS_DB", "orders.db")
URL = os.environ.get("ORDERS_URL", "http://127.0.0.1:8099/order-timeout")
SECRET = os.environ.get("DELAYBOX_WEBHOOKS_SECRET", "")


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
        "type": "http",
        "url": URL,
        "delay": timeout,
        "payload_json": {"order": order},
        "retry": {"max_attempts": 20},
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


def drop(order: str) -> str:
    """Drops an order that is still unpaid."""
    with orders() as database:
        # One statement decides between this and a payment in the same instant. The order is named by the payload:
        # the process that placed it may have died before it wrote the task's id down.
        dropped = database.execute(
            "UPDATE orders SET state = 'dropped' WHERE id = ? AND state = 'unpaid'", (order,)
        ).rowcount
    return "dropped, it was not paid in time" if dropped else "nothing to do"


class Receiver(BaseHTTPRequestHandler):
    """Answers the node's calls. Whatever is no 2xx makes the node call again later."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            webhook.verify(body, dict(self.headers.items()), SECRET)
        except webhook.NotVerified as error:
            print(f"refused: {error}", flush=True)
            return self.answer(401)
        order = json.loads(body)["order"]
        print(f"order {order}: {drop(order)}", flush=True)
        return self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *what: object) -> None:
        """What is worth knowing is printed above."""


def receive(port: int) -> None:
    """Drops the orders whose time-outs come and that are still unpaid."""
    if not SECRET:
        raise SystemExit("set DELAYBOX_WEBHOOKS_SECRET, as for the node: whsec_$(openssl rand -base64 32)")
    with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        print(f"listening on http://127.0.0.1:{server.server_address[1]}/order-timeout", flush=True)
        server.serve_forever()


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
    commands.add_parser("receive", help="act on the node's calls").add_argument("--port", type=int, default=8099)
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
                receive(asked.port)
    except (NoAnswer, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
