"""Pauses before a restart."""

from __future__ import annotations

import itertools

from delaybox.processes.restart import RestartBackoff


def made(chance: float = 0.0) -> RestartBackoff:
    return RestartBackoff(first_s=0.5, longest_s=10.0, steady_s=30.0, chance=lambda: chance)


def test_pauses_grow_while_lives_are_short() -> None:
    backoff = made()
    assert [backoff.pause_s(1.0) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_steady_life_begins_anew() -> None:
    backoff = made()
    for _ in range(6):
        backoff.pause_s(1.0)
    assert [backoff.pause_s(29.9), backoff.pause_s(30.0), backoff.pause_s()] == [10.0, 0.5, 1.0]


def test_chance_shortens_a_pause_by_up_to_a_half() -> None:
    assert [made(chance).pause_s() for chance in (0.0, 0.5, 0.999)] == [0.5, 0.375, 0.5 * (1 - 0.4995)]


def test_many_that_end_together_do_not_come_back_together() -> None:
    pauses = [RestartBackoff(first_s=1, longest_s=1, steady_s=1).pause_s() for _ in range(20)]
    assert len(set(pauses)) > 1 and all(0.5 <= p <= 1 for p in itertools.chain(pauses))
