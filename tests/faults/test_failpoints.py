from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import delaybox.failpoints
from tests.faults.harness import failpoints

pytestmark = pytest.mark.faults


HIT = "from delaybox import failpoints; failpoints.hit('here'); print('alive')"


def run(environ: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", HIT], env=environ, capture_output=True, check=False)


def test_the_product_has_none_that_a_user_can_reach() -> None:
    source = Path(delaybox.failpoints.__file__).read_text()
    assert "import os" not in source and "environ" not in source
    done = run({failpoints.VARIABLE: "here=exit"})
    assert (done.returncode, done.stdout) == (0, b"alive\n")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x=",
        "=kill",
        "x=burn",
        "x=kill@0",
        "x=kill@2",
        "x=kill@a",
        "x=kill#b",
        "x=sleep",
        "x=kill:3",
        "x=kill,x=stop",
    ],
)
def test_what_it_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=failpoints.VARIABLE):
        failpoints.parse(text)


def test_every_form_is_read() -> None:
    rules = failpoints.parse("a=kill@0.25, b=sleep:20#3,c=stop")
    assert rules["a"].chance == 0.25
    assert (rules["b"].sleep_s, rules["b"].nth) == (0.02, 3)
    assert rules["c"].action == "stop"


def test_chance_and_nth_choose_the_hits() -> None:
    draws = iter([0.5, 0.05])
    hit = failpoints.armed(failpoints.parse("a=raise@0.1,b=raise#2"), lambda: next(draws))
    hit("a")
    hit("other")
    with pytest.raises(failpoints.FailpointError):
        hit("a")
    hit("b")
    with pytest.raises(failpoints.FailpointError):
        hit("b")
    hit("b")


@pytest.mark.parametrize(("action", "code"), [("kill", -9), ("exit", 70)])
def test_the_process_ends_at_the_place(action: str, code: int) -> None:
    done = run(failpoints.environ(f"here={action}"))
    assert (done.returncode, done.stdout) == (code, b"")
