"""How the examples talk to a node: plain HTTP, the standard library and nothing else."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

SERVER = os.environ.get("DELAYBOX_SERVER", "http://127.0.0.1:8088")
TOKEN = os.environ.get("DELAYBOX_TOKEN", "")


class NoAnswer(Exception):
    """The node is away, starting or overloaded. Whether it did what was asked is not known."""


class Refused(Exception):
    """The node said no. ``status`` and ``code`` tell why, the text tells people."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status = status
        self.code = problem.get("code")


def call(method: str, path: str, body: Any = None, *, patience_s: float = 30.0) -> Any:
    """The answer's JSON (None where it has none). Refused, or NoAnswer after ``patience_s``.

    What may be gone by tomorrow is asked again: a node that was killed is back in a few seconds, and 429 and 503 mean
    "later". Asking twice does no harm only because every POST of the examples carries an idempotency key.
    """
    give_up = time.monotonic() + patience_s
    pause = 0.2
    while True:
        try:
            return _once(method, path, body)
        except (OSError, NoAnswer) as error:
            if time.monotonic() + pause > give_up:
                raise NoAnswer(f"{SERVER}: {error}") from None
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def _once(method: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(SERVER + path, method=method)  # SERVER is the user's own setting
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (429, 503):
            raise NoAnswer(f"answered {error.code}") from None
        raw = error.read()
        problem = json.loads(raw) if b"json" in error.headers.get("Content-Type", "").encode() else {}
        raise Refused(error.code, problem) from None
    return json.loads(text) if text else None
