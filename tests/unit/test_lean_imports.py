"""A child's quick start: what it leaves out is only left out until everything is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

LOOK = """
import gc, json, sys
sys.orig_argv = ["python", "-P", "-m", "delaybox.roles.{kind}"]
import delaybox.roles.{kind}
before = gc.isenabled(), [name for name in sys.modules if name.startswith("opentelemetry.sdk.metrics.")]
from delaybox.processes import lean_imports
lean_imports.settled()
import opentelemetry.sdk.metrics.export
print(json.dumps([*before, gc.isenabled()]))
"""


def look(kind: str) -> Any:
    done = subprocess.run([sys.executable, "-c", LOOK.format(kind=kind)], capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["clock", "grpc"])
def test_nothing_is_collected_and_no_sdk_is_loaded_until_all_is_imported(kind: str) -> None:
    collecting, loaded, afterwards = look(kind)
    assert (collecting, loaded, afterwards) == (False, [], True)


def test_who_imports_a_main_is_left_alone() -> None:
    code = "import gc, delaybox.roles.clock; assert gc.isenabled()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
