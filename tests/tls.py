"""Certificates made for a test, and real servers behind TLS: the server's own, or a front that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from delaybox.store.address import ServerSettings
from tests.ports import free_port
from tests.waiting import until_async


class Certificates:
    """Two authorities: ours, which signed the server's and the client's certificates, and a stranger's."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = trustme.CA(), trustme.CA()
        self.ca, self.wrong_ca = str(folder / "ca.pem"), str(folder / "wrong-ca.pem")
        ours.cert_pem.write_to_path(self.ca)
        theirs.cert_pem.write_to_path(self.wrong_ca)
        self.server = self._files(folder, "server", ours.issue_cert("localhost", "127.0.0.1"))
        self.client = self._files(folder, "client", ours.issue_cert("delaybox.test"))
        self.wrong_client = self._files(folder, "wrong-client", theirs.issue_cert("delaybox.test"))

    @staticmethod
    def _files(folder: Path, name: str, leaf: trustme.LeafCert) -> tuple[str, str]:
        """Certificate and key."""
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)

    def settings(self, port: int, *, host: str = "localhost") -> ServerSettings:
        return ServerSettings(host=host, port=port, tls=True, tls_ca_file=self.ca)


@contextlib.asynccontextmanager
async def tls_front(unix_path: str, certificates: Certificates, *, ask_client: bool = False) -> AsyncIterator[int]:
    """A TLS port in front of a server's socket; the handshake is real, the server needs to know nothing of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.load_cert_chain(*certificates.server)
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(unix_path)
        for one in (pipe(reader, behind_writer), pipe(behind_reader, writer)):
            task = asyncio.create_task(one)
            pipes.add(task)
            task.add_done_callback(pipes.discard)

    listening = await asyncio.start_server(join, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in list(pipes):
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


def _redis_server(folder: Path) -> str:
    """redis-server, or Debian's redis-check-rdb of redis-tools: the same program, which goes by the name it is called
    by (https://github.com/redis/redis/blob/7.0.15/src/server.c, main), in a package that starts no service. Skips
    the test where there is neither, and fails it where CI=true and the machine has one to install."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    if (tool := shutil.which("redis-check-rdb")) is not None:
        named = folder / "redis-server"
        named.unlink(missing_ok=True)
        named.symlink_to(tool)
        return str(named)
    if os.environ.get("CI") == "true" and shutil.which("apt-cache"):
        offered = subprocess.run(["apt-cache", "show", "redis-tools"], capture_output=True, check=False)
        assert offered.returncode, "this machine can have a server with TLS: apt-get install redis-tools"
    pytest.skip("there is no redis-server here (apt-get install redis-tools)")


@contextlib.asynccontextmanager
async def tls_server(
    folder: Path, certificates: Certificates, *, ask_client: bool = False
) -> AsyncIterator[int | None]:
    """The port of a redis-server that speaks TLS itself; None where this machine's was built without."""
    binary = _redis_server(folder)
    port = free_port()
    cert, key = certificates.server
    arguments = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    arguments += ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", certificates.ca]
    arguments += ["--tls-auth-clients", "yes" if ask_client else "no"]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def settled() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return process.poll() is not None

        await until_async(settled)
        yield None if process.poll() is not None else port
    finally:
        process.kill()
        process.wait()
