"""Reminder e-mails: scheduled by one POST, sent by a subscriber when they are due.

    python3 reminder_emails.py remind ann@example.com "Your appointment is tomorrow at 9" --at 2030-01-31T09:00:00+01:00
    python3 reminder_emails.py remind bob@example.com "Stand up and stretch" --delay 15m
    delaybox listen --json | python3 reminder_emails.py send --outbox outbox

`send` writes each e-mail as a file, to be looked at; with --smtp HOST it goes to a mail server. A reminder that nobody
was subscribed for is gone: start the node with `--set pubsub.require_subscriber=true` and it is tried again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import smtplib
import sys
import uuid
from email.message import EmailMessage
from pathlib import Path

from rest import NoAnswer, Refused, call

SENDER = "reminders@example.com"


def remind(to: str, text: str, *, at: str | None, delay: str | None) -> str:
    """Schedules the reminder and returns its task's id. The same reminder for the same moment is the same task."""
    # A caller that got no answer asks again, and a user clicks twice: neither may send two e-mails. With a delay only
    # the first is prevented: "in 15 minutes", said an hour later, is another reminder.
    key = hashlib.sha256(json.dumps([to, text, at]).encode()).hexdigest() if at else str(uuid.uuid4())
    task = {
        **({"at": at} if at else {"delay": delay}),
        "payload_json": {"to": to, "text": text},
        "headers": {"kind": "reminder"},  # the channel carries all tasks; subscribers pick theirs by this
        "queue": "mail",
        "labels": {"to": to},  # so that `delaybox list --label to=ann@example.com` finds them
        "idempotency_key": f"reminder-{key}",
    }
    return str(call("POST", "/v1/tasks", task)["id"])


def send(outbox: Path | None, smtp: str | None) -> None:
    """Sends what arrives on standard input, one JSON object a line, until that ends."""
    sent: set[str] = set()
    for line in sys.stdin:
        task = json.loads(line)
        if task["parameter"].get("kind") != "reminder":
            continue
        # A task can arrive twice, when a node dies in the middle of delivering it; its id stays the same. A sender
        # that must remember over its own restarts keeps the ids in its database.
        if task["taskUuid"] in sent:
            continue
        deliver(task["taskUuid"], json.loads(base64.b64decode(task["pyload"])), outbox, smtp)
        sent.add(task["taskUuid"])


def deliver(task_id: str, reminder: dict[str, str], outbox: Path | None, smtp: str | None) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, reminder["to"], "A reminder"
    message["Message-ID"] = f"<{task_id}@example.com>"  # mail servers drop a second copy by this as well
    message.set_content(reminder["text"])
    if smtp:
        with smtplib.SMTP(smtp, timeout=30) as server:
            server.send_message(message)
    if outbox:
        outbox.mkdir(parents=True, exist_ok=True)
        (outbox / f"{task_id}.eml").write_bytes(bytes(message))
    print(f"sent to {reminder['to']}: {reminder['text']}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Reminder e-mails with DelayBox")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("remind", help="schedule a reminder")
    new.add_argument("to")
    new.add_argument("text")
    when = new.add_mutually_exclusive_group(required=True)
    when.add_argument("--at", help="RFC 3339 with an offset")
    when.add_argument("--delay", help="such as 15m")
    sender = commands.add_parser("send", help="send what `delaybox listen --json` pipes in")
    sender.add_argument("--outbox", type=Path, help="write e-mails into this folder")
    sender.add_argument("--smtp", metavar="HOST", help="send them by this server")
    asked = parser.parse_args()
    try:
        if asked.command == "remind":
            print(remind(asked.to, asked.text, at=asked.at, delay=asked.delay))
        else:
            send(asked.outbox, asked.smtp)
    except (NoAnswer, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
