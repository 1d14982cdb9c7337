"""Small libraries in C that are preloaded into a server, and into nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def why_not() -> str:
    """Why none can be built here; empty where they can."""
    return "" if shutil.which("cc") else "there is no C compiler (cc) for the library that is preloaded into the server"


def built(name: str, folder: Path) -> Path:
    """The library of ``<name>.c``, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library
