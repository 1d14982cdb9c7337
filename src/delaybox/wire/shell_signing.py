"""The signature of shell tasks that go through a topic: without it, whoever may write to the topic could run commands.

HMAC-SHA256 with a key that the nodes share. It covers the topic, the headers in `COVERED` and the value, which holds
the command, its name, its time-out and the task's id: nothing of it can be changed or put under another task's id.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final

MIN_KEY: Final = 32
"""Least length of a key in characters. A key of `openssl rand -hex 32` has 64."""
SIGNATURE: Final = "delaybox-signature"
TASK_ID: Final = "delaybox-task-id"
ATTEMPT: Final = "delaybox-attempt"
DUE: Final = "delaybox-due"
FENCING: Final = "delaybox-fencing"
TYPE: Final = "delaybox-task-type"
"""The header by which a node marks the type of a message that it sends; callers cannot write it."""
COST: Final = "delaybox-cost"
"""In the header of the task itself: how many places it takes, where that is not 1."""
COVERED: Final = (TASK_ID, ATTEMPT, DUE, FENCING, TYPE)

_CONTEXT: Final = b"delaybox shell task 1"
_FORM: Final = b"v1="


class Signing:
    """Signs with the first of the keys and takes the signature of any of them, so that keys can be replaced."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def sign(self, topic: str, headers: Mapping[str, bytes], value: bytes) -> bytes:
        """The signature header's value. There must be a key."""
        return _digest(self._keys[0], topic, headers, value)

    def holds(self, signature: bytes, topic: str, headers: Mapping[str, bytes], value: bytes) -> bool:
        """Whether one of the keys made this signature for just this message."""
        found = False
        for key in self._keys:
            found |= hmac.compare_digest(_digest(key, topic, headers, value), signature)
        return found


def _digest(key: bytes, topic: str, headers: Mapping[str, bytes], value: bytes) -> bytes:
    parts = [_CONTEXT, topic.encode(), *(headers.get(name, b"") for name in COVERED), value]
    # Each part stands behind its length, so that no bytes can be moved from one part to the next.
    whole = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return _FORM + hmac.digest(key, whole, "sha256").hex().encode()
