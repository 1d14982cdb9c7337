"""One main for each kind of process that a node starts; `processes.spec.Kind` names them."""

from __future__ import annotations

import sys

if "".join(sys.orig_argv[-1:]).startswith(f"{__name__}."):
    # `python -m` one of them: this process is a node's child, and its node waits until everything is imported.
    from delaybox.processes import lean_imports

    lean_imports.lean()
