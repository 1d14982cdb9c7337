"""Steps of a sequence that claim, and what must hold of each claim."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from delaybox.store import keys
from delaybox.store.record import read
from delaybox.store.store import Claimed, ClaimLimits, Store, read_claim
from delaybox.store.survey import SHARED
from delaybox.wire import body as wire_body
from tests.property.limiting import Limiting
from tests.property.model import State
from tests.property.twice import pairs

LONGEST_MS = 15_000
CHANNEL = "property:executions"
LETTERS = "pshw"
LANES = [b"w:f", b"wmail:f", b"w*:g", b"s*:backup", b"s*", b"smail"]


class Claiming(Limiting):
    """Part of `driver.Sequence_`, whose helpers it uses."""

    rng: random.Random
    store: Store
    now: int
    gone_leases: list[bytes]
    seen_stream: list[bytes]

    def partition(self) -> int:
        raise NotImplementedError

    async def claim(self) -> None:
        rng = self.rng
        p = self.partition()
        lease_ms = rng.choice([1_000, 5_000, LONGEST_MS])
        # Its id says how long a lease is, but for those of older versions.
        lease_id = lease_ms.to_bytes(4, "big") + rng.randbytes(16) if rng.random() < 0.8 else rng.randbytes(16)
        if rng.random() < 0.15 and (old := [*self.model.leases, *self.gone_leases]):
            lease_id = rng.choice(old)
            lease = self.model.leases.get(lease_id)
            p = lease.partition if lease else p
        limits = ClaimLimits(
            slots=rng.choice([0, 1, 3, 10, 100]),
            types="".join(rng.sample(LETTERS, rng.randint(0, 4))) if rng.random() < 0.5 else LETTERS,
            channel=rng.choice(["", CHANNEL]),
            stream=1_000_000,
            lease_ms=lease_ms,
            items=rng.choice([1, 3, 20, 500, 500]),
            lanes=tuple(rng.sample(LANES, rng.randint(1, 4))) if rng.random() < 0.3 else (),
        )
        if rng.random() < 0.3:
            limits = replace(limits, guest=True, channel="")
        if rng.random() < 0.1:
            # As a taker that knows of weights, and has not looked yet what waits.
            limits = replace(limits, plan=SHARED)
        self.note("claim", p, lease_id.hex(), limits)
        await self.claim_and_check(p, lease_id, limits)

    async def claim_together(self) -> None:
        """From several partitions at once (claims.lua)."""
        rng = self.rng
        limits = ClaimLimits(
            slots=rng.choice([0, 1, 3, 100]),
            types="".join(rng.sample(LETTERS, rng.randint(0, 4))) if rng.random() < 0.5 else LETTERS,
            channel=rng.choice(["", CHANNEL]),
            stream=1_000_000,
            items=rng.choice([3, 500]),
            guest=rng.random() < 0.1,
            plan=SHARED if rng.random() < 0.1 else b"",
        )
        partitions = rng.sample(range(self.store.partitions), rng.randint(1, self.store.partitions))
        leases = [LONGEST_MS.to_bytes(4, "big") + rng.randbytes(16) for _ in partitions]
        self.note("claim_together", partitions, [lease.hex() for lease in leases], limits)
        hinted = [await self.hinted(p) for p in partitions]
        calls = [self.store.claim_call(p, lease, limits) for p, lease in zip(partitions, leases, strict=True)]
        replies = await self.store.runner.run_many([call._replace(few=True, together=True) for call in calls])
        for p, lease, found, reply in zip(partitions, leases, hinted, replies, strict=True):
            assert not isinstance(reply, BaseException), reply
            await self.check_claim(p, lease, limits, found, read_claim(reply))

    async def claim_and_check(self, p: int, lease_id: bytes, limits: ClaimLimits) -> list[bytes]:
        hinted = await self.hinted(p)
        reply = await self.store.claim(p, lease_id, limits)
        return await self.check_claim(p, lease_id, limits, hinted, reply)

    async def check_claim(
        self, p: int, lease_id: bytes, limits: ClaimLimits, hinted: set[bytes], reply: Claimed
    ) -> list[bytes]:
        leased = pairs(reply.leased)
        assert not (reply.pressed and leased), "with more work than slots a taker that shares has to look first"
        assert len(leased) * 2 == len(reply.leased), "one task twice in a claim"
        fired = await self.fired(p)
        for task_id in fired:
            t = self.model.tasks[task_id]
            assert t.state is State.PENDING and t.due <= self.now and t.letter == "p" and limits.channel, t
            assert not self.model.waits(t), f"{t} of a paused queue was fired"
            t.state = State.DONE
        self.check_limits(fired, leased=False)
        known = self.model.leases.get(lease_id)
        if known is not None:
            assert set(leased) == known.held, "a claim under a lease that lives hands out something else"
            for task_id, raw in leased.items():
                assert not (why := self.model.tasks[task_id].differs(read(task_id, raw))), why
            return []
        for task_id in leased:
            t = self.model.tasks[task_id]
            assert t.state is State.PENDING and t.partition == p, f"leased, but {t}"
            assert t.due <= self.now, f"{t} claimed early, at {self.now}"
            assert not self.model.waits(t), f"{t} of a paused queue was leased"
            assert t.letter in limits.types or (t.letter == "p" and limits.channel and (t.stub or t.extended)), (
                f"{t} is not served"
            )
            limited = [lane for lane in limits.lanes if lane[0] == t.lane[0]]
            any_queue = b"%c*%b" % (t.lane[0], b"".join(t.lane.partition(b":")[1:]))
            assert not limited or t.lane in limited or any_queue in limited, f"{t} is not among the lanes served"
        assert len(leased) <= limits.slots
        assert len(leased) + len(fired) <= 2 * limits.items  # twice, for the claim may have been sent twice
        self.model.lease_out(lease_id, p, list(leased), self.now + limits.lease_ms)
        self.check_limits(leased, leased=True)
        self.wants(p, reply.waits)
        for task_id, raw in leased.items():
            assert not (why := self.model.tasks[task_id].differs(read(task_id, raw))), why
        # A guest, and who is limited to some lanes, need not look at everything there is.
        if limits.items == 500 and not self.lossy and not limits.guest and not limits.lanes:
            self.check_order(set(leased) | set(fired), hinted, limits)
        return list(leased)

    def check_order(self, taken: set[bytes], hinted: set[bytes], limits: ClaimLimits) -> None:
        """Earliest virtual deadline first in each lane; critical before all but the others' share."""
        left = [t for i in hinted if (t := self.model.tasks[i]).state is State.PENDING and t.due <= self.now]
        left = [t for t in left if not self.model.waits(t) and not self.limited(t)]
        got = [self.model.tasks[i] for i in taken]
        for t in left:
            # In this queue tasks have fairness keys, which take turns.
            for g in got if b"a.b-c" not in t.lane else []:
                # A body apart needs a slot even where small ones are fired in place.
                if (t.lane, t.critical, t.stub or t.extended) == (g.lane, g.critical, g.stub or g.extended):
                    assert g.virtual_deadline <= t.virtual_deadline, f"{g} was taken before {t}"
        served = [t for t in left if t.critical and t.letter in limits.types and t.letter != "p"]
        if served and limits.slots:
            others = sum(1 for g in got if not g.critical and g.letter != "p")
            assert others <= -(-limits.slots // 20), f"{others} others were taken before critical {served[0]}"

    async def hinted(self, p: int) -> set[bytes]:
        """Ids that near or a ready set names, of tasks that live."""
        tag = self.store.tags[p]
        nears = keys.nears(tag)
        actives = [(letter, ending) for letter in LETTERS for ending in ("", ":critical")]
        members = await self.members([*nears, *(f"{tag}:active:{letter}{ending}" for letter, ending in actives)])
        found = {member[:16] for near in members[: len(nears)] for member in near}
        ready = [
            f"{tag}:ready:{lane.decode()}{ending}"
            for (_, ending), lanes in zip(actives, members[len(nears) :], strict=True)
            for lane in lanes
        ]
        found |= {member for members in (await self.members(ready) if ready else []) for member in members}
        return found & self.model.tasks.keys()

    async def members(self, names: Sequence[str]) -> list[list[bytes]]:
        """Of zsets, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.zrange(name, 0, -1)
        found: list[list[bytes]] = await pipe.execute()
        return found

    async def fired(self, p: int) -> list[bytes]:
        """What was fired in place since the last look: the stream holds it."""
        entries: Any = await self.client.xrange(keys.stream(self.store.tags[p]), self.seen_stream[p])
        out: list[bytes] = []
        for entry_id, fields in entries:
            self.seen_stream[p] = b"(" + entry_id
            message = wire_body.decode(fields[b"task"])
            task_id = UUID(message.taskUuid).bytes
            sent = b"\x0a\x24" + message.taskUuid.encode() + self.model.tasks[task_id].body
            assert fields[b"task"] == sent, "what was fired is not what was scheduled"
            out.append(task_id)
        assert len(set(out)) == len(out), "fired twice"
        return out
