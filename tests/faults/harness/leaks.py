"""I10: a process that works for long has no more memory and no more open files at the end than soon after its start."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MOST_KB, MOST_FILES = 60_000, 20
"""What it may have more: buffers and pools grow to what a load needs."""


class Used(NamedTuple):
    """What a process has: memory in kB, open files."""

    kb: int
    files: int

    def more_than(self, before: Used) -> dict[str, int]:
        """For the report."""
        return {"kb_grown": self.kb - before.kb, "files_grown": self.files - before.files}


def used(pid: int) -> Used:
    """Of a living process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return Used(kilobytes, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def leaks(before: Used, after: Used) -> list[str]:
    """What grew too much; [] where nothing did."""
    found = []
    if after.kb - before.kb > MOST_KB:
        found.append(f"memory grew by {after.kb - before.kb} kB, more than {MOST_KB}")
    if after.files - before.files > MOST_FILES:
        found.append(f"{after.files - before.files} more files are open, more than {MOST_FILES}")
    return found
