"""Collects why attempts failed, as one process sees it: nothing waits for it, and nothing depends on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from delaybox.core.delivery import Delivery, Failed
from delaybox.core.history import HistoryRules
from delaybox.core.limits import TRACEBACK_BYTES
from delaybox.core.task import FailedAttempt
from delaybox.store import failures
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

BURST: Final = 500
A_SECOND: Final = 300
"""Failures that a process notes at once, and in a second for longer; of more at a time no reason is kept."""
MOST_WAITING: Final = 2_000
"""Failures that wait to be written while the store does not answer."""


class FailureNotes:
    """``node``: the member that carries tasks out here. With rules that keep none every call returns at once."""

    def __init__(self, store: Store, rules: HistoryRules, node: str) -> None:
        self._store = store
        self._rules = rules
        self._node = node
        self._keeps = rules.keep_ms > 0 and rules.failures > 0
        self._waiting: dict[int, list[tuple[bytes, bytes]]] = {}
        self._count = 0
        self._tokens = float(BURST)
        self._filled_at = time.monotonic()

    def note(self, d: Delivery, failed: Failed, now_ms: int) -> None:
        """Notes why a delivery failed; never blocks. Of a command what it printed stands for the traceback."""
        if not self._keeps or self._count >= MOST_WAITING or not self._allowed():
            return
        self._count += 1
        traceback = failed.traceback
        if not traceback and failed.result is not None:
            traceback = failed.result.output[-TRACEBACK_BYTES:].decode("utf-8", "replace")
        one = FailedAttempt(
            attempt=d.attempt + 1,
            fired_ms=d.fired_ms,
            failed_ms=now_ms,
            node=self._node,
            reason=failed.reason,
            traceback=traceback,
        )
        self._waiting.setdefault(d.partition, []).append((d.task_id, failures.failure(d.token, one)))

    def _allowed(self) -> bool:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * A_SECOND)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def waiting(self) -> bool:
        """Whether something is noted and not written."""
        return bool(self._waiting)

    def calls(self) -> Iterator[ScriptCall]:
        """What writes down all that was noted since the last time."""
        waiting, self._waiting = self._waiting, {}
        self._count = 0
        for partition, noted in waiting.items():
            for at in range(0, len(noted), failures.MOST_EXPLAINED):
                some = noted[at : at + failures.MOST_EXPLAINED]
                yield failures.remember_call(self._store, partition, self._rules, some)
