"""Splits items into calls of scripts that are small enough, and reads the reply for each item. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from delaybox.core import ids
from delaybox.store.label_entries import new_entries
from delaybox.store.replies import MAX_ITEMS, Batch, Stored

_T = TypeVar("_T")

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Most bytes of large bodies, or of results, in one call."""
_HEAD = 9
"""Arguments of schedule.lua before its tasks."""
_RELATIVE = ids.RELATIVE


def by_bytes(items: Sequence[_T], size: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Groups of at most MAX_ITEMS items and about MAX_BODY_BYTES."""
    group: list[_T] = []
    total = 0
    for item in items:
        if group and (len(group) >= MAX_ITEMS or total + size(item) > MAX_BODY_BYTES):
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group


def schedule_args(head: Iterable[Any], batch: Batch, tails: list[bytes]) -> list[Any]:
    """The arguments of schedule.lua, or replace.lua, behind ``head``. ``tails``: the ends of the new ids."""
    if batch.replace:
        return _replace_args(head, batch, tails)
    keyed: list[Any] = []
    bodies: list[Any] = []
    grouped: list[Any] = []
    labelled: list[tuple[int, bytes]] = []
    items: list[Any] = []
    for i, (d, tail) in enumerate(zip(batch.drafts, tails, strict=True), 1):
        template = d.due48.to_bytes(6, "big") + tail
        items += (template, d.record)
        if d.labels:
            labelled.append((i, d.labels))
        if d.key is not None:
            keyed += (i, d.key, d.fingerprint)
        if d.body is not None:
            bodies += (i, d.body)
        if d.group is not None:
            grouped += (i, d.group)
    counts = (len(tails), len(keyed) // 3, len(bodies) // 2, len(grouped) // 2)
    return [*head, *counts, *items, *keyed, *bodies, *grouped, *new_entries(labelled, len(tails))]


def _replace_args(head: Iterable[Any], batch: Batch, tails: list[bytes]) -> list[Any]:
    items: list[Any] = []
    for d, tail in zip(batch.drafts, tails, strict=True):
        items += (d.due48.to_bytes(6, "big") + tail, d.record, d.key, d.fingerprint, d.body or b"", d.max_wait_ms)
    return [*head, *items]


def _replaced(reply: list[Any]) -> list[Stored]:
    return [
        Stored(task_id, due, word == b"new", word == b"conflict")
        for word, task_id, due in zip(reply[0::3], reply[1::3], reply[2::3], strict=True)
    ]


def answers(batch: Batch, args: Sequence[Any], reply: list[Any]) -> list[Stored]:
    """What became of each task of a batch, read from the script's reply to these arguments."""
    if batch.replace:
        return _replaced(reply)
    now: int = reply[0]
    out: list[Stored] = []
    keyed = 0
    templates = args[_HEAD : _HEAD + 2 * len(batch.drafts) : 2]
    for d, template in zip(batch.drafts, templates, strict=True):
        due = d.due48
        if now <= due < _RELATIVE:
            # As it stands in the template.
            task_id = template
        else:
            due = due - _RELATIVE + now if due & _RELATIVE else now
            task_id = due.to_bytes(6, "big") + template[6:]
        if d.key is not None:
            keyed += 1
            held: bytes = reply[keyed]
            if held:
                why = held[:-16]
                first = held[-16:]
                out.append(Stored(first, ids.due_ms(first), False, why == b"!", why == b"~"))
                continue
        out.append(Stored(task_id, due))
    return out
