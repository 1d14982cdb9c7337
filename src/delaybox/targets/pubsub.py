"""PUB_SUB on Redis, leased: publishes on the execution channel, then acks.

Most PUB_SUB tasks never come here, because the claim script publishes them itself. These do: tasks with bodies over
1 KiB, tasks of a node that requires subscribers, and all of them where firing in place is switched off.
"""

from __future__ import annotations

from collections.abc import Sequence

from delaybox import failpoints, metrics
from delaybox.core.delivery import DONE, Delivery, Failed, Report
from delaybox.store.publish import publish
from delaybox.store.store import Store
from delaybox.wire.body import published

_GROUP_BYTES = 1 << 20


class PubSubTarget:
    """``require_subscriber``: a message nobody received counts as a failed attempt and is retried."""

    def __init__(self, store: Store, *, channel: str, stream: int = 0, require_subscriber: bool = False) -> None:
        self._store = store
        self._channel = channel
        self._stream = stream
        self._require = require_subscriber

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Publishes in groups of about 1 MiB. When the store is unavailable, the rest is handed back."""
        group: list[Delivery] = []
        size = 0
        for d in batch:
            group.append(d)
            size += len(d.body)
            if size >= _GROUP_BYTES:
                await self._publish(group, report)
                group, size = [], 0
        if group:
            await self._publish(group, report)

    async def _publish(self, group: list[Delivery], report: Report) -> None:
        failpoints.hit("before_publish")
        messages = [(d.partition, published(d.id, d.body)) for d in group]
        replies = await publish(self._store, self._channel, messages, stream=self._stream)
        failpoints.hit("after_publish_reply")
        done: list[Delivery] = []
        without_listeners = 0
        for d, listeners in zip(group, replies, strict=True):
            if isinstance(listeners, BaseException):
                report([d], Failed(f"publishing on {self._channel} failed: {listeners}"[:500]))
            elif listeners == 0 and self._require:
                report([d], Failed(f"nobody listens on channel {self._channel}"))
                without_listeners += 1
            else:
                without_listeners += listeners == 0
                done.append(d)
        if without_listeners:
            metrics.published_without_listeners(without_listeners)
        report(done, DONE)
