"""A disk that forgets what it was not made to keep: power loss, to the byte.

A small library is preloaded into the server alone. It notes how long each file was at each sync; after a SIGKILL the
append-only file is cut to that length, and what the server had written, but the disk had not promised, is gone.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.harness.preload import built


class Disk:
    """``environ`` is the server's."""

    def __init__(self, folder: Path) -> None:
        library = built("synced", folder)
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
