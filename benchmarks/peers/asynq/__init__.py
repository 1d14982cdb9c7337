"""asynq, a task queue in Go: built at run time into a folder git ignores, driven through main.go."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness.process import Child
from benchmarks.peers.missing import PeerMissingError

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "asynq"
NAME = "asynq"
BUILD_S = 300

_failure: list[str] = []


def _built() -> Path:
    """The program. Built once a run; a failure is remembered and raised each time."""
    if _failure:
        raise PeerMissingError(_failure[0])
    go = shutil.which("go")
    if not go:
        _failure.append("go is not installed, so asynq was not measured")
    else:
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            # Go itself knows what has changed; go.sum holds the hashes of all that it fetches.
            subprocess.run(
                [go, "build", "-o", CACHE / "peer", "."],
                cwd=HERE, capture_output=True, text=True, timeout=BUILD_S, check=True,
                env={**os.environ, "GOFLAGS": "-mod=readonly"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            _failure.append(f"go took more than {BUILD_S} s to build asynq's program, so it was not measured")
        except subprocess.CalledProcessError as error:
            _failure.append(f"go could not build asynq's program: {error.stderr.strip()[-200:]}")
    if _failure:
        raise PeerMissingError(_failure[0])
    return CACHE / "peer"


@cache
def version() -> str:
    """``absent`` where it cannot be built."""
    try:
        _built()
    except PeerMissingError:
        return "absent"
    found = re.search(r"hibiken/asynq v(\S+)", (HERE / "go.mod").read_text())
    return found[1] if found else "unknown"


def measure(command: str, **options: object) -> dict[str, Any]:
    """Runs one command of main.go to its end; its JSON answer. PeerMissingError."""
    with Child([str(_built()), command, json.dumps(options)], environment=dict(os.environ)) as child:
        return child.read()
