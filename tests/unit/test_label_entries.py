"""How entries of the index of labels are sent, and how they lie in lists."""

from __future__ import annotations

import random
from struct import iter_unpack

from delaybox.store.label_entries import TOGETHER, elements, entry, listed, new_entries, place, places, split


def test_what_is_sent_is_what_is_looked_for() -> None:
    rng = random.Random(1)
    for count in (0, 1, 2, 500):
        tasks = [{"a": str(rng.randrange(3)), "b": str(n)} for n in range(count)]
        tasks = [labels if rng.random() < 0.5 else {"a": labels["a"]} for labels in tasks]
        args = new_entries(((n, entry(("a", "b"), labels)) for n, labels in enumerate(tasks, 1)), count)
        assert args[::2][:1] == [b""][:count], "each task has a first label"
        sent: set[tuple[int, bytes]] = set()
        for where, marks in zip(args[::2], args[1::2], strict=True):
            numbers = [one for (one,) in iter_unpack(">H", where)] or list(range(1, count + 1))
            sent |= set(zip(numbers, [mark for (mark,) in iter_unpack("4s", marks)], strict=True))
        assert sent == {(n, place(name, labels[name])[2:]) for n, labels in enumerate(tasks, 1) for name in labels}
    assert places(entry(("a",), {"a": "1", "b": "2"})) == [place("a", "1")]


def test_elements_hold_what_was_put_into_them() -> None:
    rng = random.Random(1)
    for count in (0, 1, TOGETHER, 2 * TOGETHER + 1):
        entries = [listed(rng.randbytes(16), rng.randbytes(6)) for _ in range(count)]
        made = elements(entries)
        assert [one for element in made for one in split(element)] == entries
        assert all(len(element) <= 20 * TOGETHER for element in made)
