"""Names in a node's errors: it calls by the fields of REST what the person at this terminal typed as options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import typer
from typer.main import get_command

_OPTIONS: Final[Mapping[str, Sequence[str]]] = {
    "at.fold": ("--fold",),
    "at.local": ("--at",),
    "at.zone": ("--zone",),
    "due_from": ("--from",),
    "due_to": ("--to",),
    "ended_from": ("--from",),
    "ended_to": ("--to",),
    "free_keys": ("--free-key",),
    "headers": ("--header",),
    "idempotency_key": ("--key",),
    "keys": ("--per",),
    "labels": ("--label",),
    "paused": ("--pause",),
    "prefers": ("--prefer",),
    "requires": ("--require",),
    "retry.backoff.initial": ("--backoff",),
    "retry.backoff.max": ("--backoff-max", "--max-backoff"),
    "retry.max_attempts": ("--attempts", "--max-attempts"),
}
"""Of fields whose option has another name."""
_FIELD: Final = re.compile(r"(?<![\w.'\"`/-])[a-z]+(?:[_.][a-z]+)+(?![\w.'\"`/=\[-])")
"""A name of several words: no word of a sentence looks like that."""
_VALUES: Final = re.compile(r"; (?:did you mean|there are) ")
"""What follows are values to be given, such as the rules that --clear takes."""
_LAST_PART: Final = re.compile(r"(?:\[\d+\]|\.[^.\[]*|[^.\[\]]+)$")


def option_of(field: str, options: Iterable[str]) -> str:
    """The one of a command's ``options`` that stands for a field of REST; "" for none. For a part of a field
    (``keys[0].rate``) the option of the whole."""
    known = frozenset(options)
    while field:
        if found := _exactly(field, known):
            return found
        field = _LAST_PART.sub("", field)
    return ""


def _exactly(field: str, known: frozenset[str]) -> str:
    names = (*_OPTIONS.get(field, ()), f"--{field.replace('_', '-')}")
    return next((name for name in names if name in known), "")


def named(fields: Iterable[str]) -> str:
    """The options that stand for these fields of REST in commands on tasks, as they are typed."""
    return ", ".join(_OPTIONS.get(field, (f"--{field.replace('_', '-')}",))[0] for field in sorted(fields))


def in_options(text: str, field: str, options: Iterable[str]) -> str:
    """An error's text, with a command's options in place of the fields that they stand for. ``field``: the one that the
    error is about, with which its text begins."""
    known = frozenset(options)

    def typed(found: re.Match[str]) -> str:
        return _exactly(found[0], known) or found[0]

    option = option_of(field, known)
    begins = re.match(rf"{re.escape(field)}(?![\w.\[])", text) if option else None
    at = 0 if begins is None else begins.end()
    found = _VALUES.search(text, at)
    end = len(text) if found is None else found.start()
    return (option if at else "") + _FIELD.sub(typed, text[at:end]) + text[end:]


def options_of(app: typer.Typer, words: Sequence[str]) -> frozenset[str]:
    """The options of the command that these words of a command line call."""
    command: Any = get_command(app)
    for word in (word for word in words if not word.startswith("-")):
        commands = getattr(command, "commands", None)
        if commands is None:
            break
        # A group that does something by itself shows (`queues mail`).
        command = commands.get(word) or commands.get("show") or command
    return frozenset(name for one in command.params for name in one.opts)
