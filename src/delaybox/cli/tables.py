"""Tables for people at a terminal, laid out by rich: what a column has no room for goes on in the next line."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 2
_NARROW = (8, 4)
"""Columns become no narrower than this while another one can; the second once all have the first."""


def drawn(lines: Sequence[Sequence[str]], *, right: Collection[int], width: int, free: bool = False) -> str:
    """The cells of a header and of rows, below each other in ``width``, without colours.

    Columns in ``right`` hold numbers, and the first one names what its row is of: both keep their width as long as
    they can. ``free``: the last column is free text, which becomes narrow first, and ends with … where it is longer;
    nothing else is cut.
    """
    sizes = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    sizes = _fitted(sizes, list(map(cell_len, lines[0])), {0, *right}, width, free=free)
    cut = len(sizes) - 1 if free else -1
    rows = (_row(line, sizes, right, width, cut, header=at == 0) for at, line in enumerate(lines))
    return "\n".join(rows)


def _row(
    line: Sequence[str], sizes: Sequence[int], right: Collection[int], width: int, cut: int, *, header: bool
) -> str:
    """One row, of several lines where a cell is longer than its column. ``cut``: the column that is cut instead."""
    cells = [
        f"{set_cell_size(cell, size - 1)}…" if at == cut and cell_len(cell) > size else cell
        for at, (cell, size) in enumerate(zip(line, sizes, strict=True))
    ]
    rooms = [size - cell_len(cell) for cell, size in zip(cells, sizes, strict=True)]
    if min(rooms) >= 0:
        # As most rows: rich needs a thousandth of a second for each, and there may be ten thousand.
        padded = (
            " " * room + cell if at in right else cell + " " * room
            for at, (cell, room) in enumerate(zip(cells, rooms, strict=True))
        )
        return (" " * _GAP).join(padded).rstrip()
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
    for at, size in enumerate(sizes):
        table.add_column(
            width=size,
            justify="right" if at in right else "left",
            vertical="bottom" if header else "top",
            overflow="fold",
            no_wrap=at == cut,
        )
    table.add_row(*map(Text, cells))
    out = io.StringIO()
    Console(file=out, width=width, height=25, color_system=None, legacy_windows=False).print(table)
    return "\n".join(one.rstrip() for one in out.getvalue().splitlines())


def _fitted(sizes: Sequence[int], names: Sequence[int], firm: Collection[int], width: int, *, free: bool) -> list[int]:
    """The columns' widths, so that all fit: the widest become narrower first, those in ``firm`` last. ``names``: the
    widths of their names."""
    fitted = list(sizes)
    over = sum(sizes) + _GAP * (len(sizes) - 1) - width
    leasts = [
        [
            size if at in firm else min(size, max(few, name))
            for at, (size, name) in enumerate(zip(sizes, names, strict=True))
        ]
        for few in _NARROW
    ]
    first = [leasts[0][at] if at == len(sizes) - 1 else size for at, size in enumerate(sizes)]
    for least in ([first] if free else []) + [*leasts, [min(size, _NARROW[0]) for size in sizes], [1] * len(sizes)]:
        while over > 0 and (wide := [at for at, size in enumerate(fitted) if size > least[at]]):
            widest = max(wide, key=lambda at: fitted[at])
            fitted[widest] -= 1
            over -= 1
    return fitted
