"""URLs that asked for a wait (Retry-After): no other webhook goes there meanwhile, and the first one afterwards alone.

Many receivers count what they refuse as well, and some shut out who goes on. Pure: the time is an argument.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from delaybox.core.webhook import Url

LONGEST_S: Final = 60.0
"""For so long at most the others wait; the task whose answer asked waits as long as was asked."""
AGAIN_S: Final = 1.0
"""When others come again while the first one after a wait is under way."""
_SOONEST_S: Final = 0.1
_IN_VAIN_A_SECOND: Final = 1_000
"""Where very many wait they come later, so that hardly more than these are handed out in vain."""
_MOST: Final = 10_000
"""URLs that are remembered, about 200 bytes each; of more the first that asked are forgotten."""


class _Wait:
    __slots__ = ("asking", "delay_ms", "lease_id", "put_off", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.asking: bytes | None = None
        """Its time is over, and this task has gone to see whether more may."""
        self.put_off = 0
        """How many were since then, or since it began."""
        self.lease_id = b""
        """Of the last one that was."""
        self.delay_ms = 0


class Waits:
    """By URL without its query: a host may limit each of its receivers on its own."""

    def __init__(self) -> None:
        self._by_url: OrderedDict[int, _Wait] = OrderedDict()

    def put_off_ms(self, url: Url, now: float, lease_id: bytes, task_id: bytes) -> int:
        """For how long a webhook is put off; 0: it may go, and `ended` is called after it. Whoever had to stand in a
        line asks again when its turn comes.

        All that one claim took are put off for the same time, so that one script hands them back; those of others for
        other times, so that not all come again at the same moment.
        """
        if not self._by_url or (wait := self._by_url.get(_key(url))) is None:
            return 0
        if now >= wait.until and wait.asking is None:
            wait.asking, wait.put_off, wait.lease_id = task_id, 0, b""
        if wait.asking == task_id:
            return 0
        wait.put_off += 1
        if wait.lease_id != lease_id:
            soonest = AGAIN_S if wait.asking is not None else max(wait.until - now, _SOONEST_S)
            least = max(soonest, min(wait.put_off / _IN_VAIN_A_SECOND, LONGEST_S))
            wait.lease_id, wait.delay_ms = lease_id, math.ceil(least * (1_000 + 4 * lease_id[-1]))
        return wait.delay_ms

    def asked(self, url: Url, now: float, wait_s: float) -> None:
        """An answer asked for a wait."""
        if wait_s <= 0:
            return
        key, until = _key(url), now + min(wait_s, LONGEST_S)
        if (wait := self._by_url.get(key)) is not None:
            wait.until, wait.asking, wait.lease_id = until, None, b""
        else:
            self._by_url[key] = _Wait(until)
        self._by_url.move_to_end(key)
        if len(self._by_url) > _MOST:
            self._by_url.popitem(last=False)

    def ended(self, url: Url, task_id: bytes) -> None:
        """One that might go is over, however it ended."""
        if self._by_url and (wait := self._by_url.get(key := _key(url))) is not None and wait.asking == task_id:
            del self._by_url[key]


def _key(url: Url) -> int:
    """A number in place of a path that may be long. Two with the same number would wait for each other, a minute at
    most."""
    return hash((url.scheme, url.host, url.port, url.path.partition("?")[0]))
