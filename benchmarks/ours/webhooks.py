"""A node that sends webhooks, and a receiver of them on the same machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.process import Child, python
from benchmarks.harness.server import BenchServer
from benchmarks.ours.node import Node, serve

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where webhooks go. ``urls``: one for each host that answers; ``silent``: one that never does."""

    child: Child
    urls: Sequence[str]
    silent: str


@contextmanager
def receiver(*, count: int, seconds: float, hosts: int = 1, answer_ms: float = 0) -> Iterator[Hosts]:
    """A process that receives ``count`` webhooks; what it found is read from its ``child``."""
    options = {"count": count, "seconds": seconds, "hosts": hosts, "answer_ms": answer_ms, "secret": SECRET}
    with Child(python("benchmarks.harness.http_sink", json.dumps(options))) as child:
        began = child.read()
        urls = [f"http://127.0.0.1:{port}/hook" for port in began["ports"]]
        yield Hosts(child, urls, f"http://127.0.0.1:{began['silent']}/hook")


@contextmanager
def sender(server: BenchServer, *arguments: str) -> Iterator[Node]:
    """A node that may call this machine, and signs. ``arguments``: more for it."""
    allowed = (
        "--set",
        "webhooks.enabled=true",
        "--set",
        "webhooks.allow=127.0.0.1",
        "--set",
        f"webhooks.secret={SECRET}",
    )
    with serve(server, *allowed, *arguments) as node:
        yield node


def peak_mib(node: Node) -> float:
    """The most memory that the node's webhook process has had so far, in MiB (Linux)."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, status = path.read_bytes(), (path.parent / "status").read_text()
        except OSError:
            continue
        found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if b"delaybox.roles.webhook" in command and int(found["PPid"]) == node.pid:
            return int(found["VmHWM"].split()[0]) / 1024
    raise RuntimeError("the node has no webhook process")
