"""Every Lua file says what it takes, answers and bounds, and the loader puts it together."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from delaybox.core.membership import SILENT_MS
from delaybox.store import keys
from delaybox.store.loader import load, names

FOLDER = Path(str(resources.files("delaybox.store.scripts")))
# Refused by a full server itself; everything else must go on there (rule 12).
DENIED_WHEN_FULL = {"schedule", "replace", "ingest", "ready", "note", "import", "emit", "remember_failures"}
READ_ONLY = {
    "labelled", "forecast", "counts", "get", "oldest", "peek", "ping", "recall", "remain", "roster", "states",
    "upcoming",
}  # fmt: skip


def text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text()


def header(name: str) -> list[str]:
    """The comment lines between the shebang and the first line that is none."""
    lines = text(name).splitlines()
    assert lines[0].startswith("#!lua"), name
    out = []
    for line in lines[1:]:
        if not line.startswith("--") or line.startswith("--@"):
            break
        out.append(line)
    return out


def includes(name: str) -> list[str]:
    return re.findall(r"^--@include lib/(\w+)\.lua$", text(name), re.MULTILINE)


def test_there_are_scripts() -> None:
    assert {"schedule", "claim", "ack", "fail", "release", "extend", "reap", "expand", "index", "cancel"} <= set(
        names()
    )


@pytest.mark.parametrize("name", names())
def test_the_header_is_a_contract(name: str) -> None:
    lines = header(name)
    assert len(lines[0]) > 10, "the first line says what the step does"
    for part in ("KEYS", "REPLY", "BOUND"):
        assert any(line.startswith(f"-- {part} ") for line in lines), f"{name}.lua does not say its {part}"
    takes = [int(n) for n in re.findall(r"ARGV\[(\d+)\]", text(name))]
    doc = "\n".join(lines)
    if takes:
        assert "-- ARGV " in doc, f"{name}.lua takes arguments that its header does not name"
        for n in takes:
            assert re.search(rf"(ARGV |\s|, ){n} ", doc), f"{name}.lua reads ARGV[{n}], which its header does not name"
    if "guard" in includes(name):
        assert re.search(r"^-- ERRORS TRYAGAIN", doc, re.MULTILINE), f"{name}.lua can answer TRYAGAIN"


@pytest.mark.parametrize("name", ["ack", "complete", "release", "fail", "snooze", "reap", "index"])
def test_what_most_calls_do_not_need_is_not_sent_for_them(name: str) -> None:
    """What is compiled the server's collector visits again and again, and to make the functions of an included file
    takes longer than what is done for a lone task."""
    usual, mark, rest = text(name).partition("\n--@rest\n")
    for one in ("fair", "limits", "place"):
        assert mark and f"lib/{one}.lua" in rest and f"lib/{one}.lua" not in usual
    assert len(load(name, usual=True).source) < len(load(name).source) / 2
    assert load(name, usual=True).source.endswith("\nreturn 'WHOLE'\n") and "'WHOLE'" not in load(name).source


@pytest.mark.parametrize("name", ["ack", "complete"])
def test_what_gives_a_permit_back_is_sent_without_what_even_fewer_need(name: str) -> None:
    usual, lent, whole = (load(name, usual=part).source.removesuffix("return 'WHOLE'\n") for part in (1, 2, 0))
    assert lent.startswith(usual) and whole.startswith(lent)
    assert len(usual) < len(lent) / 2 and len(lent) < 0.7 * len(whole)
    assert [load(one, usual=2) for one in ("fail", "claim")] == [load(one) for one in ("fail", "claim")]


@pytest.mark.parametrize("name", [name for name in names() if "limits" in includes(name)])
def test_what_only_claims_do_with_permits_is_made_for_claims_alone(name: str) -> None:
    assert ("permits" in includes(name)) == (name == "claim")
    assert ("stands_apart" in includes(name)) == (name in ("check", "index"))


def test_plain_tasks_behind_the_horizon_are_looked_through_without_what_others_need() -> None:
    """The scrubber does this ten times a second, and claims wait meanwhile."""
    lines = text("index").splitlines()
    first = min(lines.index(f"--@include lib/{one}.lua") for one in ("extension", "fair", "limits"))
    assert any(line.startswith("  return { cursor") for line in lines[:first])


def test_some_ends_of_a_minute_are_noted_without_what_others_need() -> None:
    """With 16 partitions a node that is busy does this 160 times a second, and claims wait meanwhile."""
    usual, _, rest = load("note").source.partition("\n      return 0\n")
    assert rest and "keys" not in includes("note")
    assert sum(len(re.findall(r"\bfunction\b", line.split("--")[0])) for line in usual.splitlines()) <= 6


@pytest.mark.parametrize("name", ["schedule", "ingest"])
def test_a_plain_task_is_stored_without_what_few_need(name: str) -> None:
    usual, block, rest = load(name).source.partition("if ARGV[at] then")
    behind = rest.split("\nend\nerr = guard(", 1)[1]
    code = [line.split("--")[0] for line in (usual + behind).splitlines()]
    assert block and sum(len(re.findall(r"\bfunction\b", line)) for line in code) <= 50


@pytest.mark.parametrize("name", ["schedule", "ingest"])
def test_what_few_new_tasks_need_is_not_sent_for_the_others(name: str) -> None:
    """Half of what the server would keep of the script."""
    usual, whole = load(name, usual=True).source, load(name).source
    assert "if #new.extended > 0 then\nreturn 'WHOLE'\nend\n" in usual and len(usual) < 0.65 * len(whole)
    assert usual.splitlines()[-1] == whole.splitlines()[-1]


@pytest.mark.parametrize("name", ["schedule", "ingest"])
def test_a_label_brings_none_of_what_other_extensions_need(name: str) -> None:
    block = load(name).source.split("if ARGV[at] then", 1)[1].split("if #new.extended > 0 then", 1)[0]
    code = [line.split("--")[0] for line in block.splitlines()]
    assert "add_labels" in block and sum(len(re.findall(r"\bfunction\b", line)) for line in code) == 1


@pytest.mark.parametrize("table", ["fair", "labels", "permits"])
def test_a_table_makes_its_functions_when_one_is_used(table: str) -> None:
    """ADR 0070. What is indented by nothing stands outside, or within the function that makes the rest."""
    file = {"labels": "extension", "permits": "limits"}.get(table, table)
    made = text(f"lib/{file}").split(f"setmetatable({table}, {{" if table != "permits" else "setmetatable({}, {", 1)
    assert len(made) == 2 and len(re.findall(r"^local function |^function ", made[1], re.MULTILINE)) >= 6


@pytest.mark.parametrize("name", names())
def test_flags(name: str) -> None:
    shebang = text(name).splitlines()[0]
    flags = set(shebang.removeprefix("#!lua").strip().removeprefix("flags=").split(",")) - {""}
    want = set() if name in DENIED_WHEN_FULL else {"allow-oom"}
    assert flags == want | ({"no-writes"} if name in READ_ONLY else set())


@pytest.mark.parametrize("name", names())
def test_one_hash_tag_is_all_a_script_gets(name: str) -> None:
    body = load(name).source
    assert not re.search(r"KEYS\[(?!1\])", body), "every key is made from KEYS[1], the partition's hash tag"


@pytest.mark.parametrize("name", names())
def test_time_is_read_once_and_never_from_the_caller(name: str) -> None:
    assert "'TIME'" not in text(name), "now_ms of lib/time.lua is the one reader"
    assert len(re.findall(r"\bnow_ms\(\)", text(name))) <= (2 if name == "get" else 1)


@pytest.mark.parametrize("name", names())
def test_what_writes_looks_first(name: str) -> None:
    if name in READ_ONLY | {"beat", "create_store", "extend", "hold", "ready", "stamp", "sweep"}:
        return  # these touch one or two keys and each write is complete in itself
    assert "guard" in includes(name), "rule 2: a script does not roll back"


def test_members_are_silent_after_the_same_time_in_lua_and_python() -> None:
    assert f"local SILENT, PUNCTUAL = {SILENT_MS}," in load("beat").source


def test_a_cluster_asks_for_keys_and_publishes_at_its_own_servers() -> None:
    alone, sharded = load("claim").source, load("claim", sharded=True).source
    for line in ("local MOVES = false", "local NOTIFY = 'PUBLISH'"):
        assert line in alone and line not in sharded
    for line in ("local MOVES = true", "local NOTIFY = 'SPUBLISH'"):
        assert line in sharded and line not in alone


@pytest.mark.parametrize("name", names())
def test_includes_are_resolved_and_used(name: str) -> None:
    source = load(name).source
    assert "--@include" not in source
    assert not any(line.lstrip().startswith("--") for line in source.splitlines()), "comments are for readers"
    assert len(includes(name)) == len(set(includes(name)))
    assert source.startswith("#!lua")


@pytest.mark.parametrize("name", names())
def test_no_number_goes_through_tostring(name: str) -> None:
    """Lua's tostring breaks above 10^14 (rule 11)."""
    assert "tostring(" not in load(name).source


@pytest.mark.parametrize("path", sorted(FOLDER.glob("lib/*.lua")), ids=lambda p: p.stem)
def test_every_fragment_is_used(path: Path) -> None:
    assert any(path.stem in includes(name) for name in names())


def test_a_clock_of_the_tests_replaces_lib_time() -> None:
    stood_in = load("ack", "local function now_ms() return 7 end\nlocal function int(n) return n end")
    assert "return 7" in stood_in.source and "'TIME'" not in stood_in.source
    assert stood_in.sha != load("ack").sha


def test_python_and_lua_spell_the_same_keys() -> None:
    lua = (FOLDER / "lib/keys.lua").read_text()
    tag = keys.tag("x", 3)
    assert tag == "{x:3}"
    for spelled in (
        keys.bucket(tag, 5)[: -len("5")], keys.buckets(tag), *keys.nears(tag), keys.clock(tag), keys.leases(tag),
        keys.lease(tag, b"").decode(), keys.body(tag, b"").decode(), keys.dead(tag), keys.dead_at(tag),
        keys.kafka(tag),
    ):  # fmt: skip
        assert f"'{spelled.removeprefix(tag)}'" in lua, spelled
    assert keys.stream(tag) == tag + ":stream" and "T .. ':stream'" in text("lib/claiming")
