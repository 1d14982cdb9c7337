"""The use-cases every front end shares. No front end talks to the store past this."""

from __future__ import annotations

from delaybox.service.bulk import Selection
from delaybox.service.counts import StoreCounts
from delaybox.service.readiness import STALE_HEARTBEAT_MS, Readiness
from delaybox.service.records import RecordService
from delaybox.service.rules import ShownRules
from delaybox.service.served import LIVE_NODE_MS
from delaybox.service.tasks import Service
from delaybox.service.watch import Change, Watch

__all__ = [
    "LIVE_NODE_MS",
    "STALE_HEARTBEAT_MS",
    "Change",
    "Readiness",
    "RecordService",
    "Selection",
    "Service",
    "ShownRules",
    "StoreCounts",
    "Watch",
]
