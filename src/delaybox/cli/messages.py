"""Prints messages for the person at the terminal on stderr (JSON lines with --log-format json or --json), and a
command's answer on stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

from delaybox.cli import colour
from delaybox.core import texts

as_json = False


def out(text: str) -> None:
    """A command's answer."""
    try:
        print(text, flush=True)  # noqa: T201
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode(), flush=True)  # noqa: T201


def table(text: str) -> None:
    """A table as an answer, in colours where the terminal has some; its first line is the header."""
    out(colour.painted(text, header=True) if colour.wanted() else text)


def drawn(text: str) -> None:
    """An answer with bars or states, in colours where the terminal has some."""
    out(colour.painted(text) if colour.wanted() else text)


def out_json(value: Any) -> None:
    """A command's answer as one line of JSON."""
    print(json.dumps(value), flush=True)  # noqa: T201


def width() -> int:
    """Columns of the terminal on stdout; 0 where there is none, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def blocks() -> bool:
    """Whether stdout can take characters that draw."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def error(text: str, **facts: Any) -> None:
    """Each line of ``text`` as an error. ``facts`` go along in JSON."""
    for line in text.splitlines() or [text]:
        _write("error", line, "31", facts)


def warning(text: str) -> None:
    _write("warning", text, "33")


def note(text: str) -> None:
    _write("info", text, "2")


def _write(level: str, text: str, color: str, facts: dict[str, Any] | None = None) -> None:
    if as_json:
        line = json.dumps({"level": level, "event": text, **(facts or {})})
    else:
        # A node's answer or an error can repeat what somebody else wrote.
        shown = texts.line(text if level == "info" else f"{level}: {text}")
        colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        line = f"\x1b[{color}m{shown}\x1b[0m" if colored else shown
    print(line, file=sys.stderr, flush=True)  # noqa: T201
