"""What the page Now is sent while somebody looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from delaybox import metrics
from delaybox.api.dashboard import live
from delaybox.api.dashboard.live import Live
from delaybox.api.dashboard.looks import Looks
from delaybox.core.errors import StoreUnavailable
from delaybox.core.membership import LivingNode
from delaybox.service.counts import StoreCounts
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_EVERY_S", 0.01)


class Seen:
    """A service in outline, and how often it was asked."""

    def __init__(self) -> None:
        self.pending = 0
        self.asked = 0
        self.forecasts: list[str] = []
        self.nodes_shown = "<p>one</p>"

    async def counts(self) -> StoreCounts:
        self.asked += 1
        return StoreCounts(self.pending, 0, 0, 0, 0)

    async def nodes(self) -> list[LivingNode]:
        return []

    async def forecast(self, span: str) -> bytes:
        self.forecasts.append(span)
        return json.dumps({"due": [self.pending]}).encode()

    def show(self, nodes: Sequence[LivingNode]) -> str:
        return self.nodes_shown

    def live(self) -> Live:
        return Live(self, forecast=self.forecast, nodes=self.show)  # type: ignore[arg-type]


class Reader:
    """One that looks."""

    def __init__(self, of: Live, span: str) -> None:
        self.parts: AsyncGenerator[bytes, None] = of.read(span)
        self.texts: list[bytes] = []

    async def until(self, event: str, value: Any) -> None:
        """Reads until an event has this value."""
        while True:
            self.texts.append(await anext(self.parts))
            if (event, value) in list(events(self.texts[-1])):
                return


def events(text: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in text.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_nodes_and_forecast_come_to_all_when_they_changed() -> None:
    seen = Seen()
    of = seen.live()
    one, two, other = Reader(of, "3h"), Reader(of, "3h"), Reader(of, "")
    await asyncio.gather(
        one.until("forecast", {"due": [0]}), two.until("forecast", {"due": [0]}), other.until("nodes", "<p>one</p>")
    )
    assert set(seen.forecasts) == {"3h"}, "nobody follows another span"
    seen.pending, seen.nodes_shown = 5, "<p>two</p>"
    await asyncio.gather(one.until("forecast", {"due": [5]}), two.until("forecast", {"due": [5]}))
    await other.until("nodes", "<p>two</p>")
    sent = [event for reader in (one, other) for text in reader.texts for event in events(text)]
    assert sent.count(("forecast", {"due": [5]})) == 1, "sent again only when it changes, and to those who follow it"
    # One that comes later is told what those before it know.
    late = Reader(of, "3h")
    await late.until("forecast", {"due": [5]})
    assert len(late.texts) == 1
    for reader in (one, two, other, late):
        await reader.parts.aclose()


async def test_a_stream_ends_with_its_session() -> None:
    of = Seen().live()
    over = False
    ends = of.read("", ended=lambda: over)
    stays = of.read("")
    for reader in (ends, stays):
        await anext(reader)
        await anext(reader)
    over = True
    with pytest.raises(StopAsyncIteration):
        await anext(ends)
    assert await anext(stays)
    await stays.aclose()


async def test_a_look_serves_all_pages_that_renew_themselves() -> None:
    asked: list[asyncio.Future[int]] = []

    def ask() -> asyncio.Future[int]:
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    looks = Looks(ask)
    pages = [asyncio.create_task(looks.last(renewed=True)) for _ in range(3)]
    await asyncio.sleep(0)
    pages[0].cancel()
    asked[0].set_result(1)
    assert await asyncio.gather(*pages[1:]) == [1, 1] and len(asked) == 1
    assert await looks.last(renewed=True) == 1 and len(asked) == 1
    # Who opens the page may just have changed something.
    opened = asyncio.create_task(looks.last(renewed=False))
    await asyncio.sleep(0)
    asked[1].set_exception(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await opened
    again = asyncio.create_task(looks.last(renewed=True))
    await asyncio.sleep(0)
    asked[2].set_result(3)
    assert await again == 3, "what failed is asked again"


async def test_a_file_of_a_process_that_just_starts_does_not_end_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.DIRECTORY_VARIABLE, str(tmp_path))
    seen = Seen()
    reader = Reader(seen.live(), "")
    await anext(reader.parts)
    (tmp_path / "counter_17.db").touch()
    seen.pending = 3

    async def frame() -> None:
        while not any(name == "now" and data["pending"] == 3 for name, data in events(await anext(reader.parts))):
            pass

    await asyncio.wait_for(frame(), PATIENCE_S)
    await reader.parts.aclose()
