"""Nodes that start where little is allowed: no folder for temporary files, a working folder that is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.nodes import Node, node
from tests.waiting import PATIENCE_S

# In a mount namespace of its own: folder $1 is seen as /mnt, and the folders for temporary files are read-only.
READ_ONLY = """
mount --bind "$1" /mnt || exit 99
for folder in /tmp /var/tmp /usr/tmp; do
  [ ! -d "$folder" ] || { mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"; } || exit 99
done
shift
exec "$@"
"""
WITHOUT = {"TMPDIR": "", "TEMP": "", "TMP": "", "HOME": "/proc", "XDG_DATA_HOME": "/proc/none"}


@pytest.fixture
def read_only(tmp_path: Path) -> Sequence[str]:
    """Runs a command with nothing to write to but ``data``, which it sees as /mnt."""
    (tmp_path / "data").mkdir(mode=0o700)
    namespace = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]
    command = [*namespace, "sh", "-c", READ_ONLY, "sh", str(tmp_path / "data")]
    try:
        able = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this machine does not let us make a mount namespace")
    return command


def test_the_data_folder_is_all_that_a_node_needs(tmp_path: Path, read_only: Sequence[str]) -> None:
    options = ["--data-dir", "/mnt/d", "--http-port", "0", "--enable-shell"]
    with node(*options, folder=tmp_path, environ=WITHOUT, under=read_only) as running:
        running.wait_for("no folder for temporary files that can be written to; they go to /mnt/d/tmp")
        status, _, task = running.call("POST", "/v1/tasks", {"type": "shell", "payload": "echo done"})
        assert status == 201, task
        running.until(lambda: running.call("GET", f"/v1/tasks/{task['id']}")[2].get("state") == "succeeded")
        assert running.call("GET", "/metrics")[0] == 200
    assert running.stop() == 0
    # Nothing is left behind but the folder itself.
    assert list((tmp_path / "data" / "d" / "tmp").iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--redis", "redis://127.0.0.1:1"), ("--data-dir", "/proc/d")])
def test_without_any_folder_it_says_what_to_do(
    tmp_path: Path, read_only: Sequence[str], options: tuple[str, ...]
) -> None:
    refused = Node(*options, "--http-port", "0", folder=tmp_path, environ=WITHOUT, under=read_only)
    assert refused.process.wait(PATIENCE_S) == 2
    output = refused.output()
    assert "Traceback" not in output
    assert "there is no folder for temporary files: /tmp, /var/tmp, /usr/tmp cannot be written to" in output
    assert "Set TMPDIR to a folder that can be written to, or name such a data folder with --data-dir" in output


def test_a_long_path_of_the_data_folder_says_so(tmp_path: Path, read_only: Sequence[str]) -> None:
    options = ["--data-dir", f"/mnt/{'d' * 100}", "--http-port", "0"]
    refused = Node(*options, folder=tmp_path, environ=WITHOUT, under=read_only)
    assert refused.process.wait(PATIENCE_S) != 0
    assert "Traceback" not in refused.output()
    assert "too long a path for a socket" in refused.output()


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    removed = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh"]
    with node("--data-dir", str(tmp_path / "d"), "--http-port", "0", folder=tmp_path, under=removed) as running:
        running.wait_for("was removed; it works in / now")
        assert running.call("POST", "/v1/tasks", {"payload": "x", "delay": "1h"})[0] == 201
    assert running.stop() == 0
