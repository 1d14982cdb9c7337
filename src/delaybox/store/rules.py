"""The rules of queues as they are stored: one hash for all, and in each partition a copy of what scripts must know.

A change is stored first, with a new version; then it is copied into the partitions. Each of them keeps the version that
it has as its mark. Whoever stores a change copies it at once, and time keepers look after their partitions, so that a
copy which was cut off is completed within a second.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, NamedTuple

import msgspec

from delaybox.core.errors import PartAway
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import NO_RULES, OTHERS, QueueRules, Ramp, Slack
from delaybox.core.queue_limits import rate_of
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DEFAULT_QUEUE
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.servers import Command
from delaybox.store.store import Store

MOST = 20_000
"""Most queues with rules of their own."""
_VERSION = b""
"""The field that holds the version: no queue has an empty name."""
_PART, _PART_BYTES = 500, 256 * 1024
"""Most fields, and most bytes of them, that one script copies; of one field more bytes."""
_END = b"\xff"
"""Behind every member of the parked set: nothing is looked at there."""
_AT_ONCE = 16


class _StoredKeyLimit(msgspec.Struct, omit_defaults=True):
    by: str
    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None

    @classmethod
    def of(cls, limit: KeyLimit) -> _StoredKeyLimit:
        return cls(limit.by, limit.concurrency, None if limit.rate is None else str(limit.rate), limit.burst)

    def read(self) -> KeyLimit:
        """ValueError."""
        rate = None if self.rate is None else rate_of(self.rate)
        return KeyLimit(by=self.by, concurrency=self.concurrency, rate=rate, burst=self.burst)


class _Stored(msgspec.Struct, omit_defaults=True):
    """The JSON of one queue's rules. Fields of a newer version are kept by `StoredRules`."""

    paused: bool | None = None
    keep_result_ms: int | None = None
    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    weight: float | None = None
    slack: Slack | None = None
    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None
    keys: list[_StoredKeyLimit] | None = None
    key_keep_ms: int | None = None
    resume_rate: str | None = None
    ramp: Ramp | None = None


_decode = msgspec.json.Decoder(_Stored).decode
_decode_all = msgspec.json.Decoder(dict[str, Any]).decode
_KNOWN = _Stored.__struct_fields__


@dataclass(frozen=True, slots=True)
class StoredRules:
    """The rules of one queue as they were read. ``newer``: rules that a newer version stored, by name; ``raw``: all of
    it, b"" where none are stored."""

    rules: QueueRules = NO_RULES
    newer: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes = b""

    @classmethod
    def read(cls, raw: bytes | None) -> StoredRules:
        """From the stored JSON. What cannot be read counts as no rule."""
        if not raw:
            return cls()
        try:
            found, everything = _decode(raw), _decode_all(raw)
        except msgspec.MsgspecError:
            return cls(raw=raw)
        newer = {name: value for name, value in everything.items() if name not in _KNOWN}
        try:
            rate = None if found.rate is None else rate_of(found.rate)
            resume_rate = None if found.resume_rate is None else rate_of(found.resume_rate)
            limits = None if found.keys is None else tuple(one.read() for one in found.keys)
        except ValueError:
            return cls(raw=raw)
        known = {name: getattr(found, name) for name in _KNOWN if name not in ("rate", "resume_rate", "keys")}
        return cls(QueueRules(**known, rate=rate, resume_rate=resume_rate, keys=limits), newer, raw)


def encode(rules: QueueRules, newer: Mapping[str, Any]) -> bytes:
    """The JSON to store; b"" where no rule is set."""
    known = {name: value for name in _KNOWN if (value := getattr(rules, name)) is not None}
    if rules.rate is not None:
        known["rate"] = str(rules.rate)
    if rules.resume_rate is not None:
        known["resume_rate"] = str(rules.resume_rate)
    if rules.keys is not None:
        known["keys"] = [_StoredKeyLimit.of(limit) for limit in rules.keys]
    return msgspec.json.encode({**newer, **known}) if known or newer else b""


async def version(store: Store) -> int:
    """A number that rises with each change; 0: no rule was ever stored. StoreUnavailable."""
    raw: bytes | None = await store.servers.ask("HGET", keys.rules(store.prefix), _VERSION)
    return int(raw or 0)


async def one(store: Store, queue: str) -> StoredRules:
    """The rules that one queue has of its own. StoreUnavailable."""
    return StoredRules.read(await store.servers.ask("HGET", keys.rules(store.prefix), queue))


async def every(store: Store, known: Mapping[str, StoredRules]) -> tuple[int, dict[str, StoredRules]]:
    """The version, and the rules of each queue that has some. ``known``: what was read before; only what changed since
    is decoded. StoreUnavailable."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.rules(store.prefix))
    number = int(flat.pop(_VERSION, 0))
    found: dict[str, StoredRules] = {}
    for name, raw in flat.items():
        queue = name.decode("utf-8", "replace")
        before = known.get(queue)
        found[queue] = before if before is not None and before.raw == raw else StoredRules.read(raw)
    return number, found


async def change(
    store: Store, changes: Sequence[tuple[str, bytes, bytes]], *, only_first: bool = False, above: int = 0
) -> tuple[str, int]:
    """Stores (queue, rules as they were read, new ones) all or none. StoreUnavailable.

    Returns ('stored', version), ('changed', version) where others stand there by now, or ('full', version).
    ``only_first``: only where no rule was ever stored. ``above``: a version that the new one is above.
    """
    args: list[Any] = [int(only_first), MOST, above]
    for queue, old, new in changes:
        args += (queue, old, new)
    word, number = await store.runner.run(ScriptCall("rules", keys.rules(store.prefix), args))
    return word.decode(), number


async def begin(store: Store, first: Mapping[str, QueueRules]) -> None:
    """Stores rules if none were ever stored. Time keepers copy them. StoreUnavailable."""
    if first and not await version(store):
        await change(store, [(queue, b"", encode(one_, {})) for queue, one_ in first.items()], only_first=True)


# -- the copy in each partition -----------------------------------------------------------------------------------


def codes(stored: Mapping[str, QueueRules]) -> dict[bytes, bytes]:
    """What the scripts must know, as it stands in the hash `keys.steered`.

    Of each queue a NUL byte, its name as lanes spell it, byte 1, one character (1 paused, 0 not, - as all others are),
    and its other rules (``name=value name=value``; nothing: as all others are). Many queues stand one behind the other
    in one field (`steered_group`); all others in the field ``*``. A queue that is as all others are is not there.
    """
    default = stored.get(OTHERS, NO_RULES)
    others, rest = bool(default.paused), _more(default)
    found: dict[bytes, bytes] = {b"*": _code(b"*", b"1" if others else b"0", rest)} if others or rest else {}
    groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for queue, rules in stored.items():
        if queue == OTHERS:
            continue
        pause = b"-" if rules.paused is None or rules.paused == others else b"1" if rules.paused else b"0"
        # Where only the others are let go at a rate, a queue may have less than they: "-" stands for none.
        text = b"" if (own := _more(rules.over(default))) == rest else own or b"-"
        if pause != b"-" or text:
            name = b"" if queue == DEFAULT_QUEUE else queue.encode()
            groups[steered_group(name)].append(_code(name, pause, text))
    return found | {group: b"".join(sorted(some)) for group, some in groups.items()}


def steered_group(queue: bytes) -> bytes:
    """The field of `keys.steered` in which a queue's rules stand, the queue as lanes spell it; one of 256."""
    return sha1(queue, usedforsecurity=False).hexdigest()[:2].encode()


def _code(name: bytes, pause: bytes, text: bytes) -> bytes:
    return b"\0" + name + b"\1" + pause + text


def _more(rules: QueueRules) -> bytes:
    """What scripts must know beside the pause; b"" for nothing."""
    slack = rules.slack or Slack()
    levels = (("high", slack.high_ms), ("normal", slack.normal_ms), ("low", slack.low_ms))
    parts = [f"{name}={ms}" for name, ms in levels if ms is not None]
    if rules.limited:
        parts.append("limited=1")
    if rules.concurrency is not None:
        parts.append(f"concurrency={rules.concurrency}")
    if (pace := rules.pace) is not None:
        permits, hold_ms = pace.permits(rules.burst)
        parts.append(f"rate={permits},{hold_ms}")
    if rules.keys:
        parts.append("keys=" + ";".join(map(_key_limit, rules.keys)))
    if rules.key_keep_ms is not None:
        parts.append(f"key_keep={rules.key_keep_ms}")
    return " ".join(parts).encode()


def _key_limit(limit: KeyLimit) -> str:
    permits, hold_ms = ("-", "-") if limit.rate is None else limit.rate.permits(limit.burst)
    return f"{limit.by},{'-' if limit.concurrency is None else limit.concurrency},{permits},{hold_ms}"


class Copies(NamedTuple):
    """``behind``: partitions that do not have a version yet, nor a later one. ``newest``: the latest that any has.
    ``away``: partitions whose server does not answer, or which move to another one."""

    behind: list[int]
    newest: int
    away: list[int]


async def copies(store: Store, partitions: Iterable[int], number: int) -> Copies:
    """What partitions have of this version. StoreUnavailable."""
    wanted = list(partitions)
    commands: list[Command] = [("HMGET", keys.clock(store.tags[p]), "rules", "grouped") for p in wanted]
    found = Copies([], 0, [])
    newest = 0
    for p, marks in zip(wanted, await store.servers.replies(commands), strict=True):
        if isinstance(marks, PartAway):
            found.away.append(p)
            continue
        if isinstance(marks, BaseException):
            raise marks
        newest = max(newest, _version_of(marks))
        if not _has(marks, number):
            found.behind.append(p)
    return found._replace(newest=newest)


async def copy(store: Store, partitions: Iterable[int], number: int, wanted: Mapping[bytes, bytes]) -> None:
    """Brings the `codes` of a version into partitions that have an older one. StoreUnavailable, when all others have
    it."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def into(p: int) -> None:
        async with room:
            await _copy(store, p, number, wanted)

    for end in await asyncio.gather(*(into(p) for p in partitions), return_exceptions=True):
        if end is not None:
            raise end


async def _copy(store: Store, p: int, number: int, wanted: Mapping[bytes, bytes]) -> None:
    tag = store.tags[p]
    while True:
        found = await store.servers.ask("HMGET", keys.clock(tag), "rules", "grouped")
        if _has(found, number):
            return
        mark: bytes = found[0] or b""
        # The mark was read first: whatever changes after that changes the mark as well, and the script refuses.
        here: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.steered(tag))
        changes = [(name, code) for name, code in wanted.items() if here.get(name) != code]
        changes += [(name, b"") for name in here if name not in wanted]
        # Nobody was paused or released since a copy that was completed, so no lane has to move.
        behind_ = _END if not changes and b"~" not in mark else b""
        at = 0
        while True:
            part = _part(changes, at)
            rest = len(changes) > at + len(part)
            step = b"%d~%b" % (number, os.urandom(8).hex().encode())
            args: list[Any] = [mark, step, b"" if rest else b"%d" % number, behind_, number]
            for pair in part:
                args += pair
            stands, behind_ = await store.runner.run(ScriptCall("steer", tag, args))
            if stands == b"%d" % number:
                return
            if stands != step:
                break  # somebody else copies as well
            mark, at = step, at + len(part)


def _part(changes: Sequence[tuple[bytes, bytes]], at: int) -> Sequence[tuple[bytes, bytes]]:
    """What the next script copies: the changes from ``at`` on, within its bounds."""
    behind_, size = at, 0
    while behind_ < min(at + _PART, len(changes)) and (behind_ == at or size + len(changes[behind_][1]) <= _PART_BYTES):
        size += len(changes[behind_][1])
        behind_ += 1
    return changes[at:behind_]


def _has(found: Sequence[bytes | None], number: int) -> bool:
    """Whether a partition whose ``rules`` and ``grouped`` are ``found`` has that version or a later one, whole.

    A copy in another form than this version's has a lower ``grouped``, or none.
    """
    have = _version_of(found)
    return have > number or (have == number and b"~" not in (found[0] or b"") and int(found[1] or 0) >= number)


def _version_of(found: Sequence[bytes | None]) -> int:
    return int((found[0] or b"").partition(b"~")[0] or 0)
