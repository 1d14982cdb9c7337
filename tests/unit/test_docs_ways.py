"""The table of all ways in docs/queues.md: every name in it exists, and every rule and field of its kind is in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delaybox import Client, Worker
from delaybox.api.rest.v1.openapi import build
from delaybox.client.new_tasks import Filter, Options, RulesToSet
from delaybox.config.load import _FIELDS
from delaybox.wire.gen import scheduler_pb2, worker_pb2
from delaybox.wire.json.queue_rules import NAMES
from tests.unit.test_docs_names import commands

PAGE = (Path(__file__).parents[2] / "docs/queues.md").read_text()
TABLE = PAGE.partition("<!-- ways:")[2]
_NAME = re.compile(r"`([^`]+)`")


def rows() -> list[list[list[str]]]:
    """The names in each cell of each row, without its first."""
    lines = [line for line in TABLE.splitlines() if line.startswith("| ") and "---" not in line]
    found = [[_NAME.findall(cell) for cell in line.strip("|").split("|")[1:]] for line in lines]
    assert len(found) > 35 and all(len(row) == 5 for row in found)
    return found


def column(number: int) -> list[str]:
    return [name for row in rows() for name in row[number]]


def properties(node: Any) -> Iterator[str]:
    """The names of all fields and query parameters in a document of OpenAPI."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield from node["properties"]
        if node.get("in") == "query":
            yield node["name"]
        for value in node.values():
            yield from properties(value)
    elif isinstance(node, list):
        for value in node:
            yield from properties(value)


def test_what_it_says_of_rest_exists() -> None:
    document = build("", tokens=True)
    known = set(properties(document))
    for name in column(0):
        method, space, path = name.partition(" ")
        if space:
            assert method.lower() in document["paths"][path], name
        else:
            assert name in known, name


def test_what_it_says_of_grpc_exists() -> None:
    messages = {
        **scheduler_pb2.DESCRIPTOR.message_types_by_name,
        **worker_pb2.DESCRIPTOR.message_types_by_name,
    }
    calls = scheduler_pb2.DESCRIPTOR.services_by_name["Scheduler"].methods_by_name
    for name in column(1):
        message, dot, field = name.partition(".")
        assert field in messages[message].fields_by_name if dot else name in calls, name


def test_what_it_says_of_the_command_line_exists() -> None:
    for name in column(2):
        command, _, option = name.partition(" --")
        assert command in commands() and (not option or f"--{option}" in commands()[command]), name


@pytest.mark.parametrize("kind", [Client, Worker])
def test_what_it_says_of_python_exists(kind: type) -> None:
    taken = {
        "schedule": Options.__annotations__,
        "set_queue": RulesToSet.__annotations__,
        "cancel_many": Filter.__annotations__,
        "run_now_many": Filter.__annotations__,
    }
    for name in column(3):
        called, _, argument = name.removesuffix(")").partition("(")
        if (called == "Worker") is not (kind is Worker):
            continue
        function = kind if called == "Worker" else getattr(kind, called)
        argument = argument.removesuffix("=")
        assert not argument or argument in {*inspect.signature(function).parameters, *taken.get(called, {})}, name


def test_what_it_says_of_the_configuration_exists() -> None:
    for name in column(4):
        key, _, rule = name.partition(": ")
        assert key in _FIELDS and (not rule or rule in NAMES), name


def test_no_rule_is_missing_in_any_way() -> None:
    fields = scheduler_pb2.DESCRIPTOR.message_types_by_name["Rules"].fields_by_name
    assert set(NAMES) <= set(column(0))
    assert {f"Rules.{name}" for name in fields} <= set(column(1))
    assert {f"set_queue({name}=)" for name in RulesToSet.__annotations__} <= set(column(3))
    assert {f"queues: {name}" for name in NAMES} <= set(column(4))
    beside = {"--server", "--token", "--json", "--help"}
    options = {option for option in commands()["queues set"] - beside if option.startswith("--")}
    assert {f"queues set {option}" for option in options} <= set(column(2))
