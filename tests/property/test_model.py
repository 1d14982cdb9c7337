"""The engine against a small model: random sequences on a real server, crashes and repeats included.

DELAYBOX_PROPERTY_SEED=<seed> runs the same sequences again, <seed>:<number> one of them;
DELAYBOX_PROPERTY_SEQUENCES sets how many (240).
"""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

import delaybox.store.store as store_module
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.lab import CLOCK_KEY
from tests.property.driver import Sequence_
from tests.property.twice import TwiceRunner

STEPS = 50
PARTS = 4
SEQUENCES = int(os.environ.get("DELAYBOX_PROPERTY_SEQUENCES", "240"))
SEED, _, ONLY = os.environ.get("DELAYBOX_PROPERTY_SEED", "").partition(":")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_random_sequences_agree_with_the_model(
    part: int, client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = SEED or str(random.SystemRandom().randrange(2**32))
    for number in range(part, SEQUENCES, PARTS):
        if ONLY in ("", str(number)):
            await run_sequence(client, f"{prefix}-{number}", f"{seed}:{number}", monkeypatch)


async def run_sequence(client: Redis, prefix: str, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    store = await Store.open(
        Servers(client), prefix=prefix, partitions=2, bucket_ms=rng.choice([100, 1_000, 1_000, 20_000])
    )
    store.runner = TwiceRunner(store.servers.send, rng)
    # Ids too come from the seed, or a run could not be repeated.
    monkeypatch.setattr(store_module, "os", SimpleNamespace(urandom=rng.randbytes))
    sequence = Sequence_(client, store, rng)
    try:
        for number in range(STEPS):
            await sequence.step()
            if number % 5 == 4:
                await sequence.compare()
        await sequence.finish()
    except Exception as error:
        history = "\n".join(sequence.log)
        raise AssertionError(f"DELAYBOX_PROPERTY_SEED={seed}: {error!r}\n{history}") from error
    finally:
        if left := await client.keys(f"*{prefix}:*"):
            await client.unlink(*left)
        await client.unlink(CLOCK_KEY)
