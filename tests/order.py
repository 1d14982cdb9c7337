"""The order of a parallel run: slow files first, dealt out evenly, so that no worker is left with one at the end.

Each worker gets its share of the list in one piece (xdist's worksteal), and takes over what others have left at the
end of theirs. A file stays in one piece, for its tests share what its fixtures start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")

SLOW_S: Mapping[str, float] = {
    "faults/test_behind_nginx.py": 15,
    "faults/test_controls.py": 40,
    "faults/test_t01_kill.py": 20,
    "faults/test_t01_limits.py": 10,
    "faults/test_t02_failpoints.py": 20,
    "faults/test_t06_server_kill.py": 10,
    "faults/test_t07_power_loss.py": 15,
    "faults/test_t08_script_flush.py": 12,
    "faults/test_t13_ambiguous.py": 20,
    "faults/test_t19_t20_herd.py": 35,
    "faults/test_t22_retries.py": 10,
    "faults/test_t23_numbers.py": 10,
    "faults/test_t24_races.py": 10,
    "faults/test_t25_kafka.py": 30,
    "faults/test_t25_kafka_out.py": 60,
    "faults/test_t26_rolling.py": 20,
    "faults/test_t27_fleet.py": 10,
    "faults/test_workers.py": 45,
    "integration/test_retention.py": 20,
    "integration/test_cli_nodes.py": 14,
    "integration/test_cli_rest.py": 35,
    "integration/test_client.py": 25,
    "integration/test_client_failover.py": 50,
    "integration/test_client_map.py": 25,
    "integration/test_client_results.py": 15,
    "integration/test_dashboard_browser.py": 50,
    "integration/test_demo.py": 50,
    "integration/test_embedded.py": 20,
    "integration/test_embedded_trust.py": 30,
    "integration/test_examples.py": 25,
    "integration/test_failover.py": 15,
    "integration/test_generated_clients.py": 30,
    "integration/test_grpc_abuse.py": 25,
    "integration/test_grpc_edge.py": 25,
    "integration/test_import_original.py": 20,
    "integration/test_kafka_events.py": 20,
    "integration/test_kafka_in.py": 30,
    "integration/test_kafka_node.py": 60,
    "integration/test_kafka_out.py": 60,
    "integration/test_kafka_security.py": 50,
    "integration/test_members.py": 10,
    "integration/test_narrow_places.py": 20,
    "integration/test_node_example.py": 20,
    "integration/test_original.py": 30,
    "integration/test_outages.py": 25,
    "integration/test_processes.py": 15,
    "integration/test_processes_auto.py": 25,
    "integration/test_queue_rules.py": 15,
    "integration/test_ready_causes.py": 20,
    "integration/test_request_abuse.py": 20,
    "integration/test_rest.py": 20,
    "integration/test_roles.py": 15,
    "integration/test_schemathesis.py": 30,
    "integration/test_secrets.py": 20,
    "integration/test_several_of_a_kind.py": 10,
    "integration/test_shell_node.py": 50,
    "integration/test_shell_walls.py": 15,
    "integration/test_store_fsck.py": 15,
    "integration/test_store_lost.py": 20,
    "integration/test_tls.py": 20,
    "integration/test_traces.py": 10,
    "integration/test_webhook_node.py": 20,
    "integration/test_work_before_checks.py": 15,
    "integration/test_worker_cpu.py": 20,
    "integration/test_worker_examples.py": 50,
    "integration/test_worker_moves.py": 20,
    "integration/test_worker_node.py": 25,
    "integration/test_worker_process.py": 35,
    "integration/test_worker_spread.py": 20,
    "integration/test_worker_stream.py": 30,
    "property/test_model.py": 50,
}
"""About how long a file of tests/ takes alone: to the nearest ten seconds is good enough, and what is not named is
quick. `make test` with ``--durations=60`` shows what has changed."""


def dealt(items: Sequence[tuple[str, T]], workers: int) -> list[T]:
    """The (file, test) pairs of a run in the order in which so many workers should get them."""
    files = [(name, [test for _, test in group]) for name, group in groupby(items, key=lambda item: item[0])]
    slow = sorted((file for file in files if file[0] in SLOW_S), key=lambda file: -SLOW_S[file[0]])
    quick = [test for name, tests in files if name not in SLOW_S for test in tests]
    shares: list[list[T]] = [[] for _ in range(workers)]
    takes = [0.0] * workers
    for name, tests in slow:
        least = takes.index(min(takes))
        shares[least] += tests
        takes[least] += SLOW_S[name]
    # Shares are cut by the number of tests: the quick ones fill them up.
    left = len(items)
    for at, share in enumerate(shares):
        size = left // (workers - at)
        fill = max(0, size - len(share))
        share += quick[:fill]
        quick = quick[fill:]
        left -= size
    return [test for share in shares for test in share] + quick
