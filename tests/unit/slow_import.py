"""A module that takes longer to import than its function may run."""

from __future__ import annotations

import time

from delaybox.worker import Worker, current
from delaybox.worker.cpu_host import MAIN

WORKER = Worker("slow")

if __name__ == "tests.unit.slow_import" and not __import__("sys").modules.get("pytest"):
    time.sleep(1.5)


@WORKER.task(cpu=True, timeout="1s")
def quick() -> float:
    left = current().remaining()
    assert left is not None and MAIN
    return left
