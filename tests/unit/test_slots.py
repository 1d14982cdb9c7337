"""Slots of a cluster: where a key lies, what a map of slots says, and which commands have a key."""

from __future__ import annotations

import pytest

from delaybox.core.errors import ConfigError
from delaybox.store import keys
from delaybox.store.address import ServerSettings
from delaybox.store.slots import SLOTS, SlotRange, key_of, parse_slots, slot_of, uncovered


def test_slots_are_those_of_the_specification() -> None:
    # The first is the example of the specification; test_cluster asks a server for others.
    assert [slot_of(key) for key in ("123456789", "foo", b"bar")] == [12739, 12182, 5061]
    assert slot_of("{delaybox:3}:b:7") == slot_of("{delaybox:3}") == slot_of("delaybox:3")


def test_all_keys_of_a_partition_and_all_of_the_list_of_members_share_a_slot() -> None:
    tag = keys.tag("p", 5)
    assert (
        len({slot_of(key) for key in (tag, keys.clock(tag), keys.wake(tag), keys.ended_at(tag), keys.leases(tag))}) == 1
    )
    assert slot_of(keys.nodes("p")) == slot_of(f"{{{keys.nodes('p')}}}:beats")


def test_the_key_of_a_command() -> None:
    assert key_of(("EVALSHA", "sha", 1, "{p:1}", "x")) == "{p:1}"
    assert key_of(("HGET", "a", "b")) == "a"
    assert [key_of(command) for command in (("TIME",), ("PUBLISH", "c", "m"), ("SCAN", 0))] == [None] * 3


def test_a_map_of_slots() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 7000, b"aa", {}], [b"10.0.0.4", 7003, b"dd", {}]],
        [100, 100, [b"", 7001, b"bb", {}]],
        [200, 16383, [b"?", 7002, b"cc", {}]],
    ]
    nodes = (
        "aa 10.0.0.1:7000@17000 myself,master - 0 0 7 connected 0-99 [1->-bb]\n"
        "bb 10.0.0.2:7001@17001,host master - 0 0 3 connected 100\n"
    )
    found = parse_slots(reply, nodes, ("asked", 1))
    assert found == [
        SlotRange(0, 99, ("10.0.0.1", 7000), "aa", 7, 1),
        SlotRange(100, 100, ("asked", 7001), "bb", 3, 0),
    ]
    assert uncovered(found) == [(101, SLOTS - 1)] and uncovered([]) == [(0, SLOTS - 1)]


def test_urls_of_several_servers() -> None:
    one = ServerSettings.from_url("redis://u:p%2C@h1:7000,h2,[::1]:7002/0")
    assert (one.host, one.port, one.more, one.password) == ("h1", 7000, (("h2", 6379), ("::1", 7002)), "p,")
    assert one.describe() == "h1:7000, h2:6379, ::1:7002"
    with pytest.raises(ConfigError, match="bad host or port in its list"):
        ServerSettings.from_url("redis://h1:7000,h2:x")


def test_urls_of_sentinels() -> None:
    one = ServerSettings.from_url("rediss+sentinel://:pw@a,b:7/main/2?sentinel_password=s&ssl_ca_certs=/ca")
    assert (one.host, one.port, one.more, one.sentinel, one.db) == ("a", 26379, (("b", 7),), "main", 2)
    assert (one.tls, one.tls_ca_file, one.password, one.sentinel_password) == (True, "/ca", "pw", "s")
    assert "pw" not in repr(one) and "'s'" not in repr(one)
    assert one.describe().startswith("the primary 'main' of the sentinels a:26379, b:7 (TLS)")
    with pytest.raises(ConfigError, match="names sentinels and not whom"):
        ServerSettings.from_url("redis+sentinel://a,b")
