"""A test that nothing ends does not hold a run: its process writes where each thread is, and exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kafka import ROOT

_TESTS = """
import pytest, threading

@pytest.mark.timeout(0.2)
def test_that_swallows_its_timeout():
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass

def test_that_comes_after_it():
    pass
"""


def test_a_hung_test_is_a_failure_with_a_stack_and_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_held.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["-n", "1", "-p", "no:cacheprovider", "-rA", "-o", "faulthandler_timeout=1", "test_held.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_held.py::test_that_swallows_its_timeout" in done.stdout, done.stdout
    assert "PASSED test_held.py::test_that_comes_after_it" in done.stdout, done.stdout
    assert 'test_held.py", line 8 in test_that_swallows_its_timeout' in done.stderr, done.stderr
