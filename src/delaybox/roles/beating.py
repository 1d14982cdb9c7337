"""The heartbeat of a process that has no engine."""

from __future__ import annotations

from collections.abc import Sequence

from delaybox.core.membership import Activity, member_id
from delaybox.engine.membership import Identity, Membership
from delaybox.processes.spec import ProcessKind
from delaybox.store.settings import StoreSettings
from delaybox.store.store import Store


class Beating:
    """Sends heartbeats from `begin`, when the store is open, to `end`. ``troubles``: problems for readiness to show."""

    def __init__(self, settings: StoreSettings, kind: ProcessKind) -> None:
        self.troubles: Sequence[str] = ()
        self._settings = settings
        self._kind = kind
        self._membership: Membership | None = None

    async def begin(self, store: Store) -> None:
        """Begins; returns at once. A process that no node started sends no heartbeat."""
        s = self._settings
        if not s.node_id:
            return
        who = Identity(id=member_id(s.node_id, self._kind, s.number), node=s.node_id, kind=self._kind, roles=s.roles)
        self._membership = Membership(store, who, self._activity)
        await self._membership.start()

    async def end(self) -> None:
        """Takes the process off the list. Twice is harmless."""
        if self._membership is not None:
            await self._membership.stop()

    def _activity(self) -> Activity:
        return Activity(troubles=tuple(self.troubles))
