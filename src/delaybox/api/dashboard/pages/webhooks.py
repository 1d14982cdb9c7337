"""The hosts to which this node sends webhooks: what they answer, how long it takes, how late it is."""

from __future__ import annotations

from delaybox import metrics
from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.routing import Answer
from delaybox.wire.webhook_hosts import ANSWERS, hosts_of


class WebhookPages:
    """One page. It does not renew itself: what it shows is summed over the node's processes, as for Prometheus."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    async def hosts(self, visit: Visit) -> Answer:
        """Every host that is counted by itself, at most 100 of each process."""
        return self._frames.page(visit, "webhooks.html", hosts=hosts_of(metrics.render().decode()), answers=ANSWERS)
