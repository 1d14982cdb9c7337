"""What waits to be sent to a collector: bounded, and dropped rather than waited for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

MOST: Final = 8_192
"""Items that wait; further ones are dropped."""
AT_ONCE: Final = 512
PAUSE_S: Final = 1.0


class SendQueue(Generic[Item]):
    """Sends batches on a thread of its own. ``send`` answers whether the collector took them; it may block.

    ``dropped`` is called with how many were not sent: there was no room, or the collector did not take them.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Item]], bool],
        dropped: Callable[[int], None],
        *,
        most: int = MOST,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._send = send
        self._dropped = dropped
        self._most = most
        self._pause_s = pause_s
        self._waiting: deque[Item] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"delaybox-otel-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Any thread may call it; it never waits."""
        waiting = self._waiting
        if len(waiting) >= self._most:
            self._dropped(1)
            return
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
                except Exception:  # noqa: BLE001 - whatever a collector answers, this thread goes on
                    taken = False
                if not taken:
                    self._dropped(len(batch))
            if self._ending:
                return
