"""Kill, restart and power loss do to a server what the rows say they do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.harness.aof import truncate_to
from tests.faults.harness.server import Server

pytestmark = pytest.mark.faults


def test_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    server = Server(tmp_path / "r")
    server.start()
    with server.client() as client:
        for n in range(1000):
            client.set(f"k{n}", n)
    server.kill()
    server.start()
    with server.client() as client:
        assert client.dbsize() == 1000
    server.stop()


def test_power_loss_takes_what_came_after_the_moment_and_nothing_else(tmp_path: Path) -> None:
    server = Server(tmp_path / "r", options={"aof-timestamp-enabled": "yes"})
    server.start()
    payload = b"*3\r\n#TS:1\r\n" * 3  # looks like the file's own lines
    with server.client() as client:
        client.set("before", payload)
        moment = int(time.time())
        while int(time.time()) < moment + 2:  # the file's clock has whole seconds: nothing to wait on but the clock
            time.sleep(0.02)
        client.set("after", payload)
    server.kill()
    assert truncate_to(server.append_only_folder(), moment) > 0
    server.start()
    with server.client() as client:
        assert client.get("before") == payload
        assert client.get("after") is None
    server.stop()
