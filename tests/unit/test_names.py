"""No two classes have one name, but for those whose callers see them under it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import delaybox

SRC = Path(delaybox.__file__).parent
DOMAIN, CLIENT, SCHEMA = "core", "client", "wire/json"
MIRRORED = {
    # The client's names for what the domain calls so too.
    "ForecastStep": {DOMAIN, CLIENT},
    "NewTask": {DOMAIN, CLIENT},
    "Priority": {DOMAIN, CLIENT},
    "QueueRules": {DOMAIN, CLIENT},
    "TaskState": {DOMAIN, CLIENT},
    "TaskType": {DOMAIN, CLIENT},
    # Schemas of the OpenAPI document, from which clients are generated.
    "EndedTask": {DOMAIN, CLIENT, SCHEMA},
    "FailedAttempt": {DOMAIN, CLIENT, SCHEMA},
    "KeyLimit": {DOMAIN, CLIENT, SCHEMA},
    "Lane": {DOMAIN, SCHEMA},
    "Progress": {DOMAIN, CLIENT, SCHEMA},
    "Queue": {CLIENT, SCHEMA},
    "Result": {CLIENT, SCHEMA},
    "Retry": {CLIENT, SCHEMA},
    "Scheduled": {CLIENT, SCHEMA},
    "Slack": {DOMAIN, CLIENT, SCHEMA},
    "Task": {CLIENT, SCHEMA},
    "Worker": {"worker", SCHEMA},
}
"""Name -> the rooms that have a class of that name, one each."""


def test_no_two_classes_have_one_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in SRC.rglob("*.py"):
        if "gen" in path.parts:
            continue
        module = path.relative_to(SRC).with_suffix("").as_posix()
        for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.MULTILINE):
            found[name].append(SCHEMA if module.startswith(SCHEMA) else module.partition("/")[0])
    twice = {name: sorted(rooms) for name, rooms in found.items() if len(rooms) > 1}
    assert twice == {name: sorted(rooms) for name, rooms in MIRRORED.items()}, (
        "give each of these classes a name of its own by its job; what callers know by one name stands in MIRRORED"
    )
