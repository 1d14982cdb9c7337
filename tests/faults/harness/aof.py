"""Power loss: cuts an append-only file back to a moment, at the ``#TS:`` lines of ``aof-timestamp-enabled yes``.

The same as ``redis-check-aof --truncate-to-timestamp``, which does not come with every server: everything from the
first timestamp later than the moment on is dropped. Reads RESP itself, so that a
payload that looks like a line is no trap.
"""

from __future__ import annotations

from pathlib import Path


def truncate_to(folder: Path, moment_s: int) -> int:
    """Cuts the last incremental file in ``folder``; how many bytes went. ValueError when it is not such a file."""
    manifest = next(folder.glob("*.manifest"))
    names = [line.split() for line in manifest.read_text().splitlines()]
    last = [fields[1] for fields in names if fields[-1] == "i"][-1]
    path = folder / last
    data = path.read_bytes()
    keep = _first_after(data, moment_s)
    with path.open("r+b") as file:
        file.truncate(keep)
    return len(data) - keep


def _first_after(data: bytes, moment_s: int) -> int:
    at = 0
    while at < len(data):
        end = data.find(b"\r\n", at)
        if end < 0:
            return at  # a half-written last command: the server drops it too
        line = data[at:end]
        if line.startswith(b"#TS:"):
            if int(line[4:]) > moment_s:
                return at
            at = end + 2
        elif line.startswith(b"#"):
            at = end + 2
        elif line.startswith(b"*"):
            at = _skip_command(data, end + 2, int(line[1:]))
        else:
            raise ValueError(f"not an append-only file at byte {at}: {line[:40]!r}")
    return at


def _skip_command(data: bytes, at: int, words: int) -> int:
    for _ in range(words):
        end = data.find(b"\r\n", at)
        if end < 0:
            return len(data)
        at = end + 2 + int(data[at + 1 : end]) + 2
    return at
