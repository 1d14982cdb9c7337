"""What a node costs that has nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

from tests.nodes import node
from tests.proc import children_of, rests

_SPAN_S = 3.0
_MOST = 75
"""A second, in all processes of a node with its own server, which is not counted. It is about 40; it was 122."""


def test_an_idle_node_hardly_wakes(tmp_path: Path):
    with node("--http-port", "0", "--data-dir", "data", folder=tmp_path) as idle:
        mine = [idle.process.pid, *(pid for pid in children_of(idle.process.pid) if _is_python(pid))]

        def a_second() -> float:
            before, began = sum(map(rests, mine)), time.monotonic()
            time.sleep(_SPAN_S)
            return (sum(map(rests, mine)) - before) / (time.monotonic() - began)

        # At first it still looks at what is there.
        assert idle.until(lambda: a_second() < _MOST)


def _is_python(pid: int) -> bool:
    return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
