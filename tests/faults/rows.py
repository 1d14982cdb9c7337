"""The rows of the fault suite: which tests stage each fault, and which faults one machine cannot stage."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """``done``: what `make test-faults` does for it, for readers of docs/reliability.md. ``tests``: what pytest runs,
    from the root of the repository. None: ``cannot`` is why. ``together``: how many of its tests run at a time, where
    they wait more than they compute and judge no time."""

    name: str
    fault: str
    done: str = ""
    tests: tuple[str, ...] = ()
    cannot: str = ""
    together: int = 1


def _faults(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_{name}.py" for name in names)


def _others(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/integration/test_{name}" for name in names)


ROWS = (
    Row("harness", "none",
        "the oracle, the checker, the proxy and the failpoints are tried themselves",
        _faults("checker", "oracle", "proxy", "server_control", "failpoints", "suite"), together=3),
    Row("controls", "the product is broken on purpose",
        "one change for each of I1 to I10, such as an ack without its fence; each must be found",
        _faults("controls")),
    Row("T1", "SIGKILL of nodes and workers",
        "50 kills of claiming nodes and 20 of whole nodes under 100,000 tasks each; kills while a rate and a "
        "concurrency are in force; workers of a node and straight on Redis killed, frozen, cut off, restarted in turn",
        _faults("t01_kill", "t01_limits", "workers")),
    Row("T2", "death at a named place in the code",
        "20 deaths at each of 14 places, before a call leaves and after its reply came",
        _faults("t02_failpoints"), together=4),
    Row("T3", "a process stands still for longer than its lease, then goes on",
        "its late answers must be refused, and are accepted where the fence is taken out", (
        "tests/faults/test_controls.py::test_i5_without_the_fence_a_zombie_completes_too",
        *_others("worker_process.py::test_a_frozen_workers_late_answers_count_for_nothing"))),
    Row("T4", "SIGKILL of whole nodes of a fleet",
        "four `delaybox serve` are killed, frozen, stopped and joined under 100,000 tasks at 1,000/s; three behind "
        "nginx and three behind a TCP balancer run 1,000 shell tasks of the original, each once",
        _faults("t27_nodes", "turns")),
    Row("T5", "tasks longer than their lease; loops that stand still",
        "heartbeats keep what is healthy, what is not runs again once and is refused when it answers",
        _others("outages.py", "engine.py::test_a_lease_that_nobody_keeps_alive_runs_again_and_the_late_ack_is_refused",
                "worker_cpu.py"), together=3),
    Row("T6", "SIGKILL of the server",
        "10 kills under 100,000 tasks, with `everysec` and with `always`; it comes back with its file",
        _faults("t06_server_kill")),
    Row("T7", "power loss",
        "`fast`: the file is cut two seconds before its end, and the producer sends again; `durable`: 10 cuts at the "
        "byte that was synced last",
        _faults("t07_power_loss", "t07_durable")),
    Row("T8", "`SCRIPT FLUSH`",
        "every tenth of a second under 100,000 tasks: no error may reach a caller; strange messages on the wake "
        "channel",
        _faults("t08_script_flush")),
    Row("T9", "`FLUSHALL`, an empty server, another store in its place",
        "nodes notice within seconds, refuse, and go on only when an operator accepts it",
        _others("store_lost.py"), together=3),
    Row("T10", "cluster: a primary dies, slots move, roles change",
        "three primaries with a replica each under 100,000 tasks in `strict`: SIGKILL, `CLUSTER FAILOVER`, `FORCE` and "
        "`TAKEOVER`, slots moved key by key and at once, 24 in all; callers that must not notice",
        (*_faults("t10_cluster"), *_others("cluster_faults.py"))),
    Row("T11", "fail-over by sentinels and by hand",
        "the primary stands still or dies; connections are kept, cut, or go silent",
        _others("sentinel.py", "failover.py")),
    Row("T12", "the primary is cut off from its replica, which is promoted; the cut heals",
        "cuts of 2, 10 and 60 s by a cable (a TCP proxy), with a producer and a node on each side: `strict`, `fast`, "
        "and `fast` with `min-replicas-to-write 1`; three of 10 s by the cable of a network namespace (as root), in "
        "which the primary is alone then, and no connection ends",
        (*_faults("t12_cut_off"), *_others("durability.py")), together=3),
    Row("T13", "replies that never come",
        "of each hundred round trips five are swallowed, or seven are swallowed, cut, reset, half closed; 15,000 "
        "tasks each",
        _faults("t13_ambiguous")),
    Row("T14", "calls that are given up while their reply is under way",
        "each reply must belong to its own call",
        _others("roundtrips.py"), together=3),
    Row("T15", "memory full",
        "the server gets 50 MiB more than it uses; what is due fires on, new tasks are refused, and it is taken again "
        "without anybody's help",
        _faults("t15_full")),
    Row("T16", "an evicting policy; `CONFIG` forbidden",
        "a node refuses to start, and reads the policy where it may not ask for it",
        _others("connect.py"), together=3),
    Row("T17", "disk full",
        "a server on a disk of 2 MiB, and room again",
        ("tests/faults/test_operator.py::test_the_disk_is_full",)),
    Row("T18", "the server's clock steps",
        "an hour ahead, and an hour back, under 30,000 tasks each, by a library preloaded into the server alone", (
        *_faults("t18_clock"), *_others("expander.py::test_a_clock_that_is_set_ahead_wakes_it"))),
    Row("T19-T20", "all due at once",
        "100,000 in one millisecond; 10,000 and 100,000 that fell due while nobody ran",
        _faults("t19_t20_herd")),
    Row("T21", "poison tasks; a fleet that dies together",
        "a task that kills its workers is put aside, and an outage puts nobody's aside",
        _others("charges.py", "outages.py::test_a_fleet_that_dies_together_makes_no_dead_letters"), together=3),
    Row("T22", "clients that send again",
        "each of 500 keys 50 times at once through a bad network, again afterwards, and with another body",
        _faults("t22_retries")),
    Row("T23", "times and numbers of every kind",
        "20,000 bodies over REST: each is refused, or kept to the millisecond",
        _faults("t23_numbers")),
    Row("T24", "cancel, move and run-now race with firing",
        "32 clients on the same 100 tasks, 50 times",
        _faults("t24_races")),
    Row("T25", "Kafka: nodes killed, broker away",
        "60,000 records from topic to topic while a node is killed every two seconds and a stranger joins and leaves "
        "their group, five seconds apart; the broker is away for 30 s; "
        "eight nodes killed while they send",
        _faults("t25_kafka", "t25_kafka_out")),
    Row("T26", "rolling restarts",
        "30 of claiming nodes and 15 of whole ones under 100,000 tasks each; a fleet with tasks that outlast the "
        "grace; three nodes behind nginx with TLS at 500 requests/s; open streams of events there",
        _faults("t26_rolling", "t26_fleet", "behind_nginx", "streams_behind_nginx")),
    Row("T27", "members of a fleet freeze, die, come and go; a server that stands still",
        "four claiming nodes for five minutes under 300,000 tasks, half of them fired in place; a server that sleeps "
        "for 5 s, pauses writes or all for 10 s, or is stopped for 3 s under 1,000 tasks/s",
        _faults("t27_fleet", "t27_slow_server")),
    Row("T28", "a reconnect storm",
        "500 clients lose their server three times; a server that takes few connections; a node that may open 128 "
        "files",
        _faults("t28_storm")),
    Row("T29", "T1, T3, T6, T8, T13, T26 and T27 at random",
        "1,000,000 tasks in 10 minutes on four nodes; memory, files and keys must not grow",
        _faults("t29_soak")),
    Row("T30", "overload",
        "one, two, five and ten times the callers that keep a node busy, up and down",
        _faults("t30_overload")),
    Row("T31", "anything sent to REST and gRPC",
        "no answer may be a server's error, and each keeps to its schema",
        _others("schemathesis.py", "grpc_abuse.py", "request_abuse.py"), together=3),
    Row("T32", "two versions side by side",
        "nodes, workers and clients of 0.1.0, and of the tree before clusters, beside this one's: 11 changes to the "
        "new version and back under 100,000 tasks; whole nodes rolled three times under REST, gRPC and workers",
        _faults("t32_upgrade"), together=2),
    Row("T33", "the protocol, explored to its end",
        "all states for small numbers; and with each rule left out, which must be found",
        _faults("t33_protocol"), together=3),
    Row("T34", "deterministic simulation",
        "owners, members needed, limits and shares decide as in the product; 40 fleets of two minutes each, by seeds, "
        "with deaths, freezes, and messages that are lost or late; each rule, left out, must be missed",
        _faults("t34_simulation"),
        cannot="the pure decisions alone: the rest of the world is a model", together=2),
    Row("operator", "bad days of an operator",
        "the server dies, disk and memory fill, a node dies, a host of webhooks does not answer, and each alert comes "
        "and goes; a backup is restored; an upgrade, and the way back",
        _faults("operator")),
)  # fmt: skip
