"""HTTP load, from a process of its own: http_load.c where there is a C compiler, else wrk, else a client in Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness.process import ROOT, Child, python
from benchmarks.workload import DAY_MS, HOUR_MS, PAYLOAD_BYTES, now_ms

_SOURCE = Path(__file__).with_name("http_load.c")
_PROGRAM = ROOT / "benchmarks" / ".cache" / "http_load"
_COMPILE_S = 60

VARIETY = 512
"""Different requests that a client sends in turn: their due times lie spread over a day."""


Request = tuple[str, str, str]
"""method, path, JSON body or nothing"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load client saw. ``accepted`` counts 2xx answers; latencies in ms. ``cpu_us``: what the client itself used
    for each answer; 0 where that is not known."""

    client: str
    accepted: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float = 0.0

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds


def bodies() -> list[str]:
    """The curl body of the API's first example, due from one to 25 hours ahead."""
    start = now_ms() + HOUR_MS
    text = b64encode(b"x" * PAYLOAD_BYTES).decode()
    return [
        json.dumps(
            {
                "taskType": "PUB_SUB",
                "parameter": {"executionTimestamp": str(start + i * DAY_MS // VARIETY)},
                "pyload": text,
            }
        )
        for i in range(VARIETY)
    ]


def send(port: int, requests: Sequence[Request], *, connections: int, seconds: float) -> Load:
    """These requests in turn, as many as the server takes, over keep-alive connections."""
    with tempfile.TemporaryDirectory(prefix="dbx-load-") as folder:
        lines = Path(folder, "requests")
        lines.write_text("".join(f"{method} {path} {body}\n" for method, path, body in requests))
        if program := _compiled():
            with Child([str(program), str(port), str(connections), f"{seconds:.3f}", str(lines)]) as child:
                return _load("http_load.c", child.read())
        if shutil.which("wrk"):
            return _wrk(port, lines, connections=connections, seconds=seconds)
        options = {"port": port, "connections": connections, "seconds": seconds, "rate": 0, "requests": str(lines)}
        with Child(python("benchmarks.harness.load_client", json.dumps(options))) as child:
            return finish_own(child)


def post(port: int, path: str, *, connections: int, seconds: float, own_client: bool = False) -> Load:
    """As many POSTs as the server takes, over keep-alive connections."""
    if not own_client:
        return send(port, [("POST", path, body) for body in bodies()], connections=connections, seconds=seconds)
    with start_own(port, path, connections=connections, seconds=seconds) as child:
        return finish_own(child)


def start_own(port: int, path: str, *, connections: int, seconds: float, rate: int = 0) -> Child:
    """Our client, under way; ``rate`` > 0 offers that many a second instead of as many as possible."""
    options = {"port": port, "path": path, "connections": connections, "seconds": seconds, "rate": rate}
    return Child(python("benchmarks.harness.load_client", json.dumps(options)))


def finish_own(child: Child) -> Load:
    """Wait for the client's answer."""
    return _load("own client", child.read())


def _load(client: str, found: Mapping[str, Any]) -> Load:
    return Load(
        client,
        int(found["accepted"]),
        int(found["refused"]),
        float(found["seconds"]),
        float(found["p50_ms"]),
        float(found["p99_ms"]),
        float(found.get("cpu_us", 0)),
    )


@cache
def _compiled() -> Path | None:
    """The generator in C, which takes the least from the cores that it shares with what it loads; None without a
    compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    if not _PROGRAM.exists() or _PROGRAM.stat().st_mtime < _SOURCE.stat().st_mtime:
        _PROGRAM.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_PROGRAM.parent) as folder:
            made = Path(folder, "program")
            command = [compiler, "-O2", "-o", str(made), str(_SOURCE)]
            if subprocess.run(command, capture_output=True, timeout=_COMPILE_S, check=False).returncode:
                return None
            made.replace(_PROGRAM)
    return _PROGRAM


_SCRIPT = """
local requests, at = {}, 0
function init()
  for line in io.lines("%s") do
    local method, path, body = line:match("^(%%S+) (%%S+) (.*)$")
    local headers = { ["Content-Type"] = "application/json" }
    requests[#requests + 1] = wrk.format(method, path, headers, #body > 0 and body or nil)
  end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency)
  io.write(string.format('\\n{"n":%%d,"us":%%d,"refused":%%d,"broken":%%d,"p50":%%.0f,"p99":%%.0f}\\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def _wrk(port: int, lines: Path, *, connections: int, seconds: float) -> Load:
    script = lines.with_name("send.lua")
    script.write_text(_SCRIPT % lines)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found = re.search(r"^\{.*\}$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said nothing that can be read: {done.stdout[-300:]}")
    record = json.loads(found.group())
    refused = record["refused"] + record["broken"]
    return Load(
        "wrk",
        record["n"] - record["refused"],
        refused,
        record["us"] / 1e6,
        record["p50"] / 1000,
        record["p99"] / 1000,
    )
