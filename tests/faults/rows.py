"""The rows of the fault suite: which tests stage each fault, and which faults one machine cannot stage."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """``tests``: what pytest runs for it, from the root of the repository. None: ``cannot`` is why."""

    name: str
    fault: str
    tests: tuple[str, ...] = ()
    cannot: str = ""


def _faults(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_{name}.py" for name in names)


def _others(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/integration/test_{name}" for name in names)


ROWS = (
    Row("harness", "the oracle, the checker, the proxy and the failpoints themselves", _faults(
        "checker", "oracle", "proxy", "server_control", "failpoints", "suite")),
    Row("controls", "negative controls: I1 to I8 are broken on purpose, and each must be caught", _faults("controls")),
    Row("T1", "nodes and workers killed at random", _faults("t01_kill", "t01_limits", "workers")),
    Row("T2", "death at each failpoint", _faults("t02_failpoints")),
    Row("T3", "frozen for longer than a lease, then going on", (
        "tests/faults/test_controls.py::test_i5_without_the_fence_a_zombie_completes_too",
        *_others("worker_process.py::test_a_frozen_workers_late_answers_count_for_nothing"))),
    Row("T4", "whole nodes and members of a fleet killed under load", _faults("t27_nodes", "turns")),
    Row("T5", "tasks longer than their lease; processes that stand still", _others(
        "outages.py", "engine.py::test_a_lease_that_nobody_keeps_alive_runs_again_and_the_late_ack_is_refused",
        "worker_cpu.py")),
    Row("T6", "the server killed, everysec and always", _faults("t06_server_kill")),
    Row("T7", "power loss, `fast` and `durable`", _faults("t07_power_loss", "t07_durable")),
    Row("T8", "SCRIPT FLUSH all the time", _faults("t08_script_flush")),
    Row("T9", "FLUSHALL, an empty server, another store in its place", _others("store_lost.py")),
    Row("T10", "cluster: primary killed, slots moved, roles changed", _others("cluster_faults.py")),
    Row("T11", "sentinels: primary that stands still; connections kept or cut", _others("sentinel.py", "failover.py")),
    Row("T12", "primary cut off from its replica, which is promoted", _others("durability.py")),
    Row("T13", "replies swallowed, cut, reset", _faults("t13_ambiguous")),
    Row("T14", "calls given up while their reply is under way", _others("roundtrips.py")),
    Row("T15", "memory full", _faults("t15_full")),
    Row("T16", "an evicting policy; CONFIG forbidden", _others("connect.py")),
    Row("T17", "disk full", ("tests/faults/test_operator.py::test_the_disk_is_full",)),
    Row("T18", "the server's clock steps by an hour", (
        *_faults("t18_clock"), *_others("expander.py::test_a_clock_that_is_set_ahead_wakes_it"))),
    Row("T19-T20", "all due in one millisecond; a backlog of an outage", _faults("t19_t20_herd")),
    Row("T21", "poison tasks; a fleet that dies together", _others(
        "charges.py", "outages.py::test_a_fleet_that_dies_together_makes_no_dead_letters")),
    Row("T22", "clients that send again", _faults("t22_retries")),
    Row("T23", "times and numbers of every kind", _faults("t23_numbers")),
    Row("T24", "cancel and move race with firing", _faults("t24_races")),
    Row("T25", "Kafka: nodes killed, broker away", _faults("t25_kafka", "t25_kafka_out")),
    Row("T26", "rolling restarts", _faults("t26_rolling", "t26_fleet", "behind_nginx")),
    Row("T27", "members freeze, die, come and go; a slow server", _faults("t27_fleet")),
    Row("T28", "a reconnect storm; a server and a node that may open few connections", _faults("t28_storm")),
    Row("T29", "a random mix of T1, T3, T6, T8, T13, T26, T27", _faults("t29_soak")),
    Row("T30", "ten times the callers that keep a node busy", _faults("t30_overload")),
    Row("T31", "anything sent to REST and gRPC", _others("schemathesis.py", "grpc_abuse.py", "request_abuse.py")),
    Row("T32", "versions side by side, upgrade and the way back", _faults("t32_upgrade")),
    Row("T33", "the protocol explored, each rule left out", _faults("t33_protocol")),
    Row("T34", "deterministic simulation", cannot="cut to the pure decisions, which have unit tests under a virtual "
        "clock: tests/unit/test_ownership.py, test_needs.py, test_queue_limits.py, test_shares.py"),
    Row("operator", "the operator's trial: bad days, their alerts, backup, upgrade", _faults("operator")),
)  # fmt: skip
