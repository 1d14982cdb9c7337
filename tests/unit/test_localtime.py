"""Wall-clock times with a zone: gaps go forward, of two such times the first is meant, and the zone stays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from delaybox.client import NewTask
from delaybox.client.values import unix_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.localtime import local_ms
from delaybox.core.task import NewTask as Domain
from delaybox.wire import body
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json.tasks import TaskRules, parse_change, parse_task
from delaybox.wire.proto import tasks as proto_tasks

CASES = [
    ("2027-01-15T09:00", "Europe/Berlin", 0, "2027-01-15T08:00:00Z"),
    ("2027-07-15 09:00:30.25", "Europe/Berlin", 0, "2027-07-15T07:00:30.250Z"),
    ("2027-03-28T02:30", "Europe/Berlin", 0, "2027-03-28T01:30:00Z"),
    ("2027-03-28T02:30", "Europe/Berlin", 1, "2027-03-28T01:30:00Z"),
    ("2027-10-31T02:30", "Europe/Berlin", 0, "2027-10-31T00:30:00Z"),
    ("2027-10-31T02:30", "Europe/Berlin", 1, "2027-10-31T01:30:00Z"),
    ("2027-03-14T02:30", "America/New_York", 0, "2027-03-14T07:30:00Z"),
    ("2027-01-15T09:00", "Asia/Kathmandu", 1, "2027-01-15T03:15:00Z"),
    ("2027-01-15T09:00:00.0001", "UTC", 0, "2027-01-15T09:00:00.001Z"),
]


@pytest.mark.parametrize(("local", "zone", "fold", "utc"), CASES)
def test_each_way_means_the_same_moment(local: str, zone: str, fold: int, utc: str) -> None:
    wanted = round(datetime.fromisoformat(utc).timestamp() * 1000)
    assert local_ms("at", local, zone, fold) == wanted
    asked = {"local": local, "zone": zone, "fold": fold}
    rest = parse_task(json.dumps({"at": asked}).encode(), TaskRules())
    assert (rest.due_ms, rest.zone) == (wanted, zone)
    change = parse_change(json.dumps({"at": asked}).encode(), TaskRules())
    assert (change.due_ms, change.zone) == (wanted, zone)
    grpc = proto_tasks.new_task(pb.NewTask(local=pb.LocalTime(local=local, zone=zone, fold=fold)), TaskRules())
    assert (grpc.due_ms, grpc.zone) == (wanted, zone)
    if len(local) < 24:
        then = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold)
        sent = NewTask.publish("x", at=then).message
        assert (sent.due_ms, sent.zone) == (wanted, zone)
        kept = proto_tasks.new_task(sent, TaskRules())
        assert (kept.due_ms, kept.zone) == (wanted, zone)


def test_python_keeps_zones_with_a_name_alone() -> None:
    then = datetime(2027, 1, 15, 9, tzinfo=UTC)
    assert NewTask.publish("x", at=then).message.zone == ""
    assert unix_ms("at", then + timedelta(microseconds=1)) == unix_ms("at", then) + 1


def test_the_zone_stands_in_the_body_and_others_have_none() -> None:
    assert body.decode(body.encode(Domain(payload=b"x", zone="Europe/Berlin"))).zone == "Europe/Berlin"
    assert body.encode(Domain(payload=b"x")) == b"\x1a\x01x"


@pytest.mark.parametrize(
    ("at", "field", "words"),
    [
        ({"local": "2027-03-28T02:30", "zone": "Europe/Berlim"}, "at.zone", "not a time zone"),
        ({"local": "2027-03-28T02:30", "zone": "../etc/passwd"}, "at.zone", "not a time zone"),
        ({"local": "2027-03-28T02:30", "zone": "Europe"}, "at.zone", "not a time zone"),
        ({"local": "2027-03-28T02:30", "zone": "localtime"}, "at.zone", "not a time zone"),
        ({"local": "2027-03-28T02:30"}, "at.zone", "zone"),
        ({"local": "2027-03-28T02:30+01:00", "zone": "Europe/Berlin"}, "at.local", "leave the offset out"),
        ({"local": "2027-02-30T02:30", "zone": "UTC"}, "at.local", "does not exist"),
        ({"local": "tomorrow", "zone": "UTC"}, "at.local", "not a local time"),
        ({"local": "1927-02-20T02:30", "zone": "UTC"}, "at.local", "before 1973"),
        ({"local": "2027-02-20T02:30", "zone": "UTC", "fold": 2}, "at.fold", "neither 0 nor 1"),
        ("2027-03-28T02:30", "at", "offset"),
    ],
)
def test_wrong_local_times(at: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidTask, match=words) as caught:
        parse_task(json.dumps({"at": at}).encode(), TaskRules())
    assert caught.value.field == field


def test_both_a_local_time_and_a_delay() -> None:
    with pytest.raises(InvalidTask, match="both given"):
        parse_task(b'{"at": {"local": "2027-03-28T02:30", "zone": "UTC"}, "delay": 5}', TaskRules())
