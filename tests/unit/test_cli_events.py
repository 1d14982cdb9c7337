"""`delaybox events --follow`, where the streams of a node or a proxy end in every way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from delaybox.cli import events, several
from delaybox.cli.client import NodeRefused, NodeUnreachable


class Served:
    """Answers one stream after the other: events by their ids, or an error after them."""

    def __init__(self, *streams: list[str | Exception]) -> None:
        self._streams = iter(streams)
        self.after: list[str | None] = []

    def stream(self, path: str, query: dict[str, Any], *, quiet_s: float) -> Iterator[tuple[str, str]]:
        self.after.append(query["after"])
        for one in next(self._streams):
            if isinstance(one, Exception):
                raise one
            yield one, f"data of {one}"


def followed(served: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(several, "AGAIN_S", 0)
    return list(itertools.islice(events._lines(served, {}, "", follow=True), count))


def test_it_goes_on_after_what_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bad_gateway = NodeRefused(502, "http_502", "http://proxy answered 502")
    served = Served(["1-0.1", NodeUnreachable("cut off")], [bad_gateway], [bad_gateway], [], ["2-0.1"])
    assert followed(served, 2, monkeypatch) == ["data of 1-0.1", "data of 2-0.1"]
    assert served.after == [None, "1-0.1", "1-0.1", "1-0.1", "1-0.1"]
    # One outage is told once.
    assert capsys.readouterr().err.count("goes on when a node answers") == 1


@pytest.mark.parametrize("error", [NodeRefused(401, "unauthenticated", "no token"), NodeRefused(400, "bad", "bad")])
def test_it_ends_with_what_lasts(error: NodeRefused, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeRefused):
        followed(Served(["1-0.1", error]), 2, monkeypatch)


def test_a_proxy_without_nodes_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeRefused):
        followed(Served([NodeRefused(502, "http_502", "http://proxy answered 502")]), 1, monkeypatch)
