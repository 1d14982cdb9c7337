"""A service whose store is not open yet."""

from __future__ import annotations

import pytest

from delaybox.core.errors import StoreUnavailable
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask
from delaybox.service import Readiness, Selection, Service


async def test_a_service_without_a_store_refuses_with_the_reason() -> None:
    service = Service()
    service.not_open("nobody answers at 127.0.0.1:1")
    calls = [
        lambda: service.submit(NewTask()),
        lambda: service.submit_many([NewTask()]),
        lambda: service.get("018f0000-0000-8000-8000-000000000000"),
        lambda: service.cancel("018f0000-0000-8000-8000-000000000000"),
        lambda: service.bulk.cancel(Selection(wanted=TaskQuery())),
        service.counts,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=r"nobody answers at 127\.0\.0\.1:1"):
            await call()
    assert await service.check() == Readiness(False, "nobody answers at 127.0.0.1:1", store=False)
    await service.close()
