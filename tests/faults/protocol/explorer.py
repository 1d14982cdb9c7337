"""Goes through every state that the table of steps leads to, and looks whether each can come to its end."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

from tests.faults.protocol.model import Broken, Rules, State, first, settled, steps


@dataclass(frozen=True, slots=True)
class Explored:
    """``steps``: transitions between them."""

    states: int
    steps: int


def explore(rules: Rules, *, most: int = 2_000_000) -> Explored:
    """Every state. Broken: an invariant does not hold somewhere (with the shortest way there), or a state has no way to
    an end by steps that are no faults: then something would wait for ever."""
    start = first(rules)
    came: dict[State, tuple[State, str] | None] = {start: None}
    back: defaultdict[State, list[State]] = defaultdict(list)
    waiting = deque([start])
    count = 0
    while waiting:
        state = waiting.popleft()
        try:
            for step in steps(state, rules):
                count += 1
                if not step.fault:
                    back[step.state].append(state)
                if step.state not in came:
                    came[step.state] = (state, step.name)
                    waiting.append(step.state)
        except Broken as error:
            raise Broken(f"{error}\n{way(came, state)}") from None
        assert len(came) <= most, f"more than {most:,} states: make the numbers smaller"
    stuck = came.keys() - _lead_to_an_end(came, back)
    if stuck:
        # They were put into ``came`` in the order of their distance.
        nearest = next(state for state in came if state in stuck)
        raise Broken(f"something waits for ever\n{way(came, nearest)}")
    return Explored(len(came), count)


def _lead_to_an_end(came: dict[State, tuple[State, str] | None], back: dict[State, list[State]]) -> set[State]:
    good = {state for state in came if settled(state)}
    waiting = deque(good)
    while waiting:
        for before in back.get(waiting.popleft(), ()):
            if before not in good:
                good.add(before)
                waiting.append(before)
    return good


def way(came: dict[State, tuple[State, str] | None], state: State) -> str:
    """The steps that led to a state, one a line."""
    names: list[str] = []
    while (found := came[state]) is not None:
        state, name = found
        names.append(f"  {name}")
    return "\n".join(reversed(names))
