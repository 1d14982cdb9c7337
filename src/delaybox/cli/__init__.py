"""The command line. Nothing heavy is imported before it is needed: `delaybox --version` answers at once."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

from delaybox import __version__


def main() -> None:
    """The entry point. A mistake is reported in a line or two on stderr, without a traceback."""
    if sys.argv[1:] == ["--version"]:
        with contextlib.suppress(OSError):  # `run` meets the same error again, and reports it
            print(f"delaybox {__version__}", flush=True)  # noqa: T201
            return
    try:
        from delaybox.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("delaybox"):
            raise
        if sys.argv[1:2] == ["worker"]:
            _work(sys.argv[2:])
        sys.exit(f"error: {error.name} is not installed: the command line needs `pip install 'delaybox[all]'`")
    from delaybox.processes.init import as_init

    sys.exit(as_init(run))


def _work(arguments: list[str]) -> NoReturn:
    """`delaybox worker` where the packages of the command line are missing: a worker needs none of them."""
    from delaybox.processes.init import as_init
    from delaybox.worker import launch

    sys.exit(as_init(lambda: launch.run(launch.arguments_of(arguments, "delaybox worker"))))
