"""T33: the protocol of a partition, explored to its end; and each rule, left out, is missed.

What is shown is the design, not the scripts: that those keep to it is what the property tests and the fault rows show.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.harness.scale import scaled
from tests.faults.protocol.explorer import explore
from tests.faults.protocol.model import (
    BEFORE,
    CONFIRM,
    FENCE,
    KEY,
    MUTATIONS,
    REAP,
    RECORD,
    SCRUB,
    STAND_IN,
    Broken,
    Rules,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

# Two workers, two tasks, leases that expire, and one fault of each kind at a time; then fail-overs and a clock that
# goes back. Larger numbers where there is time.
EXPIRY = Rules(ticks=2, faults=(scaled(0, 1), 1, 0, 0, 0, 0, 0))
HINTS = Rules(workers=1, ticks=2, faults=(0, 0, 1, 1, 1, 0, 0))
FAILOVER = Rules(tasks=1, ticks=2, faults=(0, 1, 0, 0, 0, 1, 0))
CLOCK_STEP = Rules(tasks=1, faults=(1, 1, 0, 0, 0, 0, 1))
SMALL = Rules(tasks=1, ticks=2, faults=(1, 1, 0, 0, 0, 0, 0))
FEW_HINTS = Rules(tasks=1, workers=1, ticks=2, faults=(0, 0, 0, 1, 1, 0, 0))
LARGER = [
    Rules(faults=(1, 1, 0, 0, 0, 0, 0)),
    Rules(tasks=1, ticks=2, faults=(1, 1, 1, 0, 0, 1, 1)),
]
WHAT = {
    FENCE: (SMALL, "I5"),
    RECORD: (FEW_HINTS, "I3"),
    BEFORE: (SMALL, "I8"),
    STAND_IN: (SMALL, "for ever"),
    CONFIRM: (FAILOVER, "I1"),
    KEY: (SMALL, "I2"),
    SCRUB: (FEW_HINTS, "for ever"),
    REAP: (SMALL, "for ever"),
}


@pytest.mark.parametrize(
    "rules",
    [EXPIRY, HINTS, FAILOVER, CLOCK_STEP, *scaled([], LARGER)],
    ids=lambda rules: f"{rules.tasks} tasks, {rules.workers} workers, faults {rules.faults}",
)
def test_nothing_is_lost_early_or_done_twice_and_all_comes_to_an_end(rules: Rules) -> None:
    found = explore(rules)
    print(f"T33 {rules} states={found.states:,} steps={found.steps:,} counter-examples=0")
    assert found.states > 1_000


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_rule_that_is_left_out_is_missed(rule: str) -> None:
    rules, word = WHAT[rule]
    with pytest.raises(Broken, match=word):
        explore(replace(rules, broken=rule))
