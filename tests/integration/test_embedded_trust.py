"""What another user of the machine could have put into a data folder: refused with the mend, and never followed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from delaybox.embedded import EmbeddedServer, EmbeddedServerError, has_run, reach
from delaybox.embedded.process import connect
from delaybox.embedded.trust import DATA, LOCK_FILE, LOG_FILE, SERVER_CONFIG, SOCKET_FILE, SOCKET_REFERENCE, write_own
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from tests.nodes import node
from tests.servers import server_binary
from tests.waiting import until_async

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder on which a server ran once."""
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    (made / LOCK_FILE).touch(0o600)
    return made


def server(folder: Path) -> EmbeddedServer:
    return EmbeddedServer(folder, binary=server_binary())


async def refused(folder: Path) -> str:
    """How a node, and what the command line does, refuse the folder: in the same words."""
    with pytest.raises(EmbeddedServerError) as caught:
        await server(folder).start()
    with pytest.raises(EmbeddedServerError, match=re.escape(str(caught.value)[:40])):
        await reach(folder)
    with pytest.raises(EmbeddedServerError):
        has_run(folder)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o710])
async def test_a_folder_of_ours_that_others_may_look_into_is_closed_to_them(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(mode)
    running = server(folder)
    await running.start()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "was open to other users" in caplog.text
    await running.stop()


async def test_a_folder_with_other_things_in_it_is_not_closed_but_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "page.html").touch()
    message = await refused(shared)
    assert f"--data-dir {shared}/delaybox" in message and f"chmod 700 {shared}" in message
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    shared.chmod(0o700)
    running = server(shared)
    await running.start()
    await running.stop()


@pytest.mark.parametrize("name", [LOG_FILE, LOCK_FILE, SERVER_CONFIG, SOCKET_REFERENCE, SOCKET_FILE, DATA])
async def test_no_link_is_followed(folder: Path, name: str) -> None:
    target = folder.parent / "target"
    target.mkdir() if name == DATA else target.write_text("mine\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    message = await refused(folder)
    assert f"{folder / name} must be a" in message and "symbolic link" in message
    assert name == DATA or target.read_text() == "mine\n"


@as_root
@pytest.mark.parametrize("name", [LOG_FILE, LOCK_FILE, SERVER_CONFIG, SOCKET_REFERENCE, f"{DATA}/a.incr.aof"])
async def test_another_users_file_is_refused(folder: Path, name: str) -> None:
    (folder / DATA).mkdir()
    (folder / name).touch()
    os.chown(folder / name, NOBODY, NOBODY)
    assert re.search(r"belongs to user \S+ \(65534\), and this is user root \(0\).*--data-dir", await refused(folder))


@as_root
async def test_another_users_folder_is_refused(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    assert "the data folder" in await refused(folder)
    link = folder.parent / "link"
    link.symlink_to(folder.parent)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert "belongs to" in await refused(link)


@contextlib.contextmanager
def foreign_server(path: Path) -> Iterator[None]:
    """A process of nobody's that answers everything with +PONG at ``path``."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(0o777)
    code = (
        "import os, socket\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"s = socket.socket(fileno={listening.fileno()}); s.listen(); print(flush=True)\n"
        "while True:\n"
        "    c = s.accept()[0]\n"
        "    while c.recv(4096): c.sendall(b'+OK\\r\\n+PONG\\r\\n')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[listening.fileno()], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        listening.close()


@as_root
async def test_another_users_server_is_no_server_of_ours(folder: Path) -> None:
    """Its lock is held, its socket is recorded, and it answers: an older node attached to it."""
    write_own(folder / SOCKET_REFERENCE, f"{folder / SOCKET_FILE}\n")
    with (folder / LOCK_FILE).open("r+") as held, foreign_server(folder / SOCKET_FILE):
        fcntl.flock(held, fcntl.LOCK_EX)
        for password in (None, "x"):
            with pytest.raises(EmbeddedServerError, match="runs as user 65534, not as this one"):
                await connect(folder / SOCKET_FILE, password)
        with pytest.raises(EmbeddedServerError, match="runs as user 65534"):
            await server(folder).start()
        os.chown(folder / SOCKET_FILE, NOBODY, NOBODY)
        assert "server.sock in the data folder" in await refused(folder)


async def test_the_server_asks_for_a_password_that_no_command_line_shows(folder: Path) -> None:
    first = server(folder)
    await first.start()
    assert first.password is not None and re.fullmatch("[0-9a-f]{64}", first.password)
    assert stat.S_IMODE((folder / SERVER_CONFIG).stat().st_mode) == 0o600
    assert first.password.encode() not in Path(f"/proc/{first.pid}/cmdline").read_bytes()
    stranger = make_client(ServerSettings(unix_path=str(first.unix_path)))
    with pytest.raises(RedisError, match="authenticated"):
        await stranger.ping()
    await stranger.aclose()
    assert stat.S_IMODE((folder / DATA).stat().st_mode) == 0o700
    known = make_client(ServerSettings(unix_path=str(first.unix_path), password=first.password))
    await known.config_rewrite()
    await known.aclose()
    second = server(folder)
    await second.start()
    assert second.attached and second.password == first.password
    assert await reach(folder) == (first.unix_path, first.password)
    await first.stop()
    await until_async(lambda: second.pid is not None)
    await second.stop()
    again = server(folder)
    await again.start()
    assert again.password == first.password
    await again.stop()


async def test_a_server_that_an_older_version_started_is_used_without_a_password(folder: Path) -> None:
    with (folder / LOCK_FILE).open("r+") as held, (folder / LOG_FILE).open("wb") as log:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_own(folder / SOCKET_REFERENCE, f"{folder / SOCKET_FILE}\n")
        place = ("--unixsocket", str(folder / SOCKET_FILE), "--dir", str(folder))
        command = [str(server_binary()), "--port", "0", *place, "--save", ""]
        older = subprocess.Popen(command, stdout=log, pass_fds=[held.fileno()])
        # The folder is one that a newer version ran on before.
        write_own(folder / SERVER_CONFIG, f"requirepass {'a' * 64}\n")
        attached = server(folder)
        await attached.start()
        assert attached.attached and attached.password is None
        assert await reach(folder) == (folder / SOCKET_FILE, None)
    older.kill()
    older.wait()
    # What took over keeps to what its own processes know; the next one has a password.
    await until_async(lambda: attached.pid is not None)
    assert attached.password is None
    client = make_client(ServerSettings(unix_path=str(attached.unix_path)))
    assert await client.ping()
    await client.aclose()
    await attached.stop()
    last = server(folder)
    await last.start()
    assert last.password == "a" * 64
    await last.stop()


def test_two_nodes_and_the_command_line_share_a_folder(tmp_path: Path) -> None:
    flags = ("--http-port", "0", "--set", "grpcServer.enabled=false", "--data-dir", "data")
    with node(*flags, folder=tmp_path) as first:
        _, _, made = first.call("POST", "/v1/tasks", {"delay": "1h", "payload": "x"})
        with node(*flags, folder=tmp_path) as second:
            second.wait_for("attached to the server of another node")
            assert second.call("GET", f"/v1/tasks/{made['id']}")[0] == 200
            first.stop()
            second.wait_for("the embedded server is gone")
            second.until(lambda: second.call("GET", f"/v1/tasks/{made['id']}")[0] == 200)
            give = [sys.executable, "-m", "delaybox"]
            found = subprocess.run(
                [*give, "fsck", "--data-dir", "data"], cwd=tmp_path, capture_output=True, check=False
            )
            assert found.returncode == 0, found.stderr
