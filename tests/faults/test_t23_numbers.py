"""T23: times and numbers of every kind over REST. Each is refused or kept exact to 1 ms; none fires by overflow."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.oracle import FAIL, OK, Call, now_us
from tests.faults.harness.rest import Rest
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

LEAST, MOST = 10**11, 10**14
LONGEST_DELAY = 10**13
FAR = 4_000_000_000_000  # the year 2096: nothing due then may run in this test


class Case(NamedTuple):
    """``text`` is raw JSON, for much of this no JSON writer would write. ``must``: accept, refuse, or either."""

    field: str
    text: str
    must: str


def _number(text: str) -> int | None:
    """The whole number that a JSON number, or a string of one, spells; None for anything else."""
    try:
        value = Decimal(text.strip('"').removesuffix("ms"))
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value.adjusted()) > 40 or value != value.to_integral_value():
        return None
    return int(value)


def _must(field: str, text: str) -> str:
    """What the API's table says of one value; "either" where it leaves the spelling open."""
    bare = text[1:-1] if text.startswith('"') and text.endswith('"') else text
    if bare.endswith("ms"):
        # A delay may have its unit, as at every other door; a moment has none.
        return "accept" if field == "delay" else "refuse"
    plain = bare.isascii() and bare.isdigit() and (bare == "0" or not bare.startswith("0"))
    value = _number(text)
    low, high = (LEAST, MOST) if field == "executionTimestamp" else (0, LONGEST_DELAY)
    if value is None or not (low <= value <= high or value == 0):
        return "refuse"
    return "accept" if plain else "either"


ODD = """
1.5 1e400 -1e400 1e-400 NaN Infinity -Infinity nan true false [] {} [1] "" "abc" "1e400" "NaN" "Infinity"
"0x10" "1_000" "2024-02-29T00:00:00Z" "2023-02-29T00:00:00Z" "2026-03-29T02:30:00+01:00"
"2026-11-01T01:30:00-04:00" "1721672590913ms" "1,721" 1721672590.913 "1721672590.913" -1 "-1" -0.5
9007199254740991 9007199254740992 9007199254740993 9223372036854775807 9223372036854775808
18446744073709551616 "9007199254740993" 1e308 99999999999 100000000000 100000000000000 100000000000001
99999999999999.5 281474976710655 281474976710656 140737488355328 140737488355327 "140737488355328" 4294967296
2147483648 1721672590 "1721672590" 1721672590913000 "1721672590913000" 1721672590913000000 0 "0" 1e13 1.0e13
4e12 "4e12" 4000000000000.0 4000000000001 "4000000000001" "04000000000001" "+4000000000001" 0.4e13
40000000000010e-1 "４000000000001" "४०००००००००००१" "4000000000001.0" 99999999999999 "99999999999999"
9999999999999 10000000000001
"""
SPACED = ('" "', '"4000000000001 "', '"1 721 672 590 913"')


def _cases(seed: int, count: int) -> Iterator[Case]:
    for field in ("executionTimestamp", "delay"):
        for text in (*ODD.split(), *SPACED):
            yield Case(field, text, _must(field, text))
        yield Case(field, "null", "either")
        yield Case(field, '"4000000000001\\u0000"', "refuse")
    draw = random.Random(seed)
    for _ in range(count):
        digits = draw.randrange(1, 25)
        value = draw.choice(
            (draw.randrange(10**digits), draw.randrange(FAR, MOST), 2 ** draw.randrange(1, 70) + draw.randrange(-2, 3))
        )
        text = draw.choice(("{}", '"{}"', "-{}", "{}.0", "{}e0", "{}.5", '"{}0"', "{}e-1", "{}E+2")).format(value)
        field = draw.choice(("executionTimestamp", "delay"))
        if field == "delay" and 0 < (_number(text) or 0) < LEAST:
            continue  # due while the test looks on: neither at once nor far
        yield Case(field, text, _must(field, text))


async def test_every_number_is_refused_or_exact(tmp_path: Path) -> None:
    async with Rig(tmp_path, "T23", partitions=16) as rig:
        await rig.listen()
        node = await rig.serve()
        service = await rig.service()
        rest = Rest(node.port)
        wrong: list[str] = []
        cases = list(_cases(rig.seed, scaled(400, 20_000)))
        verdicts = {"accepted": 0, "refused": 0}
        dues: dict[str, int] = {}

        async def judge(n: int, case: Case) -> None:
            # "pyload" is {"k":"<n>"} so that the subscriber can tell which task it saw.
            payload = _base64(json.dumps({"k": f"k{n}"}, separators=(",", ":")))
            body = f'{{"parameter":{{"{case.field}":{case.text}}},"pyload":"{payload}"}}'
            sent_us = now_us()
            answer = await rest.call("POST", "/task", body.encode())
            answered_us = now_us()
            if answer.status == 400:
                verdicts["refused"] += 1
                rig.writer.write(Call("schedule", f"k{n}", "", 0, FAIL, sent_us, answered_us))
                if case.must == "accept":
                    wrong.append(f"{case}: refused with {answer.body!r}")
                elif not answer.json().get("error"):
                    wrong.append(f"{case}: refused without saying why")
                return
            if answer.status != 200 or case.must == "refuse":
                wrong.append(f"{case}: answered {answer.status} {answer.body!r}")
                return
            verdicts["accepted"] += 1
            task_id = answer.json()["taskUuid"]
            due = int(task_id.replace("-", "")[:12], 16)
            value = _number(case.text) or 0
            if case.field == "delay":
                # By Redis's clock, read between sending and answer.
                low, high = sent_us // 1000 + value, answered_us // 1000 + value
            else:
                low, high = max(value, sent_us // 1000), max(value, answered_us // 1000)
            if not low <= due <= high:
                wrong.append(f"{case}: due {due}, not {low} to {high}")
            rig.writer.write(Call("schedule", f"k{n}", task_id, due, OK, sent_us, answered_us))
            dues[task_id] = due
            if low > FAR // 2:
                stored = await service.get(task_id)
                if stored.due_ms != due:
                    wrong.append(f"{case}: stored due {stored.due_ms}, answered {due}")

        todo = iter(enumerate(cases))

        async def client() -> None:
            for n, case in todo:
                await judge(n, case)

        await asyncio.gather(*(client() for _ in range(8)))
        overdue = {task_id for task_id, due in dues.items() if due <= soon()}
        await rig.reader.until(
            lambda h: overdue <= {s.task_id for s in h.starts}, timeout_s=60, what="those due at once"
        )
        await rest.close()
        ran = {s.task_id for s in rig.reader.history.starts}
        await rig.passes(Limits(drained=False), extra={"cases": len(cases), "wrong": len(wrong), **verdicts})
        assert not wrong, wrong[:5]
        assert overdue
        assert all(dues[task_id] <= soon() for task_id in ran), "something far off has fired"
        assert min(verdicts.values()) > len(cases) // 10


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()
