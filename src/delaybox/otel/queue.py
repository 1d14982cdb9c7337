"""What waits to be sent to a collector: bounded, and dropped rather than waited for."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

log = logging.getLogger("delaybox.otel")

Item = TypeVar("Item")

MOST: Final = 8_192
"""Items that wait; further ones are dropped."""
AT_ONCE: Final = 512
PAUSE_S: Final = 1.0
THREADS: Final = "delaybox-otel-"
"""How the names of the threads begin that send. What they log is about the sending, so it must not be sent."""


class SendQueue(Generic[Item]):
    """Sends batches on a thread of its own. ``send`` answers whether the collector took them; it may block.

    ``dropped`` is called with how many were not sent: there was no room, or the collector did not take them. The first
    time that it takes none a warning is logged, with what ``why`` returns then. It is asked after each batch.
    ``keep_newest``: where there is no room, the oldest that waits is dropped, not what comes.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Item]], bool],
        dropped: Callable[[int], None],
        *,
        most: int = MOST,
        pause_s: float = PAUSE_S,
        why: Callable[[], str] = lambda: "",
        keep_newest: bool = False,
    ) -> None:
        self._name = name
        self._send = send
        self._dropped = dropped
        self._most = most
        self._pause_s = pause_s
        self._why = why
        self._keep_newest = keep_newest
        self._refused = False
        self._waiting: deque[Item] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"{THREADS}{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Any thread may call it; it never waits."""
        waiting = self._waiting
        if len(waiting) >= self._most:
            self._dropped(1)
            if not self._keep_newest:
                return
            with contextlib.suppress(IndexError):  # it has just been taken
                waiting.popleft()
        waiting.append(item)
        if len(waiting) >= AT_ONCE:
            self._wake.set()

    def end(self, within_s: float) -> None:
        """Sends what waits, as far as that time allows. Twice is harmless."""
        self._ending = True
        self._wake.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._pause_s)
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    taken = self._send(batch)
                    why = self._why()
                except Exception as error:  # noqa: BLE001 - whatever a collector answers, this thread goes on
                    taken, why = False, f"{type(error).__name__}: {error}"
                if not taken:
                    self._dropped(len(batch))
                self._report(taken, why)
            if self._ending:
                return

    def _report(self, taken: bool, why: str) -> None:
        """Logs when the collector begins to refuse, and when it takes again."""
        if taken is not self._refused:
            return
        self._refused = not taken
        if taken:
            log.info("the collector takes %s again", self._name)
        else:
            log.warning(
                "the collector takes no %s, which are dropped, and counted in delaybox_otel_dropped_items_total, until "
                "it does%s",
                self._name,
                f": {why}" if why else "",
            )
