"""Entries of the index of labels: where each lies, what a task's record says of its own, and how new ones are sent.

Pure. `labels` reads and mends the index; scripts/lib/extension.lua keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from delaybox.store.record import LABELS, Draft, Record, extension_entries, with_entry

FUNCTION = "function()"
"""Stands for the name of a task's function or command where labels are named. No label can be named so."""
SETS = 64
"""Sets of one partition that the entries are spread over. With a million tasks in 16 partitions each has 1,000 entries
of a label: so few sets that the 500 tasks of one script share them, and so many that one is looked through quickly."""
_MARK = 4
_PLACE = 2 + _MARK
_MEMBERS = 1_000
"""Entries of one command at most: a script cannot pass on more than 8,000 arguments."""


@lru_cache(maxsize=4096)
def place(name: str, value: str) -> bytes:
    """The number of the set (u16) and the mark (4 bytes) of a label. Part of the stored format."""
    digest = blake2b(f"{name}\0{value}".encode(), digest_size=_PLACE).digest()
    number = int.from_bytes(digest[:2], "big") % SETS
    return number.to_bytes(2, "big") + digest[2:]


def entry(indexed: Collection[str], labels: Mapping[str, str], function: str = "") -> bytes:
    """What a record's extension says of a task with these labels; b"" where none of them is indexed.

    ``function``: the function or command that it names, which is indexed as a label is.
    """
    found = b"".join([place(name, labels[name]) for name in sorted(labels) if name in indexed])
    return place(FUNCTION, function) + found if function and FUNCTION in indexed else found


def draft_with(new: Draft, indexed: Collection[str], labels: Mapping[str, str], function: str = "") -> None:
    """Adds the entry to a new task."""
    value = entry(indexed, labels, function)
    if value:
        new.record, new.labels = with_entry(new.record, LABELS, value), value


def new_entries(tasks: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """The arguments by which a script enters new tasks, each given by the template of its id and what its record's
    extension says: (number of the set, its entries as one string) ... As lib/newborn.lua reads them."""
    sets: dict[bytes, list[bytes]] = {}
    for template, value in tasks:
        for at in range(0, len(value), _PLACE):
            number, member = value[at : at + 2], template + value[at + 2 : at + _PLACE]
            members = sets.get(number)
            if members is None:
                sets[number] = [member]
            else:
                members.append(member)
    out: list[Any] = []
    for number, members in sets.items():
        for at in range(0, len(members), _MEMBERS):
            out += (int.from_bytes(number, "big"), b"".join(members[at : at + _MEMBERS]))
    return out


def entries_of(record: Record) -> list[tuple[int, bytes]]:
    """(number of the set, member of it) of each entry that the index must have of a record."""
    value = extension_entries(record.extension).get(LABELS, b"") if record.extension else b""
    return [
        (int.from_bytes(value[at : at + 2], "big"), record.task_id + value[at + 2 : at + _PLACE])
        for at in range(0, len(value) - _PLACE + 1, _PLACE)
    ]
