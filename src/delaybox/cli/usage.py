"""Reports wrong usage, and handles a closed stdout."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from delaybox.cli import messages

ClickError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""typer brings a copy of click, or uses the installed one: one of its errors leads to the others."""
UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""A command was called in a wrong way."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing that are no mistake of the program."""
_NAMED = re.compile(r"(?<=['\])]): ")
_NUMBERS = {
    "int_parsing": "whole number",
    "int_parsing_size": "whole number of that size",
    "float_parsing": "number",
}
_AFTER_THE_COMMAND = ("--server", "--token", "--json")
"""Options that every command on tasks takes, and that other programs take before their commands."""


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether errors must be printed as JSON, as far as arguments show that may be wrong themselves."""
    before = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    return "--json" in before or "--log-format=json" in before or ("--log-format", "json") in itertools.pairwise(before)


def report(error: Exception) -> int:
    """Reports wrong usage in a line, and where the right one is described. Returns the exit code."""
    wrong: Any = error
    # The command did not come to read it.
    messages.as_json = messages.as_json or asks_for_json(sys.argv[1:])
    context = getattr(error, "ctx", None)
    text = " ".join(str(wrong.format_message()).split()).replace(": Value error, ", ": ")
    if (why := _no_number(error)) is not None:
        # Up to the end of the option's name, which may be followed by "(env var: 'NAME')".
        text = f"{re.split(_NAMED, text, maxsplit=1)[0]}: {why}"
    if type(error).__name__ == "NoArgsIsHelpError":
        wrong.show()
    else:
        mend = f" (see `{context.command_path} --help`)" if context is not None else ""
        if context is not None and context.parent is None and getattr(error, "option_name", "") in _AFTER_THE_COMMAND:
            text = (
                f"{wrong.option_name} stands before the command; write it after it: delaybox list {wrong.option_name}"
            )
        messages.error(f"{text.rstrip('.')}{mend}", code="usage")
    return int(wrong.exit_code)


def _no_number(error: Exception) -> str | None:
    """What is wrong with a number that is none, or is too small or too large: the error's own words lack the value."""
    reasons: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not reasons:
        return None
    value = str(reasons[0]["input"])[:40]
    if (wanted := _NUMBERS.get(str(reasons[0].get("type")))) is not None:
        return f"{value!r} is no {wanted}; give one"
    bounds = reasons[0].get("ctx", {})
    words = [f"{word} {bounds[name]}" for name, word in (("ge", "at least"), ("le", "at most")) if name in bounds]
    return f"{value} is out of range; give {words[0]}" if words else None


def have_streams() -> None:
    """Where stdout or stderr is closed, what is written there goes nowhere, as it would by itself."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for the rest of the process
