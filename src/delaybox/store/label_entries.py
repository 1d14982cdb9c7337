"""Entries of the index of labels: where each lies, and how new ones are sent.

Pure. `labels` reads and mends the index; scripts/lib/listing.lua and scripts/lib/extension.lua keep it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import pack

from delaybox.core import ids
from delaybox.store.record import LABELS, Draft, Record, extension_entries, with_entry

FUNCTION = "function()"
"""Stands for the name of a task's function or command where labels are named. No label can be named so."""
SETS = 64
"""Sets of one partition that the entries of changed tasks are spread over."""
LISTS = 8
"""Lists of one partition that entries which were looked at once are spread over."""
MARK = 4
_PLACE = 2 + MARK
ENTRY = ids.ID_BYTES + MARK
TOGETHER = 500
"""Entries of one element of a list at most, as many as a script stores tasks: it is searched as one string."""


@lru_cache(maxsize=4096)
def place(name: str, value: str) -> bytes:
    """The number of the set (u16) and the mark (4 bytes) of a label. Part of the stored format."""
    digest = blake2b(f"{name}\0{value}".encode(), digest_size=_PLACE).digest()
    number = int.from_bytes(digest[:2], "big") % SETS
    return number.to_bytes(2, "big") + digest[2:]


def entry(indexed: Collection[str], labels: Mapping[str, str], function: str = "") -> bytes:
    """The places of a task with these labels, one behind the other; b"" where none of them is indexed.

    ``function``: the function or command that it names, which is indexed as a label is.
    """
    found = b"".join([place(name, labels[name]) for name in sorted(labels) if name in indexed])
    return place(FUNCTION, function) + found if function and FUNCTION in indexed else found


def draft_with(new: Draft, indexed: Collection[str], labels: Mapping[str, str], function: str = "") -> None:
    """Adds the entries of a new task."""
    value = entry(indexed, labels, function)
    if value and new.replace:
        # What is replaced again and again would leave an entry behind each time, if it was entered in lists.
        new.record = with_entry(new.record, LABELS, value)
    else:
        new.labels = value


def places(value: bytes) -> list[bytes]:
    """The parts of what `entry` makes: one for each label."""
    return [value[at : at + _PLACE] for at in range(0, len(value) - _PLACE + 1, _PLACE)]


# -- lists: an element holds marks, then as many ids ---------------------------------------------------------------


def new_entries(tasks: Iterable[tuple[int, bytes]], count: int) -> list[bytes]:
    """The arguments by which a script enters new tasks, each given by its place among the ``count`` tasks of the call,
    from 1, and by what `entry` makes of its labels. lib/listing.lua reads them. The first labels of all tasks make one
    element, the second ones another, because tasks of one call mostly have the same labels."""
    columns: list[tuple[list[int], list[bytes]]] = []
    for index, value in tasks:
        for column, at in enumerate(range(0, len(value), _PLACE)):
            if column == len(columns):
                columns.append(([], []))
            where, marks = columns[column]
            where.append(index)
            marks.append(value[at + 2 : at + _PLACE])
    out: list[bytes] = []
    for where, marks in columns:
        out += (b"" if len(where) == count else pack(f">{len(where)}H", *where), b"".join(marks))
    return out


def listed(task_id: bytes, where: bytes) -> bytes:
    """The entry of a task with a label: id and mark. ``where``: as `place` makes it."""
    return task_id + where[2:]


def number_of(mark: bytes) -> int:
    """The number of the list for entries with this mark, or with what ends so."""
    return mark[-1] % LISTS


def elements(entries: Sequence[bytes]) -> list[bytes]:
    """Elements of a list that hold these entries."""
    out: list[bytes] = []
    for at in range(0, len(entries), TOGETHER):
        some = entries[at : at + TOGETHER]
        out.append(b"".join([one[ids.ID_BYTES :] for one in some] + [one[: ids.ID_BYTES] for one in some]))
    return out


def split(element: bytes) -> list[bytes]:
    """The entries of an element of a list."""
    count = len(element) // ENTRY
    first, size = MARK * count, ids.ID_BYTES
    return [
        element[first + size * n : first + size * (n + 1)] + element[MARK * n : MARK * (n + 1)] for n in range(count)
    ]


# -- sets, as records say -----------------------------------------------------------------------------------------


def entries_of(record: Record) -> list[tuple[int, bytes]]:
    """(number of the set, member of it) of each entry that the sets must have of a record."""
    return [(int.from_bytes(where[:2], "big"), record.task_id + where[2:]) for where in in_sets(record)]


def in_sets(record: Record) -> list[bytes]:
    """The places of a task that sets have, as its record says; what lists have it does not say."""
    return places(extension_entries(record.extension).get(LABELS, b"")) if record.extension else []
