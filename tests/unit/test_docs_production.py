"""What an operator copies out of docs/production.md and deploy/systemd is what a node reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from delaybox.cli import token
from delaybox.config import load
from tests.configurations import elsewhere, written

__all__ = ["elsewhere"]  # the fixture
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/production.md").read_text()
UNIT = (ROOT / "deploy/systemd/delaybox.service").read_text()
FILE = "/etc/delaybox/config.yaml"


def test_the_guides_configuration_takes_the_tokens_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (settings,) = re.findall(r"^```yaml\n(storage:.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    token.make(name="shop", scopes=["read", "schedule"], expires="365d", as_json=False)
    tokens = written(capsys.readouterr().out.partition("  tokens:\n")[2], "tokens.yaml")
    named = settings.replace("/etc/delaybox/tokens.yaml", str(tokens))
    assert named != settings
    loaded = load(path=written(named), environ={"REDIS_PASS": "secret"})
    assert loaded.warnings == ()
    config = loaded.config
    server = config.storage.server()
    assert server is not None and server.host == "redis.internal"
    assert (server.username, server.password) == ("delaybox", "secret")
    assert (config.http_server.host, config.http_server.port, config.grpc_server.port) == ("0.0.0.0", 8088, 9088)
    assert (config.probe.host, config.probe.port) == ("0.0.0.0", 8090)
    assert [one.name for one in config.auth.tokens] == ["shop"]


def test_the_service_reads_the_file_that_its_head_and_the_guide_name() -> None:
    head = UNIT.partition("[Unit]")[0]
    assert FILE in head and FILE in GUIDE
    environ = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert environ["DELAYBOX_CONFIG"] == FILE
    environ["DELAYBOX_CONFIG"] = str(written("lease: 17s"))
    assert load(environ=environ).config.lease_ms == 17_000
    written("")
    load(environ=environ)  # an empty file is as good as none
