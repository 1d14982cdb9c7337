"""Channels of one subscription, which change while it is open."""

from __future__ import annotations

import asyncio
from typing import Any

from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.waiting import PATIENCE_S


async def test_changes_that_overlap_end_with_what_the_last_one_wants(client: Any, prefix: str):
    """Such as when two members join at once: owners change twice within a millisecond."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    a, b, c = (f"{prefix}:{name}" for name in "abc")
    subscription = store.subscribe(a, b)
    await subscription.open()
    try:
        await asyncio.gather(*(subscription.change(wanted) for wanted in ((a, c), (a, b), (a, c), (a, b))))
        opened = 0
        while opened < 2 + 4:
            message = await subscription.next(PATIENCE_S)
            opened += message is not None and message.opened
        assert dict(await client.pubsub_numsub(a, b, c)) == {a.encode(): 1, b.encode(): 1, c.encode(): 0}
    finally:
        await subscription.close()
