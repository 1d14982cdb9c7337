"""Words to the person at the terminal, on stderr; with --log-format json, lines a log collector can read."""

from __future__ import annotations

import json
import sys

as_json = False


def error(text: str) -> None:
    """Each line of ``text`` as an error."""
    for line in text.splitlines() or [text]:
        _write("error", line, "31")


def warning(text: str) -> None:
    _write("warning", text, "33")


def note(text: str) -> None:
    _write("info", text, "2")


def _write(level: str, text: str, color: str) -> None:
    if as_json:
        line = json.dumps({"level": level, "event": text})
    else:
        said = text if level == "info" else f"{level}: {text}"
        line = f"\x1b[{color}m{said}\x1b[0m" if sys.stderr.isatty() else said
    print(line, file=sys.stderr, flush=True)  # noqa: T201
