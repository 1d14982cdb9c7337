"""The embedded server with real processes: who starts it, who attaches, and that nobody outlives its node."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from delaybox.embedded import EmbeddedServer, EmbeddedServerError, default_data_dir, find_binary
from delaybox.embedded.process import EXEC_SERVER
from delaybox.embedded.trust import LOCK_FILE
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from tests.servers import server_binary
from tests.waiting import PATIENCE_S, until_async

NODE = """
import asyncio, json, sys
from pathlib import Path
from delaybox.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]), binary=Path(sys.argv[2]), watcher=sys.argv[3] == "watcher" or None)
    await server.start()
    print(json.dumps([server.pid, str(server.unix_path), server.password]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


async def until(check: Callable[[], bool], what: str) -> None:
    """For states that send no signal (a foreign process's end)."""
    await until_async(check, lambda: what)


def locked(folder: Path) -> bool:
    """Whether the folder's server lives: the lock is the server process's own. (A pid could be a zombie's.)"""
    with (folder / LOCK_FILE).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


class Node:
    """A process of its own that runs the embedded server on ``folder``."""

    def __init__(self, folder: Path, guard: str = "default") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(NODE), str(folder), str(server_binary()), guard],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the node did not start"
        self.server_pid, self.unix_path, self.password = json.loads(line)
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._close()

    def end(self) -> None:
        """As a node that stops in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._close()

    def _close(self) -> None:
        self._process.wait(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(folder: Path, guard: str = "default") -> Node:
        nodes.append(Node(folder, guard))
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "data", binary=server_binary())
    await server.start()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def client_of(server: EmbeddedServer | Node) -> AsyncIterator[Redis]:
    client = make_client(ServerSettings(unix_path=str(server.unix_path), password=server.password))
    yield client
    await client.aclose()


async def ping_until_it_answers(client: Redis) -> None:
    async def answers() -> bool:
        with contextlib.suppress(RedisError, OSError):
            return bool(await client.ping())
        return False

    await until_async(answers)


async def test_it_runs_with_the_settings_that_keep_tasks(embedded: EmbeddedServer) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-timestamp-enabled": "yes",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "dir": str(embedded.data_dir),
    }
    async with client_of(embedded) as client:
        found = await client.config_get(*wanted)
    assert found == wanted
    assert embedded.pid is not None
    assert not embedded.attached
    assert os.getsid(embedded.pid) != os.getsid(0), "the terminal's Ctrl-C would reach it"
    assert embedded.data_dir.stat().st_mode & 0o077 == 0
    assert embedded.unix_path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("size", [8 << 10, 256 << 10])
async def test_a_listener_that_does_not_read_is_closed_at_the_bound(embedded: EmbeddedServer, size: int) -> None:
    """Valkey 9.1 does not count large messages unless it is told to."""
    name = "client-output-buffer-limit"
    async with client_of(embedded) as client:
        limits = (await client.config_get(name))[name] or ""
        assert f"pubsub {512 << 20} {128 << 20} 60" in limits
        await client.config_set(name, "pubsub 1mb 0 0")
        reads = client.pubsub()
        await reads.subscribe("channel")
        assert (await reads.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(embedded.unix_path))
            password = (embedded.password or "").encode()
            silent.sendall(b"AUTH %b\r\nSUBSCRIBE channel\r\n" % password if password else b"SUBSCRIBE channel\r\n")

            async def listeners() -> int:
                return int((await client.pubsub_numsub("channel"))[0][1])

            async def both() -> bool:
                return await listeners() == 2

            await until_async(both)
            sent = 0
            while await listeners() == 2:
                assert sent < 4 << 20, "it is closed soon behind the bound"
                await client.publish("channel", bytes(size))
                sent += size
                message = await reads.get_message(timeout=PATIENCE_S)
                assert len(message["data"]) == size, "whoever reads gets all"
            assert sent >= 1 << 20, "not before the bound"
        await reads.aclose()


async def test_data_survives_a_stop_and_a_start(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        server = EmbeddedServer(tmp_path, binary=server_binary())
        await server.start()
        async with client_of(server) as client:
            assert await client.get("k") == expected
            await client.set("k", 1)
        await server.stop()
        await server.stop()
        assert not locked(tmp_path)


async def test_a_server_that_dies_comes_back_with_its_data_and_clients_recover(embedded: EmbeddedServer) -> None:
    async with client_of(embedded) as client:
        await client.set("k", "kept")
        first = embedded.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: embedded.restarts == 1, "restarted")
        assert embedded.pid not in (None, first)
        assert await client.get("k") == b"kept"


async def test_a_server_killed_while_it_rewrites_its_file_comes_back_at_once(tmp_path: Path) -> None:
    # The rewriting child needs 100 s, and inherited the lock.
    embedded = EmbeddedServer(tmp_path, binary=server_binary(), arguments=["--rdb-key-save-delay", "1000000"])
    await embedded.start()
    async with client_of(embedded) as client:
        await client.mset({f"k{n}": n for n in range(100)})
        await client.bgrewriteaof()
        assert (await client.info("persistence"))["aof_rewrite_in_progress"]
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGKILL)
        await until(lambda: embedded.restarts == 1, "restarted")
        assert await client.dbsize() == 100
    await embedded.stop()


async def test_a_path_too_long_for_a_socket_is_served_from_a_short_one(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 10)
    first = EmbeddedServer(folder, binary=server_binary())
    await first.start()
    second = EmbeddedServer(folder, binary=server_binary())
    await second.start()
    assert len(os.fsencode(first.unix_path)) <= 100
    assert second.unix_path == first.unix_path
    assert second.attached
    assert first.unix_path.parent.stat().st_mode & 0o077 == 0
    async with client_of(second) as client:
        assert (await client.config_get("dir"))["dir"] == str(folder)
    await second.stop()
    await first.stop()
    first.unix_path.parent.rmdir()


@pytest.mark.parametrize("guard", ["default", "watcher"])
async def test_no_orphan_after_the_node_is_killed(tmp_path: Path, start_node: Callable[..., Node], guard: str) -> None:
    node = start_node(tmp_path, guard)
    async with client_of(node) as client:
        await client.set("k", "written just before")
    node.kill()
    await until(lambda: not locked(tmp_path), "the server ends")
    again = start_node(tmp_path)
    async with client_of(again) as client:
        assert await client.get("k") == b"written just before", "the server flushed before it ended"


async def test_a_killed_watcher_group_leaves_no_lock_behind(tmp_path: Path, start_node: Callable[..., Node]) -> None:
    node = start_node(tmp_path, "watcher")
    os.killpg(node.server_pid, signal.SIGKILL)
    async with client_of(node) as client:
        await ping_until_it_answers(client)
    assert locked(tmp_path)


async def test_a_second_node_attaches_and_ends_nothing_when_it_leaves(embedded: EmbeddedServer) -> None:
    second = EmbeddedServer(embedded.data_dir, binary=server_binary())
    await second.start()
    assert second.attached
    assert second.pid is None
    assert second.unix_path == embedded.unix_path
    await second.stop()
    async with client_of(embedded) as client:
        assert await client.ping()


@pytest.mark.parametrize("how", ["kill", "end"])
async def test_the_second_node_takes_over_when_the_first_goes(
    tmp_path: Path, start_node: Callable[..., Node], how: str
) -> None:
    first = start_node(tmp_path)
    second = EmbeddedServer(tmp_path, binary=server_binary())
    await second.start()
    assert second.attached
    async with client_of(second) as client:
        await client.set("k", "of the first")
        getattr(first, how)()
        await until(lambda: second.restarts == 1, "taken over")
        assert second.pid is not None
        assert await client.get("k") == b"of the first"
    await second.stop()
    assert not locked(tmp_path)


async def test_many_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    servers = [EmbeddedServer(tmp_path, binary=server_binary()) for _ in range(5)]
    await asyncio.gather(*(server.start() for server in servers))
    assert [server.attached for server in servers].count(False) == 1
    for server in sorted(servers, key=lambda server: not server.attached):
        await server.stop()


async def test_a_server_that_ends_at_its_start_tells_its_last_words(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, binary=server_binary(), arguments=["--no-such-setting", "1"])
    with pytest.raises(EmbeddedServerError, match=r"exit code 1.*no-such-setting"):
        await server.start()
    assert not locked(tmp_path)


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EmbeddedServerError, match=r"file/data.*--data-dir"):
        await EmbeddedServer(tmp_path / "file" / "data", binary=server_binary()).start()


def test_no_binary_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedServerError, match=r"delaybox\[embedded\].*--redis"):
        find_binary()


def test_the_default_folder_does_not_depend_on_where_one_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = default_data_dir()
    monkeypatch.chdir(tmp_path)
    assert default_data_dir() == here
    assert here.is_absolute()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe tells, and its end cannot be missed")
def test_a_launcher_whose_node_died_before_it_could_ask_starts_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "started"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    launcher = subprocess.run(
        [sys.executable, "-I", "-S", EXEC_SERVER, str(gone.pid), "-1", "/usr/bin/touch", str(proof)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert launcher.returncode != 0
    assert "is gone" in launcher.stderr
    assert not proof.exists()
