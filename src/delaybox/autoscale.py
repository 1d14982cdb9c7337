"""Keeps as many processes of each kind as the store needs: `--processes auto`. It adds them before a peak that the
forecast shows, and retires them when the need has been lower for the cool-down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence

from delaybox.config import Config
from delaybox.config.specs import counts
from delaybox.core.errors import DelayBoxError
from delaybox.core.scaling import KINDS, CoolDown, MemberNeed, ScalingQuery, share
from delaybox.processes.spec import ProcessKind
from delaybox.processes.supervise import Supervisor
from delaybox.service.rules import Rules
from delaybox.service.scaling import Scaler
from delaybox.store.address import ServerSettings
from delaybox.store.servers import Servers
from delaybox.store.store import Store

log = logging.getLogger("delaybox.processes")

_LOOK_S = 2.0
_AFTER_ERROR_S = 10.0


class Autoscaler:
    """Looks every two seconds, or five times a lead. ``store_id``: the store that the children work for.

    A kind never has fewer processes than the configuration names, nor more than ``processes.most``.
    """

    def __init__(self, config: Config, children: Supervisor, server: ServerSettings, store_id: str) -> None:
        self._children = children
        self._server = server
        self._store_id = store_id
        self._prefix = config.storage.prefix
        settings = config.processes
        self._most = settings.most or os.cpu_count() or 1
        self._asked = ScalingQuery(lead_ms=settings.lead)
        self._look_s = min(_LOOK_S, settings.lead / 5_000)
        self._least = {kind: n for kind, n in counts(config).items() if kind.value in KINDS}
        self._wanted = {kind: CoolDown(settings.cool_down / 1_000) for kind in self._least}
        self._retiring: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Goes on until it is cancelled. An error of the store or of a child only puts the next look off."""
        servers = Servers.connect(self._server)
        scaler: Scaler | None = None
        last = ""
        try:
            while True:
                try:
                    if scaler is None:
                        store = await Store.open(servers, prefix=self._prefix, expected=self._store_id)
                        scaler = Scaler(store, Rules(store))
                    await self._follow((await scaler.ask(self._asked)).needs)
                    last = ""
                    await asyncio.sleep(self._look_s)
                except (DelayBoxError, OSError) as error:
                    if last != str(error):
                        last = str(error)
                        log.warning("the number of processes stays as it is for now: %s", error)
                    await asyncio.sleep(_AFTER_ERROR_S)
        finally:
            for retiring in self._retiring:
                retiring.cancel()
            with contextlib.suppress(Exception):
                await servers.close()

    async def _follow(self, needs: Sequence[MemberNeed]) -> None:
        now_s = asyncio.get_running_loop().time()
        adding: dict[ProcessKind, int] = {}
        for need in needs:
            kind = ProcessKind(need.kind)
            if kind not in self._least:
                continue
            least = self._least[kind]
            own = share(need, least=least, most=max(least, self._most))
            wanted, have = self._wanted[kind].settled(own, now_s), self._children.count(kind)
            if wanted > have:
                adding[kind] = wanted - have
                log.info("adding a %s, to %d: %s", kind.what, wanted, _why(need))
            elif wanted < have:
                log.info("retiring a %s, to %d: %s", kind.what, have - 1, _why(need))
                self._retire(kind)
        await self._add(adding)

    async def _add(self, adding: Mapping[ProcessKind, int]) -> None:
        starting = [self._children.add(kind) for kind, n in adding.items() for _ in range(n)]
        for outcome in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _retire(self, kind: ProcessKind) -> None:
        # It may take its whole grace to finish its work; what is added meanwhile must not wait for that.
        retiring = asyncio.create_task(self._children.retire(kind))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)


def _why(need: MemberNeed) -> str:
    due = sum(load.due for load in need.loads)
    return f"all nodes together need {need.places:.2f} places, and {due} tasks become due within the lead"
