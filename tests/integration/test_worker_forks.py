"""What functions start does not make gRPC write to the worker's log."""

from __future__ import annotations

from pathlib import Path

from tests.yard import Yard, worker, yard

__all__ = ["yard"]  # the fixture


async def test_a_fork_beside_open_streams_is_quiet(yard: Yard, tmp_path: Path) -> None:
    async with worker(yard, tmp_path) as process:
        made = await yard.call("forks", count=3, keep_result_ms=60_000)
        assert [(await yard.ends(task)).result.output for task in made] == [b"[0,-15]"] * 3
        assert "draining" not in process.output(), "what was said to a fork is not said to the worker"
        assert "fork_posix" not in process.output() and "epoll" not in process.output(), process.output()
