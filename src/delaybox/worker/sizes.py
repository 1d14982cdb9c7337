"""How much a worker runs at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from delaybox.core.errors import ConfigError
from delaybox.worker.functions import FunctionKind

MOST_THREADS: Final = 32


@dataclass(frozen=True, slots=True)
class Sizes:
    """Places for each kind of function."""

    concurrency: int
    threads: int
    cpu_processes: int

    @classmethod
    def checked(cls, *, concurrency: int, threads: int | None, cpu_processes: int | None) -> Sizes:
        """The same sizes with defaults in place of None. ConfigError."""
        processors = os.cpu_count() or 1
        sizes = cls(
            concurrency,
            min(MOST_THREADS, processors + 4) if threads is None else threads,
            processors if cpu_processes is None else cpu_processes,
        )
        for name in cls.__slots__:
            if getattr(sizes, name) < 1:
                raise ConfigError(f"{name}={getattr(sizes, name)}: at least 1 must have room")
        return sizes

    def of(self, kind: FunctionKind) -> int:
        """Places of one kind."""
        return {
            FunctionKind.ASYNC: self.concurrency,
            FunctionKind.THREAD: self.threads,
            FunctionKind.CPU: self.cpu_processes,
        }[kind]
