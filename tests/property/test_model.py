"""The engine against a small model: random sequences on a real server, crashes and repeats included.

Each run has a seed of its own, but for CI=true: there it goes by the code, so that what has passed once passes again,
and the next change meets other sequences. DELAYBOX_PROPERTY_SEED=<seed> runs the same ones again, <seed>:<number> one;
DELAYBOX_PROPERTY_SEQUENCES sets how many (240). A sequence that fails is printed, and kept in pytest's cache
(.pytest_cache/d/property), with the seed that runs it again.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

import delaybox.store.store as store_module
from delaybox.store import loader
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.lab import CLOCK_KEY
from tests.property.driver import Sequence_
from tests.property.twice import TwiceRunner
from tests.servers import RealServer

STEPS = 50
PARTS = 4
SEQUENCES = int(os.environ.get("DELAYBOX_PROPERTY_SEQUENCES", "240"))
SEED, _, ONLY = os.environ.get("DELAYBOX_PROPERTY_SEED", "").partition(":")
ROOT = Path(__file__).parents[2]


def a_seed() -> str:
    if SEED:
        return SEED
    if os.environ.get("CI") != "true":
        return str(random.SystemRandom().randrange(2**32))
    of = hashlib.sha256()
    for folder, kind in (("src/delaybox", "*.py"), ("src/delaybox", "*.lua"), ("tests/property", "*.py")):
        for file in sorted((ROOT / folder).rglob(kind)):
            of.update(file.read_bytes())
    return str(int(of.hexdigest()[:8], 16))


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """One that keeps what it hashes in the same order each time: a sequence that is run again meets the same."""
    named = "DELAYBOX_TEST_SERVER" in os.environ  # it may not know the option
    own = RealServer(() if named else ("--hash-seed", "property"))
    own.start()
    yield own
    own.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_random_sequences_agree_with_the_model(
    part: int, client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    cache = getattr(pytestconfig, "cache", None)  # pytest can do without
    kept: Path = cache.mkdir("property") if cache else Path(tempfile.gettempdir())
    seed = a_seed()
    for number in range(part, SEQUENCES, PARTS):
        if ONLY in ("", str(number)):
            await run_sequence(client, f"{prefix}-{number}", f"{seed}:{number}", monkeypatch, kept)


async def run_sequence(client: Redis, prefix: str, seed: str, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    rng = random.Random(seed)
    store = await Store.open(
        Servers(client), prefix=prefix, partitions=2, bucket_ms=rng.choice([100, 1_000, 1_000, 20_000])
    )
    store.runner = TwiceRunner(store.servers.send, rng)
    # Ids too come from the seed, or a run could not be repeated.
    monkeypatch.setattr(store_module, "os", SimpleNamespace(urandom=rng.randbytes))
    # After one claim that needed the whole script most would go alone.
    monkeypatch.setattr(loader, "_ALONE_FOR", 0, raising=False)
    sequence = Sequence_(client, store, rng)
    try:
        await sequence.start_labelling()
        for number in range(STEPS):
            await sequence.step()
            if number % 5 == 4:
                await sequence.compare()
                await sequence.check_labels()
        await sequence.finish()
    except BaseException as error:  # a time-out of the test is no Exception
        text = "\n".join([f"DELAYBOX_PROPERTY_SEED={seed}: {error!r}", *sequence.log])
        (kept / f"failed-{seed.replace(':', '-')}.txt").write_text(text)
        print(text)
        raise
    finally:
        if left := await client.keys(f"*{prefix}:*"):
            await client.unlink(*left)
        await client.unlink(CLOCK_KEY)
