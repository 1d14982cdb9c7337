"""One scenario a file. The order is the order of the table: quick ones first, the ten million last."""

from __future__ import annotations

from benchmarks.harness.bench import Scenario
from benchmarks.scenarios import (
    bulk,
    client,
    cost,
    dashboard,
    grpc,
    herd,
    history,
    import_original,
    kafka,
    lateness,
    longest_script,
    memory,
    nodes,
    pages,
    post,
    queues,
    shell,
    small_map,
    v1,
    webhook,
    workers,
)

ALL: tuple[Scenario, ...] = (
    bulk.SCENARIO,
    post.SCENARIO,
    v1.SCENARIO,
    grpc.SCENARIO,
    client.SCENARIO,
    import_original.SCENARIO,
    herd.SCENARIO,
    lateness.SCENARIO,
    nodes.SCENARIO,
    kafka.SCENARIO,
    shell.SCENARIO,
    workers.SCENARIO,
    webhook.SCENARIO,
    history.SCENARIO,
    small_map.SCENARIO,
    longest_script.SCENARIO,
    queues.SCENARIO,
    memory.SCENARIO,
    cost.SCENARIO,
    dashboard.SCENARIO,
    pages.SCENARIO,
    v1.FULL_STORE,
)
