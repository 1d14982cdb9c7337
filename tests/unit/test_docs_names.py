"""Settings, variables, scopes, commands, options and routes: what documents name exists, what exists is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from delaybox.api import call_scopes
from delaybox.cli.app import app as cli
from delaybox.config.load import _FIELDS, _VARIABLES, ORIGINAL_VARIABLES, _plain
from delaybox.core.scopes import Access

ROOT = Path(__file__).parents[2]
# Of the past: decisions and what changed keep the names of their time.
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("docs/howto/*.md")]
_GENERATED = re.compile(r"<!-- generated: (\w+) -->\n.*?\n<!-- end -->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"(?:^[$ ]*|[(/]|\$\()delaybox ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)([^|#;\n]*)")
SECTIONS = {key.partition(".")[0] for key in _FIELDS if "." in key}
_FILES = (".yaml", ".yml", ".txt", ".py", ".properties", ".lua")
FOREIGN_VARIABLES = {
    "CONFIG", "SERVER", "GRPC_SERVERS", "WORKER_REDIS", "WORKER_METRICS_PORT", "WORKER_METRICS_HOST", "TOKEN",
    "TASK_ID", "ATTEMPT", "FENCING",
}  # fmt: skip
"""Without DELAYBOX_: what clients, workers, the command line and commands of tasks read."""


@cache
def text(page: Path) -> str:
    return page.read_text()


def pieces(page: Path) -> list[str]:
    """What a page shows as code, lines of shell that go on joined."""
    return [piece.strip("`").replace("\\\n", " ") for piece in _CODE.findall(text(page))]


@cache
def by_hand() -> str:
    return "\n".join(_GENERATED.sub("", text(page)) for page in PAGES)


@cache
def commands() -> dict[str, set[str]]:
    """Each command, and each group, with its options."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, set[str]]]:
        yield path, {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{path} {name}".strip())

    return dict(walk(typer.main.get_command(cli), ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for piece in pieces(page):
        for line in piece.splitlines():
            for match in _CALL.finditer(line):
                words, rest = match[1].split(), match[2]
                name = " ".join(words) if " ".join(words) in commands() else words[0]
                assert name in commands(), f"{page.name}: there is no command in `{line.strip()}`"
                used = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", f" {rest}"))
                assert used <= commands()[name] | {"--"}, f"{page.name}: `{line.strip()}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_routes_exist(page: Path) -> None:
    routes = {re.sub(r"\{[^}]*\}", "{}", route) for _, route in call_scopes.RULES}
    shapes = {(method, re.sub(r"\{[^}]*\}", "{}", route)) for method, route in call_scopes.RULES}
    for piece in pieces(page):
        for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_{}./$<>-]*)", piece):
            shape = re.sub(r"\{[^}]*\}|<[^>]*>|\$[A-Z_]+", "{}", path.rstrip("."))
            assert (method, shape) in shapes, f"{page.name}: {method} {path}"
        for path in re.findall(r"localhost:8088(/[A-Za-z0-9_{}./$-]*)", piece):
            shape = re.sub(r"\$[A-Z_]+|[0-9a-f]{8}-[0-9a-f-]+", "{}", path)
            assert shape in routes, f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_and_variables_exist(page: Path) -> None:
    known = {*_FIELDS, *(f"{key.rpartition('.')[0]}" for key in _FIELDS)} | {
        ".".join(key.split(".")[:n]) for key in _FIELDS for n in (1, 2)
    }
    for piece in pieces(page):
        for key in re.findall(r"(?<![\w./-])([a-z]+[A-Za-z]*(?:\.[a-z][A-Za-z]+)+)(?![\w./(-])", piece):
            if key.partition(".")[0] in SECTIONS and not key.endswith(_FILES):
                assert key in known, f"{page.name}: there is no setting {key}"
        for key in re.findall(r"--set ([a-z][A-Za-z.]*)=", piece):
            assert key in known, f"{page.name}: there is no setting {key}"
        for name in re.findall(r"\bDELAYBOX_([A-Z_]+)\b(?!…)", piece):
            assert _plain(name) in _VARIABLES or name in FOREIGN_VARIABLES, f"{page.name}: DELAYBOX_{name}"
        for name in re.findall(r"\b(?:APP_|REDIS_)[A-Z_]+\b(?!\.)", piece):
            there = name in ORIGINAL_VARIABLES or _plain(name.removeprefix("APP_")) in _VARIABLES
            assert there or name == "APP_CONF_PATH", f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scopes_exist(page: Path) -> None:
    found = set(re.findall(r"\bscopes? `(\w+)`|--scope (\w+)", text(page)))
    named = {one or other for one, other in found}
    for listed in re.findall(r"\bscopes: \[([\w, ]*)\]", text(page)):
        named |= set(listed.replace(" ", "").split(","))
    assert named <= {access.value for access in Access}, page.name


def test_every_scope_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", by_hand(), re.MULTILINE))
    assert {access.value for access in Access} <= explained


def test_every_command_is_told_of_by_hand() -> None:
    described = by_hand()
    named = [name for name in commands() if name]
    assert [name for name in named if f"`{name}" not in described and f"delaybox {name}" not in described] == []


def test_every_route_and_method_is_in_a_table() -> None:
    pages = "\n".join(text(page) for page in PAGES)
    assert [route for route in call_scopes.RULES if f"`{' '.join(route)}`" not in pages] == []
    ours = [name for name in call_scopes.GRPC_RULES if name.startswith("/delaybox.")]
    assert [name for name in ours if f"`{name.split('.')[-1].replace('/', '.')}`" not in pages] == []


def test_every_setting_is_in_the_table_and_no_document_says_that_workers_are_missing() -> None:
    table = text(ROOT / "docs" / "configuration.md")
    assert [key for key in _FIELDS if f"| `{key}` |" not in table] == []
    # The words of versions that had no workers.
    paths = [*PAGES, *(ROOT / "src").rglob("*.py")]
    assert [path.name for path in paths if re.search(r"serves? (no )?SDK workers", text(path))] == []
