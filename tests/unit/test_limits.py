"""Each pattern of a name stands in one file, whichever way it is spelled."""

from __future__ import annotations

import re
from pathlib import Path

import delaybox
from delaybox.core import limits

SOURCE = Path(delaybox.__file__).parent
PATTERNS = (limits.QUEUE, limits.NAME, limits.LABEL, limits.TOPIC, limits.PREFIX)
OF_A_NAME = re.compile(r"\[[A-Za-z0-9._:/\\-]+\]\{+[^}]*,[^}]*\}")
"""A class of characters with a bound, as a name's pattern has it."""


def test_no_second_definition_of_a_names_pattern():
    classes = {pattern.pattern.partition("{")[0] for pattern in PATTERNS}
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for literal in OF_A_NAME.findall(path.read_text())
        if literal.partition("{")[0] in classes
    }
    assert found == {"core/limits.py"}


def test_what_is_one_too_long_is_no_name():
    for pattern, most in zip(PATTERNS, (64, 128, 64, 249, 64), strict=True):
        assert (
            pattern.fullmatch("a" * most) and not pattern.fullmatch("a" * (most + 1)) and not pattern.fullmatch("a\n")
        )
