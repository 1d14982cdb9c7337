"""What a request is refused with before the service is called."""

from __future__ import annotations

CLOSE = ((b"connection", b"close"),)
"""Headers of a refusal after which the connection ends, because the rest of the request is not read."""


class Refusal(Exception):
    """An error answer that is decided before the service is called."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def shown(raw: bytes) -> str:
    """What a caller sent, as a refusal names it."""
    text = raw.decode("latin-1")
    return repr(text if len(text) <= 60 else text[:57] + "...")
