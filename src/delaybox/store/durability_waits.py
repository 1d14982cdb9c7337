"""Waits until writes are on the server's disk, and have reached its replicas, before their callers are answered.

Behind the scripts of a round trip, on the same connection, stand one small write and then WAIT or WAITAOF, once for
all of them. The small write is there because a repeated command may find all done and write nothing: on a connection
without a write WAIT answers at once, however far behind the replicas are (as Valkey 9.1 does).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.errors import Unconfirmed
from delaybox.store import keys

CONFIRMED: Final = frozenset(
    ("schedule", "replace", "cancel", "reschedule", "update", "replay", "restore", "rules", "import")
)
"""The scripts that a caller's answer depends on. What the engine writes is not waited for: a claim or an end that is
lost means that a task runs again. Nor is `ingest`, whose watermark would be lost with the tasks and read again."""

_MARK: Final = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '1', 'EX', 60)"

_Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


class Confirmation:
    """What is waited for. ``waitaof``: whether the server can be asked to wait for its disk; one that has no WAITAOF
    must sync before it answers."""

    def __init__(self, durability: Durability, *, waitaof: bool = True) -> None:
        self._replicas = durability.replicas if durability.mode is DurabilityMode.STRICT else 0
        self._within_ms = durability.within_ms
        self._waits: list[tuple[Any, ...]] = []
        if self._replicas:
            self._waits.append(("WAIT", self._replicas, self._within_ms))
        elif waitaof:
            self._waits.append(("WAITAOF", 1, 0, self._within_ms))

    async def send(self, send: _Send, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to scripts that all lie at the server of ``send``; `Unconfirmed` in place of each that was
        carried out and is not confirmed."""
        if not self._waits:
            return await send(commands)
        # One is enough, but a slot may have just left this server.
        tags = dict.fromkeys((commands[0][3], commands[-1][3]))
        marks = [("EVAL", _MARK, 1, keys.confirm(tag)) for tag in tags]
        found = await send([*commands, *marks, *self._waits])
        replies, marked = found[: len(commands)], found[len(commands) : len(commands) + len(marks)]
        failed = self._shortfall(marked, found[len(commands) + len(marks) :])
        if not failed:
            return replies
        # Imported late: a node must first set the folder of its counters, which prometheus-client reads when it is
        # imported.
        from delaybox import metrics

        metrics.unconfirmed(sum(not isinstance(reply, BaseException) for reply in replies))
        return [reply if isinstance(reply, BaseException) else _unconfirmed(failed) for reply in replies]

    def _shortfall(self, marked: Sequence[Any], waits: Sequence[Any]) -> str:
        """Why the writes are not confirmed; '' when they are."""
        errors = [reply for reply in waits if isinstance(reply, BaseException)]
        if all(isinstance(reply, BaseException) for reply in marked):
            errors += marked
        if errors:
            return f"the server answered {str(errors[0]).rstrip('.')!r}"
        if self._replicas:
            if waits[0] < self._replicas:
                found = f"{waits[0]} of {self._replicas} replica{'' if self._replicas == 1 else 's'}"
                return f"{found} had it within {self._within_ms} ms"
        elif waits[0][0] < 1:
            return f"the server's disk did not have it within {self._within_ms} ms"
        return ""


def _unconfirmed(why: str) -> Unconfirmed:
    error = Unconfirmed(
        f"this is stored here, but not confirmed: {why}. Send it again with the same idempotency key, until it is "
        "confirmed; without a key a new task may be stored twice"
    )
    error.why = why
    return error
