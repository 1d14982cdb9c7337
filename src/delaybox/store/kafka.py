"""Stores the records of a Kafka topic-partition together with its watermark, so that each is scheduled once (rule
14)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any

from delaybox.core import ids
from delaybox.core.partition import of_key
from delaybox.store import keys
from delaybox.store.label_entries import new_entries
from delaybox.store.label_index import IndexedLabels
from delaybox.store.loader import ScriptCall
from delaybox.store.record import FRESH_EXT, STUB_OVER, Draft, encoded_head
from delaybox.store.replies import Stored
from delaybox.store.store import Store
from delaybox.wire.encoded import EncodedTask, TaskKind

_HEAD = 10
"""Arguments of ``ingest`` in front of the tasks."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One life of a topic-partition: a topic that is created again gets another id, and is another stream."""

    topic_id: str
    partition: int

    @property
    def field(self) -> str:
        """Its name in the hash of watermarks. Part of the stored format."""
        return f"{self.topic_id}/{self.partition}"

    @classmethod
    def of_field(cls, field: bytes) -> Stream | None:
        """The stream that a field names; None for what names none."""
        topic_id, _, number = field.decode(errors="replace").rpartition("/")
        return cls(topic_id, int(number)) if topic_id and number.isdecimal() else None

    def home(self, partitions: int) -> int:
        """The one partition of the store that takes all its tasks. Part of the stored format."""
        return of_key(self.field.encode(), partitions)


@dataclass(slots=True)
class Span:
    """The records of ``stream`` from ``start`` up to, not including, ``end``: at most MAX_ITEMS of them are tasks.

    ``offsets`` are those of ``tasks``, rising; the offsets in between carry no task, or one that was stored by another
    call. ``first``: there may be no watermark yet. Idempotency keys are ignored here, because a key would decide the
    partition.
    """

    stream: Stream
    start: int
    end: int
    offsets: list[int]
    tasks: list[EncodedTask]
    first: bool = False


@dataclass(frozen=True, slots=True)
class Ingested:
    """``watermark``: the offset up to which everything is stored, -1 when there is none.

    ``refused``: nothing was stored, because the watermark is below the span's start.
    """

    watermark: int
    stored: int
    refused: bool


async def ingest(
    store: Store, spans: Sequence[Span], indexed: IndexedLabels | None = None
) -> list[Ingested | BaseException]:
    """Stores spans in one round trip, those of one stream in the order given; per span what came of it.

    Harmless when repeated, by the same or another process: what lies below the watermark is skipped. ``indexed``: by
    which labels, read anew by the caller; None: by none.
    """
    calls = [_call(store, span, indexed) for span in spans]
    replies = await store.run_new(calls)
    if store.events.wanted:
        for span, call, reply in zip(spans, calls, replies, strict=True):
            if not isinstance(reply, BaseException):
                store.events.scheduled(_stored(span, call, reply[0], reply[2]))
    return [r if isinstance(r, BaseException) else Ingested(r[1], max(r[2], 0), r[2] < 0) for r in replies]


async def watermarks(store: Store, streams: Sequence[Stream]) -> list[int | None]:
    """Per stream the offset at which to go on; None where nothing of it was ever stored."""
    homes = [keys.kafka(store.tags[stream.home(store.partitions)]) for stream in streams]
    wanted = zip(homes, streams, strict=True)
    replies = await store.servers.ask_many([("HGET", home, stream.field) for home, stream in wanted])
    return [None if reply is None else int(reply) for reply in replies]


def _call(store: Store, span: Span, indexed: IndexedLabels | None) -> ScriptCall:
    home = span.stream.home(store.partitions)
    tasks = span.tasks
    if indexed is not None and not indexed.names:
        indexed = None
    items: list[Any] = []
    bodies: list[Any] = []
    labelled: list[tuple[int, bytes]] = []
    heads: dict[TaskKind, tuple[bytes, bytes]] = {}
    kind: TaskKind | None = None
    head_with = head_apart = b""
    for i, (task, tail) in enumerate(zip(tasks, ids.tails(home, os.urandom(8 * len(tasks))), strict=True), 1):
        if task.kind is not kind:
            kind = task.kind
            if kind not in heads:
                heads[kind] = encoded_head(kind, kind.queue)
            head_with, head_apart = heads[kind]
        body = task.body
        template = task.due48.to_bytes(6, "big") + tail
        if len(body) > STUB_OVER:
            items += (template, head_apart)
            bodies += (i, body)
        else:
            items += (template, head_with + body)
        if indexed is not None and (value := indexed.entry_of(task.kind.name, body)):
            labelled.append((i, value))
    head = (
        store.store_id, span.stream.field, span.start, span.end, int(span.first), store.bucket_ms, store.wakes[home],
        len(tasks), len(bodies) // 2, pack(f">{len(tasks)}d", *span.offsets),
    )  # fmt: skip
    whole = any(encoded[0] >= FRESH_EXT for encoded, _ in heads.values())
    args = (*head, *items, *bodies, *new_entries(labelled, len(tasks)))
    return ScriptCall("ingest", store.tags[home], args, whole)


def _stored(span: Span, call: ScriptCall, now_ms: int, count: int) -> Iterator[tuple[Draft, Stored]]:
    """The tasks that a call stored, the last ones of its span. ``now_ms``: the moment of that."""
    first = len(span.tasks) - max(count, 0)
    for i in range(first, len(span.tasks)):
        template, record = call.args[_HEAD + 2 * i : _HEAD + 2 * i + 2]
        due48 = span.tasks[i].due48
        due_ms = max(now_ms, due48 - ids.RELATIVE + now_ms if due48 & ids.RELATIVE else due48)
        body = span.tasks[i].body
        yield Draft(due48, record, None, b"", body), Stored(due_ms.to_bytes(6, "big") + template[6:], due_ms)
