"""A script that the server stops half-way: what it wrote stays, what it had still to write is missing. Limits hold all
the same, everything is carried out, and fsck finds nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.service.rules import Rules
from delaybox.store import rules
from delaybox.store.loader import ScriptCall, ScriptRunner, load
from delaybox.store.servers import Send
from delaybox.store.store import Verdict
from tests.lab import CLOCK, Lab, leased

STOP = """
local server, left = redis, {limit}
local writes = {{}}
for name in string.gmatch('{writes}', '%a+') do writes[name] = true end
local redis = setmetatable({{ call = function(name, ...)
  if writes[name] then left = left - 1 end
  if left < 0 then return error('stopped half-way') end
  return server.call(name, ...)
end }}, {{ __index = server }})
return (function()
"""
WRITES = "SET DEL UNLINK HSET HDEL HINCRBY HSETNX ZADD ZREM ZREMRANGEBYSCORE ZREMRANGEBYRANK XADD EXPIRE PEXPIRE"
CONCURRENCY = 2
TASKS = 3
ENDS = ("ack", "fail", "release", "lose")
"""Stopped before they write anything, as SCRIPT KILL does: what they leave behind later is the scrubber's to mend."""
MOST_WRITES = 60


class StoppedRunner(ScriptRunner):
    """Stops the first run of one script before its write number ``limit``; -1: never."""

    def __init__(self, send: Send, script: str) -> None:
        super().__init__(send, clock=CLOCK)
        self._plain_send = send
        self._script = script
        self.limit = -1
        self.stopped = False

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        if self.limit >= 0 and any(call.script == self._script for call in calls):
            limit, self.limit = self.limit, -1
            for call in calls:
                if call.script == self._script:
                    first, _, rest = load(call.script, CLOCK).source.partition("\n")
                    source = f"{first}{STOP.format(limit=limit, writes=WRITES)}{rest}\nend)()"
                    (reply,) = await self._plain_send([("EVAL", source, 1, call.tag, *call.args)])
                    self.stopped = isinstance(reply, ResponseError)
                    assert not self.stopped or "stopped half-way" in str(reply), reply
        # The caller's answer never came, or was an error: it sends the same again.
        return await super().run_many(calls)


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        ("claim", range(0, MOST_WRITES, 2)),
        ("claim", range(1, MOST_WRITES, 2)),
        ("permits", range(MOST_WRITES)),
        ("ledger", range(MOST_WRITES)),
        *((script, range(1)) for script in ENDS),
    ],
)
async def test_limits_hold_and_nothing_is_left_behind_wherever_a_script_stops(
    lab: Lab, script: str, limits: range
) -> None:
    runner = StoppedRunner(lab.store.servers.send, script)
    lab.store.runner = runner
    live = LiveRules()
    dealer = PermitDealer(lab.store, live, Ownership(1), Clocks(), keeps=True)
    await Rules(lab.store).set(
        "mail",
        QueueRules(
            concurrency=CONCURRENCY, rate=rate_of("100/s"), keys=(KeyLimit(by="label:customer", concurrency=1),)
        ),
        whole=True,
    )
    number, found = await rules.every(lab.store, {})
    live.take(number, {queue: one.rules for queue, one in found.items()})
    names = itertools.count()

    async def turn(at: int) -> dict[bytes, Any]:
        """Claims once, after permits were brought to what waits."""
        lease = b"%020d" % next(names)
        claimed = await lab.claim(lease, types="w")
        pools = [pool.name for name in claimed.waits for pool in dealer._rules_of(name).pools_of(name)]
        await dealer._settle({0: dict.fromkeys(pools)} if pools else {}, [0] if at % 6 == 5 else [])
        return dict.fromkeys(leased(claimed), lease)

    for limit in limits:
        runner.stopped = False
        tasks = set(
            await lab.add(
                *(
                    NewTask(type=TaskType.WORKER, queue="mail", name="send", labels={"customer": f"c{n % 2}"})
                    for n in range(TASKS)
                )
            )
        )
        running: dict[bytes, bytes] = {}
        for at in range(60):
            if at == (2 if script == "claim" else 0):
                # By now permits are there, and a claim takes tasks.
                runner.limit = limit
            running |= await turn(at)
            assert len(running) <= CONCURRENCY
            if running:
                task_id, lease = running.popitem()
                if script == "fail" and runner.limit >= 0:
                    await lab.store.fail(0, lease, [Verdict(task_id, 0, "no")])
                elif script == "release" and runner.limit >= 0:
                    await lab.store.release(0, lease, [task_id], delay_ms=0)
                elif script == "lose" and runner.limit >= 0:
                    await lab.store.lose(0, lease, [task_id], losses_cap=3)
                else:
                    await lab.store.ack(0, lease, [task_id])
                    tasks.discard(task_id)
            await lab.move(500)
            (counts,) = await lab.store.counts()
            if not counts.pending and not counts.in_flight:
                # What was leased and still lay at home was carried out twice.
                break
        assert not tasks and not counts.in_flight, f"stopped at write {limit}: {len(tasks)} tasks are not carried out"
        await lab.move(2_000)
        await dealer._settle({}, [0])
        problems = await lab.problems()
        assert problems == [], f"stopped at write {limit}: {problems}"
        if not runner.stopped:
            break
    assert not runner.stopped or script in ENDS, "the script has more writes than are looked at"
