"""Trees of earlier versions, taken from the repository's own history, whose nodes and workers run beside this one's."""

from __future__ import annotations

import os
import subprocess
import tarfile
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[3]

COMMITS = {
    # The last commit of 0.1.0, and the tree before stores could lie on a cluster.
    "0.1.0": "2d8bf0fec045",
    "before-clusters": "5f3ff66b537c",
}
_LOGS = '''"""Stands in for a module that needs structlog, which is not installed here: logging, as a text."""

import logging
import sys


def set_up(log_format: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
'''


class Tree(NamedTuple):
    """``root`` is what a clone of that version holds, as far as it is needed to run it."""

    name: str
    root: Path

    @property
    def environ(self) -> dict[str, str]:
        """For a process that is to run this version: it takes this environment's other packages."""
        return {"PYTHONPATH": os.pathsep.join((str(self.root / "src"), str(self.root)))}


def this() -> Tree:
    """The version under test."""
    return Tree("this", _ROOT)


def why_not(name: str) -> str:
    """Why that version cannot be had here; empty where it can."""
    if (_ROOT / ".git").exists() and _git("cat-file", "-e", f"{COMMITS[name]}^{{commit}}").returncode == 0:
        return ""
    return f"the tree of {name} (commit {COMMITS[name]}) is not here: it needs a clone with its whole history"


def unpacked(name: str, folder: Path) -> Tree:
    """The tree of ``name``, in ``folder``."""
    root = folder / f"tree-{name}"
    root.mkdir()
    done = _git("archive", "--format=tar", COMMITS[name], "src", "tests")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(root, filter="data")
    logs = root / "src" / "delaybox" / "logs.py"
    if logs.exists() and "import structlog" in logs.read_text() and find_spec("structlog") is None:
        logs.write_text(_LOGS)
    return Tree(name, root)


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, check=False)
