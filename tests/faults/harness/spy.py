"""Writes down what a store's scripts answered, from outside the product's own book-keeping.

Sits on `ScriptRunner.run_many`, the one way to a script, and logs acks, failures and hand-backs with the token of the
delivery they are about, which it takes from the claim that handed it out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha1
from typing import Any

from delaybox.core.ids import render
from delaybox.store import loader, record
from delaybox.store.loader import ScriptCall, ScriptRunner
from delaybox.store.store import Store
from tests.faults.harness.oracle import OK, SENT, STALE, UNKNOWN, Ack, Writer, now_us

_OPS = {"ack": "ack", "complete": "ack", "fail": "fail", "release": "release"}
"""What each script that settles deliveries is called in the log."""


class Spy(ScriptRunner):
    """The store's runner with a pen. ``batch_max`` is the largest claim seen."""

    def __init__(self, runner: ScriptRunner, log: Writer) -> None:
        self.__dict__.update(runner.__dict__)
        self._log = log
        self._tokens: dict[tuple[bytes, bytes], int] = {}
        self._doubt = 0
        self._unsure: set[tuple[bytes, bytes]] = set()
        self.counts: Counter[str] = Counter()
        self.batch_max = 0

    @classmethod
    def on(cls, store: Store, log: Writer) -> Spy:
        """Puts a spy between a store and its runner."""
        spy = cls(store.runner, log)
        store.runner = spy
        return spy

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        sent_us = now_us()
        about = [(call, self._tokens_of(call)) for call in calls]
        self._log_all([(call, dict.fromkeys(tokens, SENT)) for call, tokens in about], about, sent_us, sent_us)
        troubles = self._doubt
        replies = await super().run_many(calls)
        # A refusal after a try whose answer got lost may be the echo of that try.
        doubtful = self._doubt != troubles
        answered_us = now_us()
        results = []
        for (call, tokens), reply in zip(about, replies, strict=True):
            lease = bytes(call.args[0]) if tokens else b""
            if isinstance(reply, BaseException):
                results.append((call, dict.fromkeys(tokens, UNKNOWN)))
                self._unsure.update((lease, task_id) for task_id in tokens)
                continue
            if call.script == "claim":
                self._remember(call.args[0], reply[2])
            refused = {part for part in reply if isinstance(part, bytes)} if tokens else set()
            unsure = {i for i in refused if doubtful or (lease, i) in self._unsure}
            outcomes = {i: OK if i not in refused else UNKNOWN if i in unsure else STALE for i in tokens}
            results.append((call, outcomes))
        self._log_all(results, about, sent_us, answered_us)
        return replies

    async def _send(self, commands: list[tuple[Any, ...]], waits: bool = False) -> list[Any]:
        replies = await super()._send(commands, waits)
        if any(isinstance(reply, loader._PASSING) for reply in replies):
            self._doubt += 1
        return replies

    def _tokens_of(self, call: ScriptCall) -> dict[bytes, int]:
        """The deliveries a settling call is about: among its arguments, the ids that its lease was handed."""
        if call.script not in _OPS:
            return {}
        lease = bytes(call.args[0])
        found = {a: self._tokens.get((lease, a), 0) for a in call.args[1:] if isinstance(a, bytes) and len(a) == 16}
        return {task_id: token for task_id, token in found.items() if token}

    def _remember(self, lease: bytes, leased: Any) -> None:
        flat = [part for pair in leased.items() for part in pair] if isinstance(leased, dict) else leased
        self.batch_max = max(self.batch_max, len(flat) // 2)
        for at in range(0, len(flat), 2):
            self._tokens[lease, flat[at]] = record.read(flat[at], flat[at + 1]).deliveries

    def _log_all(
        self,
        outcomes: Sequence[tuple[ScriptCall, dict[bytes, str]]],
        about: Sequence[tuple[ScriptCall, dict[bytes, int]]],
        sent_us: int,
        answered_us: int,
    ) -> None:
        events = [
            Ack(_OPS[call.script], render(task_id), tokens[task_id], os.getpid(), outcome, sent_us, answered_us)
            for (call, by_id), (_, tokens) in zip(outcomes, about, strict=True)
            for task_id, outcome in by_id.items()
        ]
        if events:
            self.counts.update(f"{e.op}_{e.outcome}" for e in events)
            self._log.write(*events)


def mutate(changes: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Negative controls: replaces text in named scripts of this process. ValueError where the text is not there."""
    genuine = loader.load

    def load(name: str, clock: str | None = None, sharded: bool = False, usual: int = 0) -> loader.Script:
        script = genuine(name, clock, sharded, usual)
        source = script.source
        for old, new in changes.get(name, ()):
            # What most calls need may do without it; the whole script may not.
            if old not in source and not usual:
                raise ValueError(f"{name}.lua no longer holds {old!r}: the negative control needs a look")
            source = source.replace(old, new)
        if source == script.source:
            return script
        return loader.Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())

    loader.load = cache(load)


@contextmanager
def mutated(changes: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[None]:
    """`mutate`, undone at the end of the block."""
    genuine = loader.load
    mutate(changes)
    try:
        yield
    finally:
        loader.load = genuine
