"""The working folder of a slot's commands: private, empty for each of them, gone or as new after each."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from pathlib import Path


class Folder:
    """A folder that a command did not touch is used for the next one as well.

    Making and removing one for every command waits for the file system's journal: it halved the rate on a busy disk.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._path = ""
        self._as_made = (0, 0)

    def enter(self) -> None:
        """Makes it the working folder of this process."""
        if self._path:
            return
        path = f"{self._base}/{os.getpid()}-{time.monotonic_ns()}"
        Path(path).mkdir(0o700)
        os.chdir(path)
        self._path = path
        self._as_made = self._look()

    def leave(self) -> bool:
        """Prepares the folder for the next command. False: `wipe` must clear it first, which may take long."""
        with contextlib.suppress(OSError):
            # Every change to a folder, or in it, moves its ctime. A change within one tick of the clock shows in its
            # content.
            if self._path and self._look() == self._as_made and not os.listdir("."):  # noqa: PTH208
                return True
        os.chdir("/")
        try:
            Path(self._path).rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self._path = ""
        return True

    def wipe(self) -> None:
        """Removes it with all that is in it."""

        def unlock(_: object, path: str, __: object) -> None:
            with contextlib.suppress(OSError):
                Path(path).parent.chmod(stat.S_IRWXU)
                Path(path).chmod(stat.S_IRWXU)

        path, self._path = self._path, ""
        os.chdir("/")
        shutil.rmtree(path, onerror=unlock)
        shutil.rmtree(path, ignore_errors=True)

    def _look(self) -> tuple[int, int]:
        now = Path().stat()
        return now.st_ctime_ns, now.st_mode
