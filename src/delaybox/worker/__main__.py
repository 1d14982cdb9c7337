"""``python -m delaybox.worker module:worker``: as ``delaybox worker``, with nothing but the base install."""

from __future__ import annotations

import sys

from delaybox.processes.init import as_init
from delaybox.worker import launch

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(launch.child(sys.argv[2]))
    sys.exit(as_init(lambda: launch.run(launch.arguments_of(sys.argv[1:]))))
