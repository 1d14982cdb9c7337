"""Tasks that wait in the store because their host does not answer: none is claimed again only to be handed back.

They are put off for longer than the host is left alone, and this process remembers which. At the end of each pause it
brings one of them back, which is the probe; when the host answers, all of them come, as fast as the host takes them.
A process that ends brings back what it remembers, for those that go on. What is not remembered, because the process was
killed or too many wait, comes by its own time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Final, NamedTuple

from delaybox.core.delivery import Delivery, HandBack
from delaybox.core.errors import DelayBoxError
from delaybox.targets import http_metrics
from delaybox.targets.http_hosts import FIRST_PAUSE_S, Host, spread_ms

log = logging.getLogger("delaybox.webhook")

Resume = Callable[[Mapping[int, Sequence[tuple[bytes, int]]]], Awaitable[int]]
"""Makes tasks due now that still wait for the moment until which they were put off: by partition (id, moment in Unix
ms). Answers how many did; DelayBoxError."""

MOST_REMEMBERED: Final = 50_000
"""Tasks of all hosts, about 200 bytes each."""
FOR_S: Final = 30.0
"""For so long to twice as long a task is put off: that is how late it comes where nobody brings it back."""
_LONGEST_S: Final = 120.0
_COME_BACK_A_SECOND: Final = 100
"""A host for which very many wait has them put off for longer, so that hardly more than these come back in vain."""
_STEP_S: Final = 0.25
"""So much work as a host does in this time is brought back at once."""
_UNSTORED_S: Final = 300.0
"""A hand-back of which nothing was learnt for so long is not remembered any more: its task came by its own time."""
_MOST_AT_ONCE: Final = 500
_TRIES: Final = 32
"""So often others are brought back where none of those still waited."""
_MOST_LEFT: Final = 3_000
"""A process that ends brings so many back: others may have to hand all of them back again."""
_LEAVE_S: Final = 0.5
"""How long that may take, because whoever ends the process does not wait longer."""


class _Task(NamedTuple):
    partition: int
    until_ms: int
    at: float
    once: bool


class _Waiting:
    """What waits for one host, the first that was put off first. ``stored``: see `HandBack.stored`."""

    __slots__ = (
        "asked",
        "asked_for",
        "bringing",
        "lease_id",
        "place",
        "stored",
        "storing",
        "tasks",
        "timer",
        "until_ms",
    )

    def __init__(self, place: str, stored: Callable[[_Waiting, bytes, bool], None]) -> None:
        self.place = place
        self.stored = partial(stored, self)
        self.storing: dict[bytes, _Task] = {}
        """Those whose hand-back is not stored yet, so that they cannot be brought back."""
        self.tasks: dict[bytes, _Task] = {}
        self.lease_id = b""
        """Of the last one that was put off."""
        self.until_ms = 0
        """Until when its lease's tasks are."""
        self.timer: asyncio.TimerHandle | None = None
        self.bringing: asyncio.Task[None] | None = None
        self.asked = 0
        """How many were brought back last for a probe that has not begun yet."""
        self.asked_for = 0.0
        """The end of the pause for which they were."""


class PutOff:
    """``resume``: brings tasks back; None: they come by their own time. ``most``: how many are remembered."""

    def __init__(self, resume: Resume | None = None, most: int = MOST_REMEMBERED) -> None:
        self.resume = resume
        self._most = most
        self._count = 0
        self._by_host: dict[Host, _Waiting] = {}

    async def leave(self) -> None:
        """This process takes nothing more: others get what it remembers, and learn by it which hosts do not answer.
        Then as `stop`."""
        by: defaultdict[int, list[tuple[bytes, int]]] = defaultdict(list)
        remembered = chain.from_iterable(waiting.tasks.items() for waiting in self._by_host.values())
        for task_id, task in islice(remembered, _MOST_LEFT):
            by[task.partition].append((task_id, task.until_ms))
        self.stop()
        if self.resume is None or not by:
            return
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self.resume(by)
        except (DelayBoxError, TimeoutError) as error:
            log.warning(
                "webhooks that wait for silent hosts come up to four minutes late: %s", str(error) or "no time left"
            )

    def stop(self) -> None:
        """Brings nothing back any more. Twice is harmless."""
        for waiting in self._by_host.values():
            if waiting.timer is not None:
                waiting.timer.cancel()
            if waiting.bringing is not None:
                waiting.bringing.cancel()
            self._forget_all(waiting)
        self._by_host.clear()

    def put_off(self, host: Host, place: str, d: Delivery, after_ms: int, now_ms: float) -> HandBack:
        """Hands a task back whose host does not answer, and remembers it. ``place``: the host, for metrics. ``now_ms``:
        by the clock of the task's server. ``after_ms``: when it comes again where nothing is brought back."""
        if self.resume is None:
            return HandBack(delay_ms=after_ms)
        now = asyncio.get_running_loop().time()
        waiting = self._by_host.get(host)
        if waiting is None:
            waiting = self._by_host[host] = _Waiting(place, partial(self._stored, host))
        if waiting.lease_id != d.lease_id:
            count = len(waiting.tasks) + len(waiting.storing)
            for_s = min(_LONGEST_S, max(FOR_S, count / _COME_BACK_A_SECOND))
            # The same for all of one claim, so that one script hands them back.
            waiting.lease_id, waiting.until_ms = d.lease_id, int(now_ms) + spread_ms(for_s)
        self._drop_old(waiting, now_ms)
        self._forget(waiting, d.task_id)
        remembered = self._count < self._most
        if remembered:
            waiting.storing[d.task_id] = _Task(d.partition, waiting.until_ms, now, d.once)
            self._count += 1
            http_metrics.waiting(place, 1)
        if waiting.timer is None and waiting.bringing is None:
            self.changed(host)
        return HandBack(until_ms=waiting.until_ms, stored=waiting.stored if remembered else None)

    def _stored(self, host: Host, waiting: _Waiting, task_id: bytes, stored: bool) -> None:
        """A task that was put off lies in the store now, or others have it."""
        task = waiting.storing.get(task_id)
        if task is None:
            return
        if not stored:
            self._forget(waiting, task_id)
            return
        del waiting.storing[task_id]
        waiting.tasks[task_id] = task
        if waiting.bringing is None and (waiting.timer is None or not host.closed):
            self.changed(host)

    def came(self, host: Host, task_id: bytes) -> None:
        """A task of the host came, by its own time or brought back."""
        if self._by_host and (waiting := self._by_host.get(host)) is not None:
            self._forget(waiting, task_id)

    def changed(self, host: Host) -> None:
        """The host answered, or a request to it got no answer."""
        waiting = self._by_host.get(host)
        if waiting is None or waiting.bringing is not None:
            return
        if not host.closed:
            waiting.asked = 0
            self._begin(host, waiting, self._bring_all)
        elif not host.probing and (waiting.timer is None or waiting.asked_for != host.closed_until):
            waiting.asked, waiting.asked_for = 0, host.closed_until
            self._ask_at(host, waiting, host.closed_until)

    def _ask_at(self, host: Host, waiting: _Waiting, at: float) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        waiting.timer = asyncio.get_running_loop().call_at(at, self._ask, host, waiting)

    def _ask(self, host: Host, waiting: _Waiting) -> None:
        """The pause is over: brings one back as the probe, and more where it does not come here, because others claim
        from its partition by now."""
        waiting.timer = None
        if self._by_host.get(host) is not waiting or waiting.bringing is not None or host.probing:
            return
        if not host.closed:
            self.changed(host)
        elif waiting.tasks:
            self._begin(host, waiting, self._bring_some)
        else:
            self._over(host, waiting)

    def _over(self, host: Host, waiting: _Waiting) -> None:
        """None is left that could be brought back."""
        oldest = asyncio.get_running_loop().time() - _UNSTORED_S
        for task_id in [task_id for task_id, task in waiting.storing.items() if task.at < oldest]:
            self._forget(waiting, task_id)
        if waiting.storing:
            self._ask_at(host, waiting, asyncio.get_running_loop().time() + FIRST_PAUSE_S)
        else:
            del self._by_host[host]

    def _begin(self, host: Host, waiting: _Waiting, bring: Callable[[Host, _Waiting], Awaitable[None]]) -> None:
        async def bringing() -> None:
            try:
                await bring(host, waiting)
            except DelayBoxError as error:
                log.debug("tasks that were put off are not brought back yet: %s", error)
            except Exception:
                log.exception("%d tasks that were put off come by their own time", len(waiting.tasks))
                self._forget_all(waiting)
            waiting.bringing = None
            if self._by_host.get(host) is waiting:
                self._brought_back(host, waiting)

        waiting.bringing = asyncio.create_task(bringing(), name="delaybox-webhook-resume")

    def _brought_back(self, host: Host, waiting: _Waiting) -> None:
        """Sees to those that are left."""
        again = asyncio.get_running_loop().time() + FIRST_PAUSE_S
        if host.closed:
            if waiting.asked:
                again += host.pause_s
            if not host.probing:
                self._ask_at(host, waiting, max(host.closed_until, again))
        elif waiting.tasks:
            self._ask_at(host, waiting, again)
        else:
            self._over(host, waiting)

    async def _bring_some(self, host: Host, waiting: _Waiting) -> None:
        count = min(max(1, 2 * waiting.asked), _MOST_AT_ONCE)
        for _ in range(_TRIES):
            if host.probing or (moved := await self._bring(waiting, count, probe=True)) is None:
                return
            if moved:
                waiting.asked = count
                return

    async def _bring_all(self, host: Host, waiting: _Waiting) -> None:
        while waiting.tasks and not host.closed:
            await self._bring(waiting, min(host.takes(_STEP_S), _MOST_AT_ONCE))
            await asyncio.sleep(_STEP_S)

    async def _bring(self, waiting: _Waiting, count: int, *, probe: bool = False) -> int | None:
        """Brings so many back, and forgets them; how many of them still waited. None: there is none. DelayBoxError.

        ``probe``: one that may be sent once at most is not chosen while there are others: it is lost where no answer
        comes.
        """
        assert self.resume is not None
        others = ((task_id, task) for task_id, task in waiting.tasks.items() if not task.once)
        chosen = list(islice(others, count)) if probe else []
        chosen = chosen or list(islice(waiting.tasks.items(), count))
        if not chosen:
            return None
        by: defaultdict[int, list[tuple[bytes, int]]] = defaultdict(list)
        for task_id, task in chosen:
            by[task.partition].append((task_id, task.until_ms))
        try:
            moved = await self.resume(by)
        except DelayBoxError:
            # Their server may be away, and those of others are brought back meanwhile.
            for task_id, task in chosen:
                if waiting.tasks.get(task_id) is task:
                    waiting.tasks[task_id] = waiting.tasks.pop(task_id)
            raise
        for task_id, task in chosen:
            if waiting.tasks.get(task_id) is task:
                self._forget(waiting, task_id)
        return moved

    def _drop_old(self, waiting: _Waiting, now_ms: float) -> None:
        """Forgets what has come by its own time, to another process or to nobody, because it was cancelled."""
        while waiting.tasks:
            task_id, task = next(iter(waiting.tasks.items()))
            if task.until_ms >= now_ms:
                return
            self._forget(waiting, task_id)

    def _forget_all(self, waiting: _Waiting) -> None:
        count = len(waiting.tasks) + len(waiting.storing)
        self._count -= count
        http_metrics.waiting(waiting.place, -count)
        waiting.tasks.clear()
        waiting.storing.clear()

    def _forget(self, waiting: _Waiting, task_id: bytes) -> None:
        if waiting.tasks.pop(task_id, None) is not None or waiting.storing.pop(task_id, None) is not None:
            self._count -= 1
            http_metrics.waiting(waiting.place, -1)
