"""What a node says at its start of the number of a store's partitions."""

from __future__ import annotations

import logging

import pytest

from delaybox.core.errors import ConfigError
from delaybox.core.limits import BY_SERVER
from delaybox.roles import opening
from delaybox.store.settings import StoreSettings
from tests.servers import RealServer

FIXED = "the store has 8 partitions; that is fixed at creation"


async def test_a_number_is_named_where_it_is_not_the_one_that_was_expected(
    server: RealServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def said(name: str, partitions: int) -> list[str]:
        caplog.clear()
        await opening.prepared(StoreSettings(server=server.settings, prefix=name, partitions=partitions))
        return [record.message for record in caplog.records if "partitions" in record.message]

    usual, own = f"{prefix}-usual", f"{prefix}-own"
    assert [await said(usual, BY_SERVER) for _ in range(2)] == [[], []]
    assert await said(own, 8) == []
    assert await said(own, BY_SERVER) == [FIXED]
    with pytest.raises(ConfigError, match=f"partitions is 32, but store '{own}' has 8, .* take it out, name another"):
        await said(own, 32)
    assert await said(own, 8) == [], "whoever was refused has changed nothing"
