"""What `make demo` draws on a terminal while its tasks fire."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

from rich.console import Console

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def half_fired(out: io.StringIO, *, terminal: bool) -> None:
    """Half of the tasks have fired, the last of them very late."""
    demo: dict[str, Any] = runpy.run_path(str(DEMO))
    console = Console(file=out, force_terminal=terminal, width=100, no_color=True)
    due = {f"task {n}": 1_000_000 + n * demo["SPREAD_MS"] // demo["TASKS"] for n in range(demo["TASKS"])}
    view = demo["View"](console, due, "http://localhost:8088/dashboard")
    for n in range(100):
        view.add(demo["Fired"](f"id-{n}", f"task {n}", 40.0 if n == 99 else 0.4, 1_000_000.0 + n))
    if terminal:
        console.print(view._render())


def test_a_terminal_shows_a_histogram_what_is_to_come_and_the_last_ones() -> None:
    out = io.StringIO()
    half_fired(out, terminal=True)
    screen = out.getvalue()
    late = {line.split(" ms")[0].strip(): line.rstrip() for line in screen.splitlines() if " ms" in line}
    assert late["up to 0.5"].count("█") > 30 and late["up to 0.5"].endswith("99")
    assert late["over 16"].endswith("1") and late["up to 8"].endswith("0")
    assert "100 in 6 s" in screen and "100 of 200 fired" in screen
    assert "+40.00 ms" in screen and "id-99" in screen and "id-93" not in screen
    assert "look at it: http://localhost:8088/dashboard" in screen


def test_elsewhere_it_writes_a_line_from_time_to_time() -> None:
    out = io.StringIO()
    half_fired(out, terminal=False)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and all("fired so far" in line and "█" not in line for line in lines)
