"""A real nginx with the settings of deploy/nginx, in front of nodes of a test."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
SETTINGS = Path(__file__).parent.parent / "deploy/nginx"

needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (Debian: nginx-light)")


@contextlib.contextmanager
def nginx(
    folder: Path, rest: Sequence[int], grpc: Sequence[int], *, certificate: tuple[str, str] | None = None
) -> Iterator[tuple[int, int]]:
    """Passes on to the nodes with these ports, as deploy/nginx/nginx.conf does. Its ports of REST and gRPC.

    ``certificate``: with its key; both ports speak TLS then, as deploy/nginx/tls.conf says.
    """
    assert NGINX is not None
    folder.mkdir()
    text = (SETTINGS / "nginx.conf").read_text()
    for name, ports in (("rest", rest), ("grpc", grpc)):
        servers = "".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=2s; " for port in ports)
        given = re.search(rf"upstream delaybox_{name} \{{.*?\n    \}}", text, re.DOTALL)
        assert given is not None
        kept = re.sub(r"server node\d[^;]*;", "", given[0]).replace("keepalive", f"{servers} keepalive", 1)
        text = text.replace(given[0], kept)
    own_rest, own_grpc = free_port(), free_port()
    text = text.replace("listen 8088", f"listen 127.0.0.1:{own_rest}").replace(
        "listen 9088", f"listen 127.0.0.1:{own_grpc}"
    )
    text = text.replace("/tmp/nginx.pid", str(folder / "pid")).replace("worker_processes auto", "worker_processes 1")
    for name in ("rest.conf", "grpc.conf", "tls.conf"):
        shutil.copy(SETTINGS / name, folder)
    if certificate is not None:
        for source, name in zip(certificate, ("delaybox.crt", "delaybox.key"), strict=True):
            shutil.copy(source, folder / name)
        text, listening = re.subn(r"(?m)^( +listen [^;]*?)( http2)?;", r"\1 ssl\2; include tls.conf;", text)
        assert listening == 2
    (folder / "nginx.conf").write_text(f"daemon off;\n{text}")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"], stdout=out, stderr=out
        )
    try:
        until(lambda: listens(own_rest) and listens(own_grpc), log.read_text)
        yield own_rest, own_grpc
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
