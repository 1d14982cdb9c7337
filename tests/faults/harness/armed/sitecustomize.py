"""Python imports this module at its start where the tests put this folder on PYTHONPATH: it arms the failpoints."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# By its path: the folder of the tests need not be one that this process imports from.
_spec = spec_from_file_location("delaybox_failpoints_of_the_tests", Path(__file__).parents[1] / "failpoints.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)
_module.arm()
