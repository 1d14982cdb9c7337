"""Calls of HTTP ports that are more than REST."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def called(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of an answer. OSError where nobody answers."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
