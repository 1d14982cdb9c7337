"""Colours for people at a terminal, by rich; a pipe, a file and NO_COLOR get the text as it is."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WORDS = {
    "bold red": r"\b(failed|dead|THE STORE DOES NOT ANSWER THE NODE)\b",
    "green": r"\b(succeeded|connected)\b",
    "yellow": r"\b(ready|paused|waits|away)\b",
    "magenta": r"\brunning\b",
    "blue": r"\bscheduled\b",
    "cyan": r"[█▏▎▍▌▋▊▉▁▂▃▄▅▆▇]+|#{2,}",
}
"""Styles of words and bars, wherever they stand in an answer that is drawn."""


def wanted() -> bool:
    """Whether stdout is a terminal that shows colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, *, header: bool = False) -> str:
    """The text with a terminal's colours. ``header``: its first line is that of a table. The characters stay as they
    are, so that widths do too."""
    from rich.text import Text

    first, end, rest = text.partition("\n") if header else ("", "", text)
    lines = Text(rest)
    for style, words in _WORDS.items():
        lines.highlight_regex(words, style)
    return _rendered(Text.assemble((first, "dim"), end, lines))


_KINDS = {
    "scheduled": "blue",
    "changed": "cyan",
    "fired": "magenta",
    "retried": "yellow",
    "dead": "bold red",
    "cancelled": "dim",
    "completed": "green",
}


def event(line: str, kind: str) -> str:
    """A line about an event, its kind in its colour, on a terminal that shows colours."""
    if not wanted():
        return line
    from rich.text import Text

    text = Text(line)
    text.stylize("dim", 0, 12)
    text.highlight_words([f"  {kind} "], _KINDS.get(kind, "bold"))
    return _rendered(text)


def missed(line: str) -> str:
    """A line that says that something is missing."""
    if not wanted():
        return line
    from rich.text import Text

    return _rendered(Text(line, style="bold yellow"))


def _rendered(text: Text) -> str:
    console = _console()
    with console.capture() as captured:
        console.print(text, end="", soft_wrap=True)
    return captured.get()


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(force_terminal=True, highlight=False, markup=False, emoji=False)
