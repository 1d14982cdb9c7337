"""Probes of silent hosts hold few places."""

from __future__ import annotations

import pytest

from delaybox.targets.http_hosts import FAILURES, LONGEST_PAUSE_S, Host, Hosts, NoRoom


async def silent_hosts(hosts: Hosts, count: int) -> list[Host]:
    """Hosts whose breakers are open and whose pauses are over at 100."""
    made = [hosts.of("http", f"{number}.example", 80) for number in range(count)]
    for host in made:
        for _ in range(FAILURES):
            share = await hosts.enter(host, 0.0)
            hosts.leave(host, 1.0, 1.0, answered=False, share=share)
        assert host.closed
    return made


async def test_probes_of_however_many_hosts_hold_a_quarter_of_the_places():
    """With one for each of a thousand hosts no place was left for hosts that answer."""
    hosts = Hosts(50, most_doubted=20)
    made = await silent_hosts(hosts, 100)
    probed, refused = [], []
    for host in made:
        try:
            probed.append((host, await hosts.enter(host, 100.0)))
        except NoRoom as full:
            assert full.silent
            refused.append(host)
    assert len(probed) == 10 and all(host.probing for host, _ in probed)
    # They are tried again soon, and are left alone no longer in the end.
    assert all(host.closed_until == 101.0 and host.pause_s == 1.0 and not host.probing for host in refused)
    fresh = hosts.of("http", "fresh.example", 80)
    held = [await hosts.enter(fresh, 100.0) for _ in range(10)]
    with pytest.raises(NoRoom):
        await hosts.enter(fresh, 100.0)
    for host, share in probed:
        hosts.leave(host, 102.0, 2.0, answered=False, share=share)
    again = [await hosts.enter(host, 102.0) for host in refused[:10]]
    assert len(again) == len(held) == 10
    good = hosts.of("http", "good.example", 80)
    good._proven = True
    for _ in range(50):
        await hosts.enter(good, 102.0)


async def test_a_probe_that_was_refused_its_place_is_the_next_one_all_the_same():
    hosts = Hosts(50, most_doubted=2)
    one, other = await silent_hosts(hosts, 2)
    share = await hosts.enter(one, 100.0)
    with pytest.raises(NoRoom):
        await hosts.enter(other, 100.0)
    hosts.leave(one, 100.5, 0.5, answered=True, share=share)
    share = await hosts.enter(other, 101.0 + LONGEST_PAUSE_S)
    hosts.leave(other, 132.0, 0.5, answered=True, share=share)
    assert not one.closed and not other.closed
