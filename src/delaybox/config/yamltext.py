"""Reads YAML for the configuration: checks its size first, and reports mistakes without showing values."""

from __future__ import annotations

import re

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, SequenceNode

MOST_BYTES = 1 << 20
MOST_VALUES = 50_000
"""When every alias is written out. Ten lines of aliases of aliases are ten thousand million values."""
DEEPEST = 64
_TOO_DEEP = f"it is nested over {DEEPEST} deep; flatten it"

_OF_YAML = re.compile(r"('(?:<[a-z -]+>|[^A-Za-z0-9'\"]{1,3})')")
"""What PyYAML quotes of the language itself; whatever else it quotes is the text's."""
_OF_THE_TEXT = re.compile(r"'.*'|\".*\"|\S*[^\x20-\x7e]\S*", re.DOTALL)
_QUOTES = re.compile(r"alias|anchor|tag|character|scanning")


class YamlMistake(ValueError):
    """What is wrong, without any of the text, which may be a secret. ``line`` from 1; 0: the whole text."""

    def __init__(self, words: str, line: int = 0) -> None:
        super().__init__(words)
        self.line = line


def read(text: str) -> object:
    """Lists, dicts and text, every scalar as it was written: YAML would make 83 of the password 0123. YamlMistake."""
    if len(text) > MOST_BYTES:
        raise YamlMistake(f"it has over {MOST_BYTES >> 20} MiB, more than any configuration; is it the right file?")
    try:
        _check_depth(text)
        loader = yaml.BaseLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {}, 1)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        pieces = _OF_YAML.split(str(getattr(error, "problem", None) or "it cannot be read"))
        problem = "".join(part if at % 2 else _OF_THE_TEXT.sub("…", part) for at, part in enumerate(pieces))
        if _QUOTES.search(problem):
            problem += " (a value that begins with * & ! % @ ` or holds ': ' or ' #' must stand in quotes)"
        raise YamlMistake(problem, mark.line + 1 if mark else 0) from None


def _check_depth(text: str) -> None:
    """YamlMistake for what is too deep or too much, before anything follows it down: kilobytes took seconds."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.BaseLoader)):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        line = event.start_mark.line + 1 if event.start_mark else 0
        if depth > DEEPEST:
            raise YamlMistake(_TOO_DEEP, line)
        if count > 2 * MOST_VALUES:
            raise YamlMistake(f"it has over {MOST_VALUES} values, more than any configuration", line)


def _measure(node: Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many values it is with its aliases written out, and how deep they go; YamlMistake for too many or too deep.

    ``known``: of those that were measured; (0, 0) under way.
    """
    size, height = known.get(id(node), (-1, 1))
    if size == 0:
        raise YamlMistake("an alias (*name) stands inside what it names; write the value out", _line(node))
    if depth + height > DEEPEST:
        raise YamlMistake(_TOO_DEEP, _line(node))
    if size > 0:
        return size, height
    known[id(node)] = (0, 0)
    size, height = 1, 1
    parts: list[Node] = []
    if isinstance(node, MappingNode):
        parts = [part for pair in node.value for part in pair]
        names: set[str] = set()
        for name, _ in node.value:
            if isinstance(name.value, str) and name.value in names:
                raise YamlMistake("a key above it in the same section has the same name", _line(name))
            names.add(str(name.value))
    elif isinstance(node, SequenceNode):
        parts = node.value
    for part in parts:
        its_size, its_height = _measure(part, known, depth + 1)
        size, height = size + its_size, max(height, its_height + 1)
    if size > MOST_VALUES:
        raise YamlMistake(
            f"with its aliases (*name) written out it has over {MOST_VALUES} values; use fewer of them", _line(node)
        )
    known[id(node)] = (size, height)
    return size, height


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
