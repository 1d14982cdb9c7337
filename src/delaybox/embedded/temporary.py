"""Finds a place for temporary files on a machine without a folder for them, such as a container with a read-only
root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from delaybox.core.errors import ConfigError
from delaybox.embedded import trust
from delaybox.embedded.trust import EmbeddedServerError

FOLDER = "tmp"
_VARIABLE = "TMPDIR"
_USUAL = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - Python looks there


def find_room(of_data: Callable[[], Path]) -> Path | None:
    """Gives this process, and those that it starts, a folder for temporary files where the machine has none.

    That folder is ``tmp`` in the data folder, which ``of_data`` names when it is asked, and is returned; None where the
    machine has one. ConfigError where there is no room in the data folder either.
    """
    if _machine_has_one():
        return None
    data_dir = of_data()
    folder = data_dir / FOLDER
    try:
        trust.make(data_dir)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not trust.is_ours_alone(folder):
            raise EmbeddedServerError(f"{folder} must be a folder of this user alone (mode 0700); remove it")
        # Only a written file shows whether the file system takes files.
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, EmbeddedServerError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise ConfigError(
            f"there is no folder for temporary files: {', '.join(_USUAL)} cannot be written to, and the data "
            f"folder {data_dir} cannot be used in their place ({reason}). Set {_VARIABLE} to a folder that can be "
            "written to, or name such a data folder with --data-dir"
        ) from None
    os.environ[_VARIABLE] = tempfile.tempdir = str(folder)
    return folder


def _machine_has_one() -> bool:
    """Whether one of the usual folders can be written to. Python's last resort, the working folder, is a user's own."""
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        return False
    named = any(os.environ.get(name) for name in (_VARIABLE, "TEMP", "TMP"))
    if not named and found not in _USUAL:
        tempfile.tempdir = None
        return False
    return True
