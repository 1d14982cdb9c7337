"""A test that nothing ends does not hold a run: its process writes where each thread is, and exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kafka import ROOT

_CONFTEST = """
from tests import hung
hung.GRACE_S = 0.5

def pytest_configure(config):
    config.pluginmanager.register(hung)
"""
_TESTS = """
import pytest, threading, time

@pytest.mark.timeout(0.3)
def test_that_swallows_its_timeout():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def test_that_comes_after_it():
    pass
"""


def test_a_hung_test_is_a_failure_with_a_stack_and_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_held.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\n")
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "-rA", "test_held.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_held.py::test_that_swallows_its_timeout" in done.stdout, done.stdout
    assert "PASSED test_held.py::test_that_comes_after_it" in done.stdout, done.stdout
    assert 'test_held.py", line 8 in test_that_swallows_its_timeout' in done.stderr, done.stderr
