"""Checks who owns a data folder. Files that another user could have put there are refused, and no link is followed.

Otherwise other users could make the node write into a file of their choice, read its tasks, or, with a socket of their
own, pose as the server from which the node takes its tasks.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

from delaybox.core.errors import DelayBoxError

log = logging.getLogger("delaybox.embedded")

LOCK_FILE = "server.lock"
SOCKET_FILE = "server.sock"
SOCKET_REFERENCE = "server.sock.path"
SERVER_CONFIG = "server.conf"
LOG_FILE = "server.log"
DATA = "appendonlydir"

_KINDS: dict[str, tuple[Callable[[int], bool], str]] = {
    LOCK_FILE: (stat.S_ISREG, "file"),
    SERVER_CONFIG: (stat.S_ISREG, "file"),
    SOCKET_REFERENCE: (stat.S_ISREG, "file"),
    LOG_FILE: (stat.S_ISREG, "file"),
    SOCKET_FILE: (stat.S_ISSOCK, "socket"),
    DATA: (stat.S_ISDIR, "folder"),
}


class EmbeddedServerError(DelayBoxError):
    """The embedded server cannot run: no binary, no folder, or it ends at once (its last output is in the message)."""

    code = "embedded_server"


def make(data_dir: Path) -> None:
    """Makes the folder where there is none, for this user alone, then `check`s it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    check(data_dir)


def check(data_dir: Path) -> None:
    """Returns when the folder and what a server needs in it are this user's alone; EmbeddedServerError else.

    A folder of ours that others may look into is closed to them: one that is empty, or that a server ran on. Another
    one may hold what others are meant to see, so it is refused. Nothing where there is no folder.
    """
    try:
        named = data_dir.lstat()
        if stat.S_ISLNK(named.st_mode) and named.st_uid not in (os.geteuid(), 0):
            raise _foreign(data_dir, "the data folder", named.st_uid)
        fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(data_dir, error) from None
    try:
        _check_folder(data_dir, fd)
        for name, (is_kind, kind) in _KINDS.items():
            _check_entry(data_dir / name, fd, name, is_kind, kind)
        _check_data(data_dir / DATA, fd)
    finally:
        os.close(fd)


def open_own(path: Path, flags: int) -> int:
    """The file there, made where there is none, for this user alone; OSError, also for a link or another's file."""
    fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(1, "it is not a file of this user", str(path))
    return fd


def read_own(path: Path) -> str:
    """The text in a file of this user; OSError where there is none, or another's, or a link."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(1, "it is not a file of this user", str(path))
        return file.read(4096)


def write_own(path: Path, text: str) -> None:
    """Replaces the file there in one step, whatever stood there."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)


def is_ours_alone(folder: Path) -> bool:
    """Whether it is a folder that nobody else can look into."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _check_folder(data_dir: Path, fd: int) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        raise _foreign(data_dir, "the data folder", status.st_uid)
    if not status.st_mode & 0o077:
        return
    names = os.listdir(fd)
    mode = stat.S_IMODE(status.st_mode)
    if names and LOCK_FILE not in names:
        raise EmbeddedServerError(
            f"the data folder {data_dir} holds other files and is open to other users (mode {mode:04o}); name a folder "
            f"for DelayBox alone, such as --data-dir {data_dir / 'delaybox'}, or close this one: chmod 700 {data_dir}"
        )
    try:
        os.fchmod(fd, 0o700)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    if os.fstat(fd).st_mode & 0o077:
        raise EmbeddedServerError(
            f"the data folder {data_dir} is open to other users (mode {mode:04o}), and its file system does not let "
            "that be changed; name a folder on a local disk with --data-dir"
        )
    log.warning("data folder %s was open to other users (mode %04o); it is closed to them now (0700)", data_dir, mode)


def _check_entry(path: Path, folder: int, name: str, is_kind: Callable[[int], bool], kind: str) -> None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if status.st_uid != os.geteuid():
        raise _foreign(path, f"{path.name} in the data folder", status.st_uid)
    if not is_kind(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "something else"
        raise EmbeddedServerError(f"{path} must be a {kind}, but is {what}; look who put it there, and remove it")


def _check_data(path: Path, folder: int) -> None:
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(fd):  # noqa: PTH208 - of the very folder that was opened
            _check_entry(path / name, fd, name, stat.S_ISREG, "file")
    finally:
        os.close(fd)


def _foreign(path: Path, what: str, uid: int) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"{what} ({path}) belongs to {_user(uid)}, and this is {_user(os.geteuid())}: who owns it could read the tasks "
        f"and command the node. Run as its owner, give it to yourself (chown), or name another folder with --data-dir"
    )


def _unusable(data_dir: Path, error: OSError) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"cannot use the data folder {data_dir} ({error.strerror}); name a writable one (--data-dir, file:FOLDER)"
    )


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"
