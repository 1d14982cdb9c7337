from __future__ import annotations

import subprocess
import sys

import pytest

from delaybox import failpoints

pytestmark = pytest.mark.faults


def test_unset_it_is_nothing() -> None:
    assert not failpoints.ACTIVE
    failpoints.hit("after_claim_reply")


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
    program = "from delaybox import failpoints; failpoints.hit('here'); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", program], env={failpoints.VARIABLE: f"here={action}"}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, b"")
