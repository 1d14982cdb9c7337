"""BullMQ from npm: installed at run time into a folder git ignores, driven through peer.js."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.harness.process import Child
from benchmarks.peers.missing import PeerMissingError

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "bullmq"
NAME = "bullmq"


class BullMQ:
    """One command a process, so that no run warms the next one's engine."""

    @cached_property
    def _environment(self) -> dict[str, str]:
        """Install once a run; remembers the result, and a failure is raised each time it is asked for."""
        node, npm = shutil.which("node"), shutil.which("npm")
        if not node or not npm:
            raise PeerMissingError("node or npm is not installed, so BullMQ was not measured")
        wanted = (HERE / "package.json").read_text()
        mark = CACHE / "installed.json"
        if not mark.exists() or mark.read_text() != wanted:
            self._install(npm, wanted)
            mark.write_text(wanted)
        return {**os.environ, "NODE_PATH": str(CACHE / "node_modules"), "NODE_ENV": "production"}

    def _install(self, npm: str, wanted: str) -> None:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        (CACHE / "package.json").write_text(wanted)
        # The lock file would hold addresses of a registry: the versions are pinned in package.json instead.
        command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev"]
        try:
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=180, check=False)
        except subprocess.TimeoutExpired:
            raise PeerMissingError("npm install of BullMQ took more than 180 s, so it was not measured") from None
        if done.returncode != 0:
            raise PeerMissingError(f"npm could not install BullMQ: {done.stderr.strip()[-200:]}")

    @property
    def version(self) -> str:
        """``absent`` when it cannot be installed."""
        try:
            self._environment  # noqa: B018 - installs
            found = json.loads((CACHE / "node_modules" / "bullmq" / "package.json").read_text())
        except (PeerMissingError, OSError):
            return "absent"
        return str(found["version"])

    def start(self, command: str, **options: object) -> Child:
        """A child that runs one command of peer.js."""
        environment = self._environment
        return Child(["node", str(HERE / "peer.js"), command, json.dumps(options)], environment=environment)

    def measure(self, command: str, **options: object) -> dict[str, Any]:
        """Run one command to its end; its JSON answer."""
        with self.start(command, **options) as child:
            return child.read()
