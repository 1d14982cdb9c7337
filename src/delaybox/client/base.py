"""The common base of both clients: their settings, and the steps of each call. Nothing here waits."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

from delaybox.client import calls, chunks, mapping, results, traced, watching
from delaybox.client.batches import count
from delaybox.client.endpoints import Endpoints, named
from delaybox.client.models import Event, ScheduleAnswer, Scheduled
from delaybox.client.new_tasks import CODECS, MapCalls, NewTask, new_call
from delaybox.client.progress import Report, reported, shown
from delaybox.client.retries import ClientSession
from delaybox.client.steps import Emit, Steps, each, feed, through
from delaybox.client.transports import client_target
from delaybox.client.values import watched_id
from delaybox.core.durations import span_s
from delaybox.core.errors import ConfigError, InvalidTask
from delaybox.core.limits import MAX_BATCH
from delaybox.wire.call import Codecs
from delaybox.wire.gen import scheduler_pb2 as pb


class Base:
    """See `Client`."""

    def __init__(
        self,
        endpoints: str | Iterable[str] | None = None,
        *,
        token: str | None = None,
        tls: bool = False,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        timeout: float | timedelta | str | None = 30.0,
        retries: int | None = None,
        safe: bool = False,
        codecs: Codecs = CODECS,
    ) -> None:
        self._target = client_target(
            named(endpoints, os.environ), token=token, tls=tls, ca_file=ca_file, cert_file=cert_file, key_file=key_file
        )
        self._codecs = codecs
        self._session = ClientSession(
            Endpoints(self._target.endpoints, random.random),
            clock=time.monotonic,
            draw=random.random,
            timeout_s=span_s("timeout", timeout),
            retries=retries_of(retries),
            safe=safe,
            batch=self._target.batch,
        )
        self._open()

    @classmethod
    def embedded(cls, folder: str | Path, /, **options: Any) -> Self:
        """A client of a folder's embedded server, which it starts where nobody else has: ``file:`` and the folder.

        ``options``: the client's others. Everybody on this machine who names the folder shares the server, which runs
        as long as one of them does.
        """
        return cls(f"file:{quote(str(folder))}", **options)

    def _open(self) -> None:
        """Makes the runner that carries steps out."""
        raise NotImplementedError

    def _flag(self) -> Any:
        """Makes a flag on which one of two sides waits (`steps.Wait`)."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {','.join(self._target.endpoints)}>"

    def _one(
        self, task: NewTask | str | Callable[..., Any], arguments: object, options: Mapping[str, Any]
    ) -> Steps[ScheduleAnswer]:
        if isinstance(task, NewTask):
            if arguments is not None or options:
                raise TypeError("a NewTask brings its own arguments and options; give them where it is made")
            return self._stored(task.message)
        return self._stored(new_call(task, arguments, options, self._codecs))

    def _stored(self, task: pb.NewTask) -> Steps[ScheduleAnswer]:
        return traced.sent(task, self._store)

    def _store(self, task: pb.NewTask) -> Steps[ScheduleAnswer]:
        own_key = self._session.safe and not task.idempotency_key
        if own_key:
            task = chunks.with_key(task, uuid4().hex)
        return self._session.unary(calls.schedule(task, own_key=own_key))

    def _many(
        self,
        tasks: Any,
        *,
        chunk: int,
        safe: bool | None,
        total: int | None,
        progress: bool | Report,
        make: Callable[[Any], Any] | None = None,
        done: Scheduled | None = None,
    ) -> Steps[None]:
        """``make``: from an outcome to what the caller gets. ``done``: counts the outcomes, and none is emitted."""
        if not 1 <= chunk <= MAX_BATCH:
            raise InvalidTask("chunk", f"chunk {chunk} is not in range; give 1 to {MAX_BATCH}")
        safe = self._session.safe if safe is None else safe
        line = chunks.ChunkLine(
            chunk, self._session.clock, safe=safe, trace=traced.current(), filled=self._flag(), answered=self._flag()
        )
        steps = chunks.schedule_each(self._session, iterator(tasks), line)
        show = shown(progress, tasks, "scheduled", total)
        if done is None:
            return reported(each(steps, make or (lambda outcome: outcome)), show)

        def counted(effect: Emit) -> Emit:
            count(done, effect.items)
            return effect

        return feed(reported(through(steps, counted), show), lambda items: None)

    def _map(
        self,
        function: str | Callable[..., Any],
        items: Any,
        options: Mapping[str, Any],
        *,
        ordered: bool,
        window: int,
        chunksize: int,
        key: Callable[[Any], str] | None,
        total: int | None,
        cancel_on_exit: bool | None,
        return_exceptions: bool,
        progress: bool | Report,
    ) -> Steps[None]:
        if window < 1:
            raise InvalidTask("window", f"window {window} is not in range; give 1 or more")
        if not 1 <= chunksize <= mapping.MAX_CHUNKSIZE:
            raise InvalidTask("chunksize", f"chunksize {chunksize} is not in range; give 1 to {mapping.MAX_CHUNKSIZE}")
        if key is not None and chunksize > 1:
            raise InvalidTask(
                "chunksize", "a key names one task, and a chunk of items is one; give key or chunksize, not both"
            )
        keep_ms = mapping.KEEP_MS if key is None else mapping.KEEP_KEYED_MS
        steps = mapping.Map(
            self._session,
            iterator(items),
            MapCalls(function, options, self._codecs, keep_result_ms=keep_ms, key=key),
            mapping.MapWindow(
                window,
                ordered=ordered,
                clock=self._session.clock,
                results=self._flag(),
                room=self._flag(),
                work=self._flag(),
            ),
            chunk=max(1, min(chunks.CHUNK, window // chunksize // 4)),
            chunksize=min(chunksize, window),
            codecs=self._codecs,
            return_exceptions=return_exceptions,
            # Keys are given so that a later map can go on: so what was scheduled is not cancelled.
            cancel_on_exit=key is None if cancel_on_exit is None else cancel_on_exit,
        )
        return reported(steps.steps(), shown(progress, items, "done", total))

    def _watch(self, ids: str | Iterable[str] | None, key: str | None, *, ends_only: bool, timeout: Any) -> Steps[Any]:
        limit_s = span_s("timeout", timeout)
        if ids is None or key is not None:
            named = calls.named(None if ids is None else "", key)
            return self._watch_key(named["idempotency_key"], ends_only, limit_s)
        wanted = [ids] if isinstance(ids, str) else list(ids)
        steps = watching.watched(self._session, map(watched_id, wanted), ends_only=ends_only, limit_s=limit_s)
        return each(steps, Event.of)

    def _watch_key(self, key: str, ends_only: bool, limit_s: float | None) -> Steps[Any]:
        task_id = yield from watching.id_of_key(self._session, key)
        steps = watching.watched(self._session, [watched_id(task_id)], ends_only=ends_only, limit_s=limit_s)
        yield from each(steps, Event.of)

    def _result(self, task_id: str | None, timeout: Any, key: str | None = None) -> Steps[Any]:
        limit_s = span_s("timeout", timeout)
        named = calls.named(task_id, key)
        if task_id is None:
            task_id = yield from watching.id_of_key(self._session, named["idempotency_key"])
        return (yield from results.result(self._session, watched_id(task_id), limit_s=limit_s, codecs=self._codecs))


def retries_of(retries: object) -> int | None:
    """How many further attempts a call may take. ConfigError."""
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ConfigError(f"retries {retries!r} is not a number of further attempts; give 0 or more, or leave it out")
    return retries


def iterator(source: Any) -> Any:
    """An iterator, of either kind. TypeError."""
    return aiter(source) if hasattr(source, "__aiter__") else iter(source)
