"""A node for fault tests, as a process to kill: store + engine + a target that writes each execution to the oracle.

``python -m tests.faults.node_proc '<json settings>'`` prints ``ready`` when the engine runs. SIGTERM stops it
gracefully, a second one at once. The payload says what the handler does: ``w`` ms of work, ``f`` failures
before it succeeds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

if __name__ == "__main__":
    from tests.faults.harness.node import main

    settings: dict[str, Any] = json.loads(sys.argv[1])
    sys.exit(main(settings))
