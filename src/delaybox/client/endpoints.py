"""The nodes' addresses, and which node is asked next. Pure: the clock and the random draw are arguments."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from delaybox.core.errors import ConfigError

DEFAULT_PORT: Final = 9088
DEFAULT_ENDPOINT: Final = "localhost:9088"
VARIABLE: Final = "DELAYBOX_GRPC_SERVERS"
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_FORGOTTEN_S: Final = 10.0
"""What was measured counts for less and less, by half after 7 s."""
_BUSIER: Final = 1.5
"""Less than this is chance."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


def named(given: str | Iterable[str] | None, environ: Mapping[str, str]) -> str | Iterable[str]:
    """The nodes to use: those given, else those of the environment, else the one on this machine."""
    return given or environ.get(VARIABLE) or DEFAULT_ENDPOINT


def parse(endpoints: str | Iterable[str]) -> tuple[str, ...]:
    """Addresses in gRPC's form. ConfigError for a text that is no address, and for an empty list."""
    given = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    found = tuple(dict.fromkeys(_address(one) for text in given for one in text.split(",")))
    if not found:
        raise ConfigError("no endpoint is given; name at least one node, such as localhost:9088")
    return found


def _address(text: str) -> str:
    text = text.strip()
    if text.startswith("unix:") and len(text) > 5:
        return text
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match[2] or DEFAULT_PORT) < 65536:
        mend = " without a scheme (TLS is asked for by tls=True or ca_file)" if "://" in text else ""
        raise ConfigError(f"endpoint {text!r} is not one; write host:port{mend}, such as localhost:9088")
    return f"{match[1]}:{match[2] or DEFAULT_PORT}"


class Pace:
    """How busy each node is with the calls of this client, measured by the calls themselves.

    What a node is busy with otherwise shows in how long it takes. Calls of one method are compared with one another,
    because a page of a list takes longer than a task.
    """

    __slots__ = ("_at", "_means", "_pace", "_under_way")

    def __init__(self, nodes: int) -> None:
        # Several threads add and remove at once: a number would lose counts.
        self._under_way: list[deque[None]] = [deque() for _ in range(nodes)]
        self._pace = [1.0] * nodes
        self._at = [0.0] * nodes
        self._means: dict[str, float] = {}

    def began(self, which: int) -> None:
        self._under_way[which].append(None)

    def ended(self, which: int) -> None:
        self._under_way[which].pop()

    def took(self, which: int, method: str, now: float, seconds: float) -> None:
        """A call was answered."""
        mean = self._means.get(method, seconds)
        self._means[method] = mean + (seconds - mean) / 10
        if mean > 0:
            pace = self.of(which, now)
            self._pace[which], self._at[which] = pace + (seconds / mean - pace) / 5, now

    def of(self, which: int, now: float) -> float:
        """How long it takes against the mean of all nodes. What is not measured again is forgotten, so that a node that
        was slow is tried again."""
        return 1.0 + (self._pace[which] - 1.0) * math.exp((self._at[which] - now) / _FORGOTTEN_S)

    def cost(self, which: int, now: float) -> float:
        """The lower, the sooner it answers one call more."""
        return (len(self._under_way[which]) + 1) * self.of(which, now)


class Endpoints:
    """Takes turns among the nodes that work, but passes over one that is clearly busier than another, drawn at random.
    One that failed is left alone for a while, longer each time."""

    __slots__ = ("_draw", "_failures", "_not_before", "_turn", "names", "pace")

    def __init__(self, names: tuple[str, ...], draw: Callable[[], float]) -> None:
        """``draw``: a random number in [0, 1), so that several clients do not come back at the same moment."""
        self.names = names
        self._draw = draw
        self._failures = [0] * len(names)
        self._not_before = [0.0] * len(names)
        self.pace = Pace(len(names))
        # A random start, because many short-lived clients must not all begin with the first node.
        self._turn = int(draw() * len(names))

    def pick(self, now: float) -> int:
        """The next node: one that works; when none does, the one that is to be tried again soonest."""
        count = len(self.names)
        self._turn = turn = (self._turn + 1) % count
        if self._not_before[turn] <= now:
            # Two are compared, not all: else every client would go to the one that all find the best.
            other = (turn + 1 + int(self._draw() * (count - 1))) % count
            if count == 1 or self._not_before[other] > now:
                return turn
            return other if self.pace.cost(turn, now) > _BUSIER * self.pace.cost(other, now) else turn
        order = [(turn + i) % count for i in range(count)]
        return next((i for i in order if self._not_before[i] <= now), min(order, key=self._not_before.__getitem__))

    def healthy(self, now: float) -> int:
        """How many are not left alone at the moment."""
        return sum(moment <= now for moment in self._not_before)

    def worked(self, which: int) -> None:
        if self._failures[which]:
            self._failures[which] = 0
            self._not_before[which] = 0.0

    def failed(self, which: int, now: float, *, least_s: float = 0) -> None:
        """The node was not reached, or asked to be left alone for at least this time."""
        self._failures[which] += 1
        self._not_before[which] = now + max(least_s, pause_s(self._failures[which], self._draw()))


def pause_s(failures: int, draw: float) -> float:
    """How long to wait after so many failures in a row: it doubles, and a random half is taken off."""
    grown = _FIRST_PAUSE_S * (1 << min(failures - 1, 16))
    return min(grown, _LONGEST_PAUSE_S) * (1 - draw / 2)
