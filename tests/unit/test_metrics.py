"""The batch path of the lateness histogram, and two processes that share one directory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from delaybox import metrics


def sample(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    return 0.0


def lateness(le: str) -> float:
    return sample(metrics.render().decode(), "delaybox_lateness_seconds_bucket", le=le)


def test_a_batch_counts_like_single_observations():
    bounds = [*metrics.LATENESS_BUCKETS_MS, float("inf")]
    names = [str(ms / 1000) for ms in metrics.LATENESS_BUCKETS_MS] + ["+Inf"]
    drawn = random.Random(7)
    batch = [drawn.choice([0, 0.25, 0.3, 1, 2.5, 60_000, 60_001, 10**7]) for _ in range(500)]
    metrics.observe_lateness([0])  # what still waited in an event loop of another test comes with it
    before = [lateness(name) for name in names]
    metrics.observe_lateness(batch)
    metrics.observe_lateness([])
    after = [lateness(name) for name in names]
    expected = [sum(1 for ms in batch if ms <= bound) for bound in bounds]
    assert [new - old for old, new in zip(before, after, strict=True)] == expected


def test_counts_and_gauges_without_a_directory():
    metrics.scheduled(3, 1)
    metrics.requests_done("/task", 200)
    # A name that no other test in this process has calls of.
    metrics.script_took("of-this-test", 0.002)
    metrics.script_took("of-this-test", 0.001)
    metrics.stored(pending=5, ready=1, in_flight=2, dead=0, quarantined=0)
    text = metrics.render().decode()
    assert sample(text, "delaybox_scheduled_tasks_total") >= 3
    assert sample(text, "delaybox_idempotent_duplicates_total") >= 1
    assert sample(text, "delaybox_script_max_seconds", script="of-this-test") == 0.002
    assert sample(text, "delaybox_pending_tasks") == 5
    assert sample(text, "delaybox_store_up") == 1
    metrics.store_down()
    assert sample(metrics.render().decode(), "delaybox_store_up") == 0


def test_two_processes_are_summed(tmp_path: Path):
    code = (
        "from delaybox import metrics as m; import sys\n"
        "m.fired('PUB_SUB', 'in_place', 2); m.observe_lateness([1, 1, 70_000])\n"
        "m.script_took('claim', float(sys.argv[1]))\n"
        "m.stored(pending=int(sys.argv[2]), ready=0, in_flight=0, dead=0, quarantined=0)\n"
        "sys.stdout.write(m.render().decode())"
    )
    environment = {**os.environ, metrics.DIRECTORY_VARIABLE: str(tmp_path)}
    for arguments in (("0.5", "10"), ("0.25", "7")):
        text = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, check=True, capture_output=True, text=True
        ).stdout
    assert sample(text, "delaybox_fired_tasks_total", type="PUB_SUB", mode="in_place") == 4
    assert sample(text, "delaybox_lateness_seconds_bucket", le="0.001") == 4
    assert sample(text, "delaybox_lateness_seconds_count") == 6
    assert sample(text, "delaybox_script_max_seconds", script="claim") == 0.5
    assert sample(text, "delaybox_pending_tasks") == 7
