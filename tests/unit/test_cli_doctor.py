"""What the doctor makes of what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from delaybox import __version__
from delaybox.cli import doctor, doctor_server, scrape
from delaybox.cli.client import NodeAnswer, RestClient
from delaybox.cli.doctor import node_clock, of_nodes
from delaybox.cli.findings import Finding
from delaybox.config import Config

NOON = 1899979200.0
"""Sunday, 17 March 2030, UTC."""


def words(found: list[Finding]) -> dict[str, str]:
    assert all(bool(one.do) == (one.word in ("warning", "problem")) for one in found)
    return {one.name: one.word for one in found}


def dated(text: str) -> NodeAnswer:
    return NodeAnswer(200, {"date": text}, b"ok")


@pytest.mark.parametrize(
    ("off_s", "word"), [(0.0, "ok"), (0.9, "ok"), (-0.4, "ok"), (3.0, "warning"), (-3.0, "warning"), (3600, "warning")]
)
def test_the_nodes_clock(off_s: float, word: str) -> None:
    # The node's date is noon, whole seconds; this machine's time lies off_s after that.
    found = node_clock(dated("Sun, 17 Mar 2030 12:00:00 GMT"), NOON + off_s, NOON + off_s + 0.01)
    assert found.word == word


def test_a_node_without_a_date_is_passed_over() -> None:
    assert node_clock(NodeAnswer(200, {}, b""), NOON, NOON).word == "skipped"
    assert node_clock(dated("yesterday"), NOON, NOON).word == "skipped"


NODE = {"host": "a", "pid": 1, "version": __version__, "roles": ["api", "clock", "work"]}


def test_nodes() -> None:
    assert words(of_nodes([])) == {"nodes": "problem"}
    assert words(of_nodes([NODE])) == {"nodes": "ok", "versions": "ok"}
    assert words(of_nodes([NODE, {**NODE, "version": "0.0.1"}])) == {"nodes": "ok", "versions": "warning"}
    found = of_nodes([{**NODE, "roles": ["api", "work"]}])
    assert [one.do for one in found if one.word == "problem"] == ["start one with --roles clock"]


@pytest.mark.parametrize(("offset_ms", "word"), [(None, ""), (40, ""), (-300_000, "warning"), (900, "warning")])
def test_a_node_whose_machine_has_another_time_is_named(offset_ms: int | None, word: str) -> None:
    members = [{"clock_offset_ms": 0}, {"clock_offset_ms": offset_ms}, {}]
    assert words(of_nodes([{**NODE, "id": "n", "members": members}])).get("node clock", "") == word


@pytest.mark.parametrize(("up", "expected"), [(1, {"tasks": "ok", "dead": "warning"}), (0, {"tasks": "skipped"})])
def test_numbers_of_a_store_that_did_not_answer_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, up: int, expected: dict[str, str]
) -> None:
    numbers = scrape.parse(f"delaybox_store_up {up}\ndelaybox_pending_tasks 4\ndelaybox_dead_tasks 1\n")
    monkeypatch.setattr(doctor, "read_metrics", lambda _: numbers)
    assert words(doctor.of_numbers(RestClient("http://127.0.0.1:1"))) == expected


def test_persistence() -> None:
    assert words(doctor_server.persistence(False, {}, "")) == {"persistence": "problem"}
    assert words(doctor_server.persistence(True, {"aof_last_write_status": "err"}, "")) == {"persistence": "problem"}
    assert words(doctor_server.persistence(True, {}, "no")) == {"persistence": "warning"}
    for fsync in ("always", "everysec", ""):
        assert words(doctor_server.persistence(True, {"aof_last_write_status": "ok"}, fsync)) == {"persistence": "ok"}


def test_messages_that_a_server_does_not_count_for_a_listener() -> None:
    assert words(doctor_server.buffers("16384")) == {"buffers": "warning"}
    assert "16,384 bytes" in doctor_server.buffers("16384")[0].says
    # Copied always, more than any message, a server without the setting or one that hides it.
    for setting in ("0", "2147483647", ""):
        assert doctor_server.buffers(setting) == []


def test_memory() -> None:
    assert doctor_server.memory({"used_memory": 5 << 20}).word == "ok"
    unbounded = {"maxmemory": 0, "total_system_memory": int(1e9)}
    assert doctor_server.memory({**unbounded, "used_memory": int(7e8)}).word == "ok"
    assert doctor_server.memory({**unbounded, "used_memory": int(9e8)}).word == "problem"
    shares = {0.5: "ok", 0.9: "warning", 0.99: "problem"}
    for share, word in shares.items():
        assert doctor_server.memory({"used_memory": int(share * 1e9), "maxmemory": int(1e9)}).word == word


def test_the_servers_clock() -> None:
    assert [doctor_server.server_clock(ms).word for ms in (0.0, 400.0, -600.0, 5_000.0)] == [
        "ok", "ok", "warning", "warning",
    ]  # fmt: skip
    assert "5.0 s ahead of" in doctor_server.server_clock(5_000.0).says


def test_a_stopped_node_of_the_folder_is_a_problem_only_where_no_other_lives(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "server.sock.path").write_text(f"{tmp_path / 'server.sock'}\n")
    (tmp_path / "server.sock.path").chmod(0o600)

    def load() -> Config:
        return Config(data_dir=tmp_path)

    (alone,) = doctor_server.at_server(load)
    assert (alone.name, alone.word) == ("server", "problem")
    assert f"(data folder {tmp_path})" in alone.says and "`delaybox serve`" in alone.do
    (beside,) = doctor_server.at_server(load, ["another-node"])
    assert (beside.name, beside.word) == ("server", "skipped"), beside
