"""`python -m delaybox` is `delaybox`."""

from __future__ import annotations

from delaybox.cli import main

main()
