"""The one speller of stored records; scripts/lib/record.lua reads and writes the same (its header draws the layout)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct

import msgspec

from delaybox.core import ids, texts
from delaybox.core.delivery import Delivery
from delaybox.core.lane import lane_of, split
from delaybox.core.limits import TRACEBACK_BYTES
from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.task import DeliveryMode, NewTask, OnConflict, TaskType, UniqueWhile
from delaybox.wire import body as wire_body
from delaybox.wire import encoded
from delaybox.wire import webhook as wire_webhook
from delaybox.wire.encoded import TaskKind

FORMAT = 1
"""Version of the stored format: ``format`` in the store's meta."""
_NEWEST = 2
"""The highest version of a record, the high nibble of its first byte: 1, or 2 for a record with an extension."""

STUB_OVER = 1024
"""Bodies larger than this lie apart, so that a claim of 500 stays small (64 KiB x 500 took 230 ms)."""

_FRESH = 0x10
_FULL = 0x11
FRESH_EXT = 0x20
_FULL_EXT = 0x21
_STUB = 4
_KEYED = 8
_LOOK = 16
"""Delivered only after a look at the body, which scripts cannot read: never fired in place."""
_WORKER = TaskType.WORKER.value.encode()
SNOOZED = 1
"""The extension's entry: since when (u48 ms) the task's own code puts it off. The tags stand in lib/extension.lua."""
WAITING, SUPERSEDED, LOCK, ONCE = 2, 3, 4, 5
GROUP, ON_SUCCESS, ON_FAILURE = 15, 16, 17
FAIR_KEY, FAIR_WEIGHT, COST, FIRST_DUE = 9, 10, 11, 12
LABELS = 20
PERMIT, LIMIT_KEYS = 6, 7
_WITH_NODE = 8
"""A loss with a node adds this much to a WORKER task's byte of losses (scripts/lib/loss.lua)."""
_FULL_HEAD = Struct(">BBHBIHIB")
_DEAD_HEAD = Struct(">QH")


class Draft(msgspec.Struct, gc=False):
    """A new task, encoded: what ``schedule`` sends. ``due48`` is a due time, or a delay with ``ids.RELATIVE`` set.

    ``message_key``: Kafka's; tasks that share it lie in one partition, unless an idempotency key decides that.
    ``replace``: it takes the place of the key's task, put off for at most ``max_wait_ms`` (0: any time).
    ``group``: as its record's extension names it; ``labels``: its places in the lists of the index of labels.
    """

    due48: int
    record: bytes
    key: bytes | None
    fingerprint: bytes
    body: bytes | None
    message_key: bytes | None = None
    replace: bool = False
    max_wait_ms: int = 0
    group: bytes | None = None
    labels: bytes = b""


class Record(msgspec.Struct, gc=False):
    """A stored record, read. ``body`` is empty for a stub; ``due_ms`` is the current due time.

    ``lost``: the stored byte. Of WORKER tasks it holds losses with a worker and, in its high bits, with a node.
    ``extension``: what scripts must know of few tasks, as it is stored; ``b""`` where there is none.
    """

    task_id: bytes
    priority: int
    stub: bool
    attempt: int
    lost: int
    deliveries: int
    due_ms: int
    lane: bytes
    key: bytes | None
    body: bytes
    flags: int
    extension: bytes = b""

    @property
    def snoozed_since(self) -> int | None:
        """Since when (ms) the task's own code puts it off; None: it does not."""
        value = extension_entries(self.extension).get(SNOOZED)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def first_due_ms(self) -> int:
        """Of a task that may expire: when it was due before it was put off without a charge; 0: it was not."""
        return int.from_bytes(extension_entries(self.extension).get(FIRST_DUE, b""), "big") if self.extension else 0

    @property
    def waiting_since(self) -> int | None:
        """Since when (ms) requests with its key put it off, where they say for how long at most."""
        value = extension_entries(self.extension).get(WAITING)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def superseded(self) -> bool:
        """Whether another task took its place while it ran."""
        return SUPERSEDED in extension_entries(self.extension)

    @property
    def once(self) -> bool:
        """Whether it is acked before it is handed out."""
        return bool(self.extension) and ONCE in extension_entries(self.extension)

    @property
    def group(self) -> str:
        """The group that it belongs to; "" for none."""
        return extension_entries(self.extension).get(GROUP, b"").decode("utf-8", "replace") if self.extension else ""

    @property
    def fairness_key(self) -> str:
        """The key that takes turns with others of its lane; "" where the task has none."""
        return extension_entries(self.extension).get(FAIR_KEY, b"").decode() if self.extension else ""

    @property
    def fairness_weight(self) -> float:
        """The weight of that key."""
        return float(extension_entries(self.extension).get(FAIR_WEIGHT, b"1")) if self.extension else 1.0

    @property
    def permit(self) -> bool:
        """Whether it lies in a lease and has a permit of its queue's concurrency, or of a limit key's."""
        return bool(self.extension) and not extension_entries(self.extension).keys().isdisjoint((PERMIT, LIMIT_KEYS))

    @property
    def limit_keys(self) -> tuple[bytes, ...]:
        """The limit keys whose permits it has while it lies in a lease."""
        if not self.extension:
            return ()
        names = extension_entries(self.extension).get(LIMIT_KEYS, b"")
        return tuple(names.split(b"\0")) if names else ()

    @property
    def look(self) -> bool:
        """Whether its body is to be looked at before it is delivered."""
        return bool(self.flags & _LOOK)

    @property
    def losses(self) -> int:
        """How often the node or the worker that had the task was lost."""
        return self.blamed + (self.lost // _WITH_NODE if self.lane[:1] == _WORKER else 0)

    @property
    def blamed(self) -> int:
        """How often the process that *ran* the task was lost: of WORKER tasks a worker, as nodes only carry them."""
        return self.lost % _WITH_NODE if self.lane[:1] == _WORKER else self.lost

    @property
    def type(self) -> TaskType:
        """The task type the lane names."""
        return split(self.lane).type

    @property
    def queue(self) -> str:
        """The queue the lane names."""
        return split(self.lane).queue

    @property
    def name(self) -> str:
        """The function or command the lane names."""
        return split(self.lane).name

    @property
    def needs(self) -> WorkerNeeds:
        """What the task needs of its worker; the lane says so."""
        return split(self.lane).needs


def _sized_extension(entries: Mapping[int, bytes]) -> bytes:
    raw = extension_of(entries)
    return len(raw).to_bytes(2, "big") + raw


@lru_cache(maxsize=4096)
def head(task_type: TaskType, queue: str, name: str, flags: int) -> bytes:
    """What a new record without a key starts with; ``flags`` of a plain one are its priority."""
    lane = lane_of(task_type, queue, name)
    return bytes([_FRESH, flags, len(lane)]) + lane


def draft(task: NewTask) -> Draft:
    """Encodes a new task. The due time goes into the id, so the record does not hold it.

    InvalidTask for a time that an id cannot carry, and for a header that contradicts the task's type. It is raised
    here, for this one task, so that the others of its batch do not fail with it.
    """
    if encoded.is_plain(task) and len(task.payload) < STUB_OVER // 2:
        start = head(task.type, task.queue, task.name, task.priority)
        return Draft(encoded.due48(task), start + wire_body.of_payload(task.payload), None, b"", None)
    encoded.check(task)
    body = wire_body.encode(task)
    stub = len(body) > STUB_OVER
    due48 = encoded.due48(task)
    flags = task.priority | (_STUB if stub else 0) | (_LOOK if task.expire_after_ms else 0)
    extension = _new_extension(task)
    name = task.name if task.needs is NO_NEEDS else encoded.name_of(task)
    if task.idempotency_key is None:
        start = head(task.type, task.queue, name, flags)
        if extension:
            start = bytes([FRESH_EXT]) + start[1:] + extension
        new = Draft(due48, start, None, b"", body) if stub else Draft(due48, start + body, None, b"", None)
        if task.group:
            new.group = task.group.encode()
        return new
    key = task.idempotency_key.encode()
    start = head(task.type, task.queue, name, flags | _KEYED) + len(key).to_bytes(2, "big") + key
    if extension:
        start = bytes([FRESH_EXT]) + start[1:] + extension
    fingerprint = wire_body.fingerprint(task)
    new = Draft(due48, start if stub else start + body, key, fingerprint, body if stub else None)
    if task.group:
        new.group = task.group.encode()
    if task.on_conflict is OnConflict.REPLACE:
        new.replace, new.max_wait_ms = True, task.max_wait_ms
    return new


def _new_extension(task: NewTask) -> bytes:
    """The extension of a new task, with its length before it; ``b""`` where it has none, as most tasks."""
    once = task.delivery is DeliveryMode.AT_MOST_ONCE
    if not task.group and not task.fairness_key and task.webhook is None and task.needs is NO_NEEDS:
        return _EXTENSIONS[task.unique_while, once] if once or task.unique_while is not None else b""
    entries = {**_LOCKS[task.unique_while], **({ONCE: b""} if once else {})}
    if task.group:
        entries[GROUP] = task.group.encode()
    if task.fairness_key:
        entries[FAIR_KEY] = task.fairness_key.encode()
        if task.fairness_weight != 1:
            entries[FAIR_WEIGHT] = b"%g" % task.fairness_weight
    if task.needs.cost > 1:
        entries[COST] = task.needs.cost.to_bytes(2, "big")
    if task.webhook is not None:
        form = task.webhook.cloudevents
        if task.webhook.on_success:
            entries[ON_SUCCESS] = wire_webhook.callback_of(task.webhook.on_success, form, "succeeded", task.header)
        if task.webhook.on_failure:
            entries[ON_FAILURE] = wire_webhook.callback_of(task.webhook.on_failure, form, "failed", task.header)
    return _sized_extension(entries) if entries else b""


def with_entry(raw: bytes, tag: int, value: bytes) -> bytes:
    """A new record, in the fresh shape, with one entry more in its extension, before the others."""
    at = 3 + raw[2]
    if raw[1] & _KEYED:
        at += 2 + int.from_bytes(raw[at : at + 2], "big")
    added = b"%c%b%b" % (tag, len(value).to_bytes(2, "big"), value)
    if raw[0] == FRESH_EXT:
        size = int.from_bytes(raw[at : at + 2], "big")
        added += raw[at + 2 : at + 2 + size]
        rest = raw[at + 2 + size :]
    else:
        rest = raw[at:]
    return bytes([FRESH_EXT]) + raw[1:at] + len(added).to_bytes(2, "big") + added + rest


def group_member(group: str, task_id: bytes) -> bytes:
    """A task's entry in the index of groups; the ids of one group stand together, in order."""
    return group.encode() + b"\0" + task_id


def lane_of_draft(new: Draft) -> bytes:
    """The lane of a new task, which is in the fresh shape."""
    return new.record[3 : 3 + new.record[2]]


def plain_head(raw: bytes) -> bytes:
    """What a new record without a key starts with, which many have in common; b"" of any other record."""
    return raw[: 3 + raw[2]] if len(raw) > 3 and raw[0] == _FRESH and raw[1] < _KEYED else b""


def encoded_head(kind: TaskKind, queue: str) -> tuple[bytes, bytes]:
    """What the records of such tasks start with, in that queue: with the body behind it, and where it lies apart."""
    flags = kind.priority | (_LOOK if kind.expires else 0)
    return head(kind.type, queue, kind.name, flags), head(kind.type, queue, kind.name, flags | _STUB)


def rewrite(
    old: Record, *, body: bytes, due_ms: int, priority: int, labels: bytes | None = None
) -> tuple[bytes, bytes]:
    """(record in full shape, body that lies apart or b"") of a pending task that was changed; counters and key stay.

    ``labels``: what the extension says of its labels from now on; None: as before.
    """
    stub = len(body) > STUB_OVER
    flags = old.flags & ~(3 | _STUB) | priority | (_STUB if stub else 0)
    extension = old.extension
    if due_ms != old.due_ms and extension:
        # A task that was moved by hand may be put off for the whole time again.
        entries = extension_entries(extension)
        extension = extension_of({tag: entries[tag] for tag in entries if tag not in (SNOOZED, FIRST_DUE)})
    if labels is not None:
        entries = extension_entries(extension)
        entries.pop(LABELS, None)
        extension = extension_of({**entries, LABELS: labels} if labels else entries)
    head = _FULL_HEAD.pack(
        _FULL_EXT if extension else _FULL,
        flags,
        old.attempt,
        old.lost,
        old.deliveries,
        due_ms >> 32,
        due_ms & 0xFFFFFFFF,
        len(old.lane),
    )
    key = b"" if old.key is None else len(old.key).to_bytes(2, "big") + old.key
    raw = head + old.lane + key
    if extension:
        raw += len(extension).to_bytes(2, "big") + extension
    return (raw, body) if stub else (raw + body, b"")


class UnreadableRecord(ValueError):
    """The bytes are not a record of a format this version knows."""


def read(task_id: bytes, raw: bytes) -> Record:
    """Decodes a record of any shape; UnreadableRecord for what is none (or of a newer format)."""
    kind = raw[0] if raw else 0
    if kind in (_FULL, _FULL_EXT) and len(raw) > 16:
        _, flags, attempt, lost, deliveries, hi, lo, size = _FULL_HEAD.unpack_from(raw)
        due, at = hi << 32 | lo, 16
    elif kind in (_FRESH, FRESH_EXT) and len(raw) > 3:
        flags, size = raw[1], raw[2]
        attempt = lost = deliveries = 0
        due, at = ids.due_ms(task_id), 3
    else:
        raise UnreadableRecord(f"record starts with byte {kind:#04x}, {len(raw)} bytes")
    lane = raw[at : at + size]
    at += size
    key = None
    if flags & _KEYED:
        length = int.from_bytes(raw[at : at + 2], "big")
        key = raw[at + 2 : at + 2 + length]
        at += 2 + length
    extension = b""
    if kind >= FRESH_EXT:
        length = int.from_bytes(raw[at : at + 2], "big")
        extension = raw[at + 2 : at + 2 + length]
        at += 2 + length
    if len(lane) != size or at > len(raw):
        raise UnreadableRecord(f"record of {len(raw)} bytes is cut off")
    return Record(
        task_id, flags & 3, bool(flags & _STUB), attempt, lost, deliveries, due, lane, key, raw[at:], flags, extension
    )  # fmt: skip


def delivery_of(task_id: bytes, raw: bytes, partition: int, lease_id: bytes, fired_ms: int) -> Delivery:
    """The delivery of a leased record. ``fired_ms``: now, by the server's clock. UnreadableRecord; IndexError without a
    lane. Called for every task that fires: a usual record is read here, without a `Record` and its properties."""
    if len(raw) > 16 and raw[0] == _FULL:
        _, flags, attempt, lost, deliveries, hi, lo, size = _FULL_HEAD.unpack_from(raw)
        at = 16 + size
        lane = raw[16:at]
        if flags & _KEYED:
            at += 2 + int.from_bytes(raw[at : at + 2], "big")
        if at <= len(raw):
            return Delivery(
                task_id, partition, lease_id, deliveries, attempt,
                lost % _WITH_NODE if lane[0] == _WORKER[0] else lost, hi << 32 | lo, lane, flags & _STUB != 0, raw[at:],
                flags & _LOOK != 0, False, flags & 3, fired_ms,
            )  # fmt: skip
    r = read(task_id, raw)
    return Delivery(
        task_id, partition, lease_id, r.deliveries, r.attempt, r.blamed, r.due_ms, r.lane, r.stub, r.body, r.look,
        r.once, r.priority, fired_ms, r.limit_keys, first_due_ms=r.first_due_ms, extended=bool(r.extension),
        lent=bool(r.extension) and extension_entries(r.extension).keys().isdisjoint((LOCK, GROUP, ON_SUCCESS, LABELS)),
    )  # fmt: skip


def extension_entries(raw: bytes) -> dict[int, bytes]:
    """The entries of an extension by tag (scripts/lib/extension.lua); what is cut off is left out."""
    out: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(raw):
        size = int.from_bytes(raw[at + 1 : at + 3], "big")
        if at + 3 + size > len(raw):
            break
        out[raw[at]] = raw[at + 3 : at + 3 + size]
        at += 3 + size
    return out


def extension_of(entries: Mapping[int, bytes]) -> bytes:
    """The extension that holds these entries; ``b""`` for none."""
    return b"".join(b"%c%b%b" % (tag, len(value).to_bytes(2, "big"), value) for tag, value in entries.items())


def head_of(task_id: bytes, raw: bytes) -> tuple[int, int]:
    """(failed attempts, due ms) from the first 16 bytes of a record. For a newer format: those of a new task."""
    if len(raw) >= _FULL_HEAD.size and raw[0] in (_FULL, _FULL_EXT):
        _, _, attempt, _, _, hi, lo, _ = _FULL_HEAD.unpack_from(raw)
        return attempt, hi << 32 | lo
    return 0, ids.due_ms(task_id)


def critical_and_lanes(leased: Sequence[bytes]) -> tuple[int, Counter[bytes]]:
    """How many of these leased tasks (id, record of full shape, ...) are critical, and the others by lane."""
    others = [raw[16 : 16 + raw[15]] for raw in leased[1::2] if raw[1] & 3]
    return len(leased) // 2 - len(others), Counter(others)


def is_stub(raw: bytes) -> bool:
    """Whether the body lies apart; also of what is too short to be a record."""
    return len(raw) < 2 or bool(raw[1] & _STUB)


def is_newer(raw: bytes) -> bool:
    """Whether a newer version wrote it."""
    return bool(raw) and raw[0] >> 4 > _NEWEST


def hint(task_id: bytes, lane: bytes) -> bytes:
    """The member of a near index that names a task."""
    return task_id + lane


def of_hint(member: bytes) -> tuple[bytes, bytes]:
    """(id, lane) of a member of a near index; the lane is empty in a ready set, whose key names it."""
    return member[: ids.ID_BYTES], member[ids.ID_BYTES :]


def id_of_key(entry: bytes) -> bytes:
    """The id of the task that an idempotency key stands for; its fingerprint stands behind it."""
    return entry[: ids.ID_BYTES]


def split_result(value: bytes, at: int = 0) -> tuple[bytes, bytes]:
    """(stored result, record) of a kept result that begins there; or of one that stands before a dead letter."""
    begins = at + 4
    ends = begins + int.from_bytes(value[at:begins], "big")
    return value[begins:ends], value[ends:]


def dead_head(task_id: bytes, value: bytes) -> tuple[int, int, str]:
    """(failed attempts, due ms, reason) of a dead letter, by its beginning and its record's head."""
    _, size = _DEAD_HEAD.unpack_from(value)
    at = _DEAD_HEAD.size
    return *head_of(task_id, value[at + size :]), reason_of(value[at : at + size])[0]


def read_dead(task_id: bytes, value: bytes) -> tuple[int, str, Record]:
    """(ms it died, reason, record) of a dead letter; UnreadableRecord for what is none."""
    if len(value) < _DEAD_HEAD.size:
        raise UnreadableRecord(f"dead letter of {len(value)} bytes")
    died, size = _DEAD_HEAD.unpack_from(value)
    at = _DEAD_HEAD.size
    return died, reason_of(value[at : at + size])[0], read(task_id, value[at + size :])


def read_dead_raw(value: bytes) -> bytes:
    """The record in a dead letter, as it is stored; b"" where there is none."""
    if len(value) < _DEAD_HEAD.size:
        return b""
    _, size = _DEAD_HEAD.unpack_from(value)
    return value[_DEAD_HEAD.size + size :]


def stored_reason(reason: str, traceback: str = "") -> bytes:
    """The reason of a dead letter as it is stored. Behind a NUL byte stands the last traceback, if there is one. Nodes
    of earlier versions do not know that and show it as a part of the reason."""
    words = texts.head(reason).replace("\0", " ").encode("utf-8", "replace")
    return words + b"\0" + texts.tail(traceback, TRACEBACK_BYTES).encode() if traceback else words


def reason_of(stored: bytes) -> tuple[str, str]:
    """(reason, traceback or "") of a dead letter."""
    words, _, traceback = stored.partition(b"\0")
    return words.decode("utf-8", "replace"), traceback.decode("utf-8", "replace")


def traceback_of(value: bytes) -> str:
    """The last traceback that a dead letter keeps; "" where it keeps none."""
    if len(value) < _DEAD_HEAD.size:
        return ""
    _, size = _DEAD_HEAD.unpack_from(value)
    return reason_of(value[_DEAD_HEAD.size : _DEAD_HEAD.size + size])[1]


_LOCKS = {None: {}, UniqueWhile.PENDING: {LOCK: b"p"}, UniqueWhile.RUNNING: {LOCK: b"r"}}
_EXTENSIONS = {
    (lock, once): _sized_extension({**entries, **({ONCE: b""} if once else {})})
    for lock, entries in _LOCKS.items()
    for once in (False, True)
}
"""The extension of a new task, by its lock and whether it is handed out at most once."""
