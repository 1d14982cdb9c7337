"""Fixtures for tests of the store's scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.lab import CLOCK_KEY, Lab


@pytest.fixture
async def lab(client: Redis, prefix: str) -> AsyncIterator[Lab]:
    """A store of one partition with buckets of a second; fsck must find it clean in the end, but for `dirty` tests."""
    made = await Lab.open(client, prefix)
    yield made
    try:
        if not made.dirty:
            assert await made.problems() == []
    finally:
        await client.unlink(CLOCK_KEY, *(await client.keys(f"*{prefix}:*")))
