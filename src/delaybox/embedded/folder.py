"""The data folder: where it is, who holds its lock, and where its server's socket is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from delaybox.core.errors import DelayBoxError

LOCK_FILE = "server.lock"
SOCKET_FILE = "server.sock"
SOCKET_REFERENCE = "server.sock.path"
LOG_FILE = "server.log"

# A unix socket's path ends at 103 bytes on macOS and 107 on Linux, and the server only logs it when it is longer.
LONGEST_SOCKET_PATH = 100


class EmbeddedServerError(DelayBoxError):
    """The embedded server cannot be had: no binary, no folder, or it ends at once (its last words are told)."""

    code = "embedded_server"


def default_data_dir() -> Path:
    """Where a node keeps its data when nobody says: the same folder from wherever it is started."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "delaybox"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "delaybox"


def prepare(data_dir: Path) -> None:
    """Make the folder, for this user alone, and its lock file; EmbeddedServerError when it cannot be used."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / LOCK_FILE).touch(mode=0o600)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot use the data folder {data_dir} ({error.strerror}); name a writable one with --data-dir"
        ) from None


def try_lock(data_dir: Path) -> int | None:
    """The locked file, or None where a server (or its starter) holds it."""
    fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:
        os.close(fd)
        raise EmbeddedServerError(
            f"the file system of {data_dir} has no file locks ({error.strerror}); use a local folder (--data-dir)"
        ) from None
    return fd


def choose_socket(data_dir: Path) -> Path:
    """The socket's path, recorded in the folder for nodes that attach; the same one again after a restart."""
    inside = data_dir / SOCKET_FILE
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        path = inside
    else:
        path = recorded_socket(data_dir) or Path(tempfile.gettempdir()) / _short_name(data_dir) / SOCKET_FILE
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            path = Path("/tmp") / _short_name(data_dir) / SOCKET_FILE  # noqa: S108 - checked to be ours just below
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours_alone(path.parent):
            raise EmbeddedServerError(
                f"{path.parent} belongs to somebody else; remove it, or use a data folder with a shorter path"
            )
    reference = data_dir / SOCKET_REFERENCE
    scratch = reference.with_suffix(f".{os.getpid()}")
    scratch.write_text(f"{path}\n")
    scratch.replace(reference)
    return path


def recorded_socket(data_dir: Path) -> Path | None:
    """Where the folder's server listens, as its starter recorded it; None where none was or the record is stale.

    A folder that was moved or copied has a stale one.
    """
    try:
        path = Path((data_dir / SOCKET_REFERENCE).read_text().rstrip("\n"))
    except (OSError, UnicodeDecodeError):
        return None
    inside = path == data_dir / SOCKET_FILE
    return path if inside or (path.parent.name == _short_name(data_dir) and _is_ours_alone(path.parent)) else None


def _short_name(data_dir: Path) -> str:
    return f"delaybox-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]}"


def _is_ours_alone(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o077
