"""Calls of HTTP ports that are more than REST."""

from __future__ import annotations

import urllib.error
import urllib.request


def called(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of an answer. OSError where nobody answers."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
