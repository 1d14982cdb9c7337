"""What the reader of Kafka topics needs of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask, Submitted
from delaybox.service.tasks import Service
from delaybox.store import kafka
from delaybox.store.kafka import Ingested, Span, Stream
from delaybox.store.label_index import IndexedLabels
from delaybox.store.store import Store


class RecordService:
    """``on_scheduled``: called with how many tasks were created and how many were duplicates by key."""

    def __init__(self, store: Store, *, on_scheduled: Callable[[int, int], None] | None = None) -> None:
        self._store = store
        self._on_scheduled = on_scheduled
        self._labels = IndexedLabels(store)
        # For records with an idempotency key, which decides the task's partition (docs/adr/0009).
        self._keyed = Service(store, on_scheduled=on_scheduled)

    async def ingest(self, spans: Sequence[Span]) -> list[Ingested | DelayBoxError]:
        """Stores records in one round trip. Returns the outcome of each span. See `store.kafka.ingest`."""
        out: list[Ingested | DelayBoxError] = []
        if self._labels.stale:
            try:
                await self._labels.fresh()
            except DelayBoxError as error:
                return [error] * len(spans)
        for answer in await kafka.ingest(self._store, spans, self._labels):
            if isinstance(answer, BaseException) and not isinstance(answer, DelayBoxError):
                raise answer
            out.append(answer)
        if self._on_scheduled is not None:
            self._on_scheduled(sum(a.stored for a in out if isinstance(a, Ingested)), 0)
        return out

    def server_of(self, stream: Stream) -> int:
        """The number of the server at which the stream's records are stored; it may become another one."""
        return self._store.shards.of[stream.home(self._store.partitions)]

    async def watermarks(self, streams: Sequence[Stream]) -> list[int | None]:
        """Per stream the offset at which to go on; None where nothing of it was ever stored."""
        return await kafka.watermarks(self._store, streams)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted | DelayBoxError]:
        """Stores tasks with idempotency keys; per task, in order, its answer or its error."""
        return await self._keyed.submit_many(tasks)
