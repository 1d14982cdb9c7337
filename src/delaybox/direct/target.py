"""The target of a worker straight on Redis. What it needs is imported when the worker runs: see `source`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from delaybox.direct.address import DirectAddress, direct_address
from delaybox.processes import counters
from delaybox.worker.task_sources import DirectOptions

if TYPE_CHECKING:
    from delaybox.direct.worker import DirectSource

log = logging.getLogger("delaybox.worker")

NEEDED: Final = ("redis", "hiredis", "prometheus_client")


@dataclass(frozen=True, slots=True)
class DirectWorkerTarget:
    """A store, as the source of a worker's tasks. ``name``: the worker's."""

    address: DirectAddress
    name: str
    options: DirectOptions

    @property
    def endpoints(self) -> tuple[str, ...]:
        """One, for people."""
        return (self.address.describe(),)

    def source(self) -> DirectSource:
        """For one run of the worker."""
        stack = contextlib.ExitStack()
        if self.options.metrics_port is not None and counters.VARIABLE not in os.environ:
            # prometheus-client reads the variable when it is imported, and then shares what is counted with the child.
            if "prometheus_client" in sys.modules:
                log.warning(
                    "the metrics port shows the worker's child alone, because prometheus_client was imported before: "
                    "give --metrics-port to the command, or set %s to a folder",
                    counters.VARIABLE,
                )
            os.environ[counters.VARIABLE] = stack.enter_context(counters.folder())
            stack.callback(os.environ.pop, counters.VARIABLE, None)
        from delaybox.direct.worker import DirectSource

        return DirectSource(self.address, self.name, self.options, stack)


def direct_worker_target(
    url: str,
    *,
    name: str,
    options: DirectOptions,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> DirectWorkerTarget:
    """The target that a URL leads to. ConfigError; ModuleNotFoundError for a package that is missing."""
    from importlib.util import find_spec

    for package in NEEDED:
        if find_spec(package) is None:
            raise ModuleNotFoundError(package, name=package)
    address = direct_address(url, tls=tls, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    return DirectWorkerTarget(address, name, options)
