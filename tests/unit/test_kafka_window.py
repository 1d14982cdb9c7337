"""How many messages may be on their way to Kafka at once."""

from __future__ import annotations

from delaybox.targets.kafka_window import LEAST, MOST, SendWindow


def settled(rate: float, *, seconds: float = 60.0, batch: int = 250, size: int = MOST) -> SendWindow:
    """A window after so long with brokers that confirm ``rate`` messages a second, and always more to send."""
    window = SendWindow()
    window.size = size
    now, sent = 0.0, []
    free_at = 0.0
    while now < seconds:
        while window.room >= batch:
            window.on_way += batch
            free_at = max(free_at, now) + batch / rate
            sent.append((now, window.on_way, free_at))
        began, on_way, done = sent.pop(0)
        now = max(now, done)
        window.on_way -= batch
        window.confirmed(began, now - began, on_way)
    return window


def test_it_is_wide_open_at_first_and_with_fast_brokers() -> None:
    assert SendWindow().room == MOST
    assert settled(1e6).size == MOST


def test_slow_brokers_have_about_a_second_of_work() -> None:
    for rate in (1_000, 5_000, 20_000):
        assert rate / 8 <= settled(rate).size <= 2 * rate


def test_it_never_closes() -> None:
    assert settled(10, seconds=1_000).size == LEAST


def test_it_opens_again_when_brokers_recover() -> None:
    assert settled(1e6, seconds=1.0, size=settled(500).size).size == MOST


def test_one_stall_halves_it_once_however_many_messages_it_held_up() -> None:
    window = SendWindow()
    window.on_way = 8_000
    for _ in range(32):
        window.confirmed(10.0, 3.0, 8_000)
    assert window.size == 4_000
