"""Tables for people at a terminal, laid out by rich: what a column has no room for goes on in the next line."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

from rich.cells import cell_len
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
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="")
    last = len(sizes) - 1
    for at, (name, size) in enumerate(zip(lines[0], sizes, strict=True)):
        cut = free and at == last
        table.add_column(
            Text(name),
            width=size,
            justify="right" if at in right else "left",
            overflow="ellipsis" if cut else "fold",
            no_wrap=cut,
        )
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    out = io.StringIO()
    Console(file=out, width=width, height=25, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


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
