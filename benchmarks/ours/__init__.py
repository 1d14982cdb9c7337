"""DelayBox as the scenarios use it: the only folder here that knows its parts."""

from __future__ import annotations

from benchmarks.ours.commands import Commands, run_commands
from benchmarks.ours.firing import Drained, drain_herd, lateness
from benchmarks.ours.labels import index_labels, look_through, look_up
from benchmarks.ours.node import Node, members, serve, subscriber, work
from benchmarks.ours.storing import at_once, fill, make, opened, pending, run, schedule, script_names
from benchmarks.ours.webhooks import SECRET as WEBHOOK_SECRET
from benchmarks.ours.webhooks import peak_mib, receiver, sender
from benchmarks.ours.workers import (
    BARE,
    DIRECT,
    SDK,
    Crew,
    Herd,
    Kind,
    crew,
    worker_calls,
    worker_herd,
    worker_lateness,
    worker_map,
)

__all__ = [
    "BARE",
    "DIRECT",
    "SDK",
    "WEBHOOK_SECRET",
    "Commands",
    "Crew",
    "Drained",
    "Herd",
    "Kind",
    "Node",
    "at_once",
    "crew",
    "drain_herd",
    "fill",
    "index_labels",
    "lateness",
    "look_through",
    "look_up",
    "make",
    "members",
    "opened",
    "peak_mib",
    "pending",
    "receiver",
    "run",
    "run_commands",
    "schedule",
    "script_names",
    "sender",
    "serve",
    "subscriber",
    "work",
    "worker_calls",
    "worker_herd",
    "worker_lateness",
    "worker_map",
]
