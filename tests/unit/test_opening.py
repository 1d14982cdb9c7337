"""The end of an API process."""

from __future__ import annotations

import logging

from delaybox import metrics
from delaybox.api.opening import Opening
from delaybox.api.settings import ServingSettings
from delaybox.metrics.exposition import REGISTRY
from delaybox.store.address import ServerSettings


async def test_what_was_counted_last_is_in_the_metrics_when_a_process_ends() -> None:
    late = Opening(ServingSettings(server=ServerSettings(unix_path="/nowhere")), logging.getLogger("test"))
    metrics.script_took("last_of_all", 0.001)
    await late.close()
    assert REGISTRY.get_sample_value("delaybox_script_seconds_count", {"script": "last_of_all"}) == 1
