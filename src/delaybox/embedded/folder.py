"""The data folder: where it is, who holds its lock, and where its server's socket and password are."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path

from delaybox.embedded import trust
from delaybox.embedded.trust import (
    LOCK_FILE,
    SERVER_CONFIG,
    SOCKET_FILE,
    SOCKET_REFERENCE,
    EmbeddedServerError,
    is_ours_alone,
    open_own,
    read_own,
    write_own,
)

# A unix socket's path ends at 103 bytes on macOS and 107 on Linux, and the server only logs it when it is longer.
LONGEST_SOCKET_PATH = 100

_PASSWORD = re.compile(r'^requirepass "?([0-9a-f]{64})"?$', re.MULTILINE)
"""The value may be in quotes: CONFIG REWRITE writes it so."""
_CONFIG_TEXT = """\
# Made by DelayBox, which gives this file to the server that it starts and reads the password here. Of this folder's
# server alone; to have a new one, stop every node on this folder and remove the file.
requirepass {}
"""


def default_data_dir() -> Path:
    """The default data folder: the same one wherever the node is started."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "delaybox"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "delaybox"


def prepare(data_dir: Path) -> None:
    """Make the folder, for this user alone, and its lock file; EmbeddedServerError when it cannot be used."""
    trust.make(data_dir)
    os.close(_lock_file(data_dir))


def _lock_file(data_dir: Path) -> int:
    try:
        return open_own(data_dir / LOCK_FILE, os.O_RDWR)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot use the data folder {data_dir} ({error.strerror}); name a writable one (--data-dir, file:FOLDER)"
        ) from None


def try_lock(data_dir: Path) -> int | None:
    """The locked file, or None where a server (or its starter) holds it."""
    fd = _lock_file(data_dir)
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


def has_run(data_dir: Path) -> bool:
    """Whether a server ever ran on the folder. EmbeddedServerError for a folder that is not ours."""
    trust.check(data_dir)
    return (data_dir / LOCK_FILE).exists()


def choose_socket(data_dir: Path) -> Path:
    """The socket's path, recorded in the folder for nodes that attach; the same one again after a restart."""
    inside = data_dir / SOCKET_FILE
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        path = inside
    else:
        path = recorded_socket(data_dir) or _outside(data_dir)
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            path = Path("/tmp") / _short_name(data_dir) / SOCKET_FILE  # noqa: S108 - checked to be ours just below
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"{inside} is too long a path for a socket (at most {LONGEST_SOCKET_PATH} bytes), and {path.parent} "
                f"cannot be made in its place ({error.strerror}); use a data folder with a shorter path"
            ) from None
        if not is_ours_alone(path.parent):
            raise EmbeddedServerError(
                f"{path.parent} belongs to somebody else; remove it, or use a data folder with a shorter path"
            )
    write_own(data_dir / SOCKET_REFERENCE, f"{path}\n")
    return path


def _outside(data_dir: Path) -> Path:
    try:
        base = tempfile.gettempdir()
    except FileNotFoundError:
        base = "/tmp"  # noqa: S108 - it cannot be written to, and whoever makes the folder there says so
    return Path(base) / _short_name(data_dir) / SOCKET_FILE


def recorded_socket(data_dir: Path) -> Path | None:
    """Where the folder's server listens, as its starter recorded it; None where none was or the record is stale.

    A folder that was moved or copied has a stale one.
    """
    try:
        path = Path(read_own(data_dir / SOCKET_REFERENCE).rstrip("\n"))
    except OSError:
        return None
    inside = path == data_dir / SOCKET_FILE
    return path if inside or (path.parent.name == _short_name(data_dir) and is_ours_alone(path.parent)) else None


def password(data_dir: Path) -> str | None:
    """The password of the folder's server; None where none was made: an older version ran it last, or nobody did."""
    try:
        found = _PASSWORD.search(read_own(data_dir / SERVER_CONFIG))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EmbeddedServerError(f"cannot read {data_dir / SERVER_CONFIG} ({error.strerror}); remove it") from None
    if found is None:
        raise EmbeddedServerError(
            f"{data_dir / SERVER_CONFIG} holds no password of DelayBox's; stop the nodes on this folder and remove it"
        )
    return found[1]


def make_password(data_dir: Path) -> str:
    """The password of the folder's server, made at random where there is none yet. For who holds the lock."""
    found = password(data_dir)
    if found is None:
        found = secrets.token_hex(32)
        write_own(data_dir / SERVER_CONFIG, _CONFIG_TEXT.format(found))
    return found


def _short_name(data_dir: Path) -> str:
    return f"delaybox-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]}"
