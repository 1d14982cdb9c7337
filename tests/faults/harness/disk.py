"""A disk that forgets what it was not made to keep: power loss, to the byte.

A small library is preloaded into the server alone. It notes how long each file was at each sync; after a SIGKILL the
append-only file is cut to that length, and what the server had written, but the disk had not promised, is gone.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("synced.c")


def why_not() -> str:
    """Why it cannot be built here; empty where it can."""
    return "" if shutil.which("cc") else "there is no C compiler (cc) for the library that notes what was synced"


class Disk:
    """``environ`` is the server's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "synced.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._noted = folder / "synced"
        self.environ = {"LD_PRELOAD": str(library), "SYNCED": str(self._noted)}

    def has_promised(self) -> bool:
        """Whether anything was synced yet."""
        return self._noted.exists()

    def lose(self, append_only: Path) -> int:
        """Cuts each file in the folder to what was synced; how many bytes went."""
        kept: dict[int, int] = {}
        for line in self._noted.read_text().splitlines():
            inode, size = map(int, line.split())
            kept[inode] = size
        lost = 0
        for file in append_only.glob("*.aof"):
            state = file.stat()
            size = kept.get(state.st_ino, 0)
            if size < state.st_size:
                with file.open("r+b") as opened:
                    opened.truncate(size)
                lost += state.st_size - size
        return lost
