"""A start makes the parser of one command alone; it is the one that all of them together would have."""

from __future__ import annotations

import pytest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_group

from delaybox.cli.app import alone, app

ALL = get_group(app)
NAMES = sorted(ALL.commands)


def help_of(group: TyperGroup, name: str) -> str:
    """The help of a command, as `delaybox NAME --help` shows it."""
    above = Context(group, info_name="delaybox")
    command = group.commands[name]
    return command.get_help(Context(command, info_name=name, parent=above))


@pytest.mark.parametrize("name", NAMES)
def test_a_command_alone_is_the_same_command(name: str) -> None:
    found = get_group(alone([name, "--help"]))
    assert list(found.commands) == [name]
    assert help_of(found, name) == help_of(ALL, name)
    assert [one.name for one in found.params] == [one.name for one in ALL.params], "the options before the command"


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["no-such-command"], ["--", NAMES[0]]])
def test_whatever_names_no_command_gets_all_of_them(words: list[str]) -> None:
    assert alone(words) is app
