"""`Worker`: the functions that a process serves, and how it finds its work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar, overload

from delaybox.client.endpoints import named
from delaybox.client.models import Retry
from delaybox.client.new_tasks import CODECS
from delaybox.client.values import Duration
from delaybox.core.durations import span_ms
from delaybox.core.errors import ConfigError, InvalidTask
from delaybox.core.limits import LABEL, LABEL_FORM, QUEUE, QUEUE_FORM
from delaybox.core.task import DEFAULT_QUEUE
from delaybox.processes import collector
from delaybox.wire.call import Codecs
from delaybox.worker.functions import FunctionKind, TaskFunction, kind_of, policy
from delaybox.worker.runner import Runner
from delaybox.worker.sizes import Sizes
from delaybox.worker.task_sources import DirectOptions, worker_target

P = ParamSpec("P")
R = TypeVar("R")

EXIT_S: Final = 3.0


class Worker:
    """The functions that a process serves::

        worker = Worker("mailer", servers=["localhost:9088"])

        @worker.task(retries=3, timeout="30s")
        async def send(order: int) -> None: ...

        if __name__ == "__main__":
            worker.run()

    name: for people, shown with the node's workers.
    servers: nodes, "host:port" each. There is a session with every one of them, and the places are shared among the
        sessions in equal parts, so that never more runs than there are places. A node's address may also be a load
        balancer's. Environment: DELAYBOX_GRPC_SERVERS.
        Or the URL of the Redis server that holds the tasks ("redis://localhost:6379", also rediss://, unix:///path, or
        file: and the data folder of an embedded server): then this process claims its tasks itself, and needs no node.
        It takes the extra ``redis``.
    queues: what it takes tasks from; unless given, each function's own queue, else "default". When given, functions
        whose own queue is not among them are not served.
    concurrency: async functions at once; threads: plain ones (unless given 4 more than there are processors, at most
        32); cpu_processes: cpu functions (unless given one for each processor).
    grace: how long running tasks may take to end when the worker is asked to stop; the rest is stopped within 5 s more
        and handed back. Seconds, a timedelta, or text such as "30s", as every length of time here.
    labels: what tasks may require or prefer of their worker, and people see: ["gpu", "zone=b"], or {"zone": "b"}.
    token, tls, ca_file, cert_file, key_file: as the client's. Environment of the token: DELAYBOX_TOKEN.
    clock: straight on Redis, whether a child process keeps time as well, so that workers and a server are a whole
        system; yes unless given. At least one process of a store must: this one's child, or a node's clock.
    lease: straight on Redis, how long others wait for a sign of life of this process before they run what it had.
    metrics_port, metrics_host: where /metrics, /healthz and /readyz are served. It takes the extra ``metrics``;
        straight on Redis a child process serves them, with the store's figures.
    codecs: forms of arguments and results beside JSON and bytes.
    """

    def __init__(
        self,
        name: str,
        *,
        servers: str | Iterable[str] | None = None,
        queues: Iterable[str] = (),
        concurrency: int = 1_000,
        threads: int | None = None,
        cpu_processes: int | None = None,
        grace: Duration = "20s",
        labels: Mapping[str, str] | Iterable[str] | None = None,
        token: str | None = None,
        tls: bool = False,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        clock: bool | None = None,
        lease: Duration = "15s",
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
        codecs: Codecs = CODECS,
    ) -> None:
        self.name = name
        self._codecs = codecs
        self._functions: dict[str, TaskFunction[..., Any]] = {}
        self._given: dict[str, Any] = {}
        self.change(
            servers=servers,
            queues=queues,
            concurrency=concurrency,
            threads=threads,
            cpu_processes=cpu_processes,
            grace=grace,
            labels=labels,
            token=token,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            clock=clock,
            lease=lease,
            log_format="text",
            log_level="info",
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        )

    def change(self, **settings: Any) -> None:
        """Changes settings, as a command line does; None leaves one as it is."""
        given = dict(self._given)
        given |= {name: value for name, value in settings.items() if value is not None or name not in given}
        labels = given["labels"] = worker_labels(self._given.get("labels")) | worker_labels(given["labels"])
        queues = queue_names(given["queues"])
        sizes = Sizes.checked(
            concurrency=given["concurrency"], threads=given["threads"], cpu_processes=given["cpu_processes"]
        )
        grace_s = span_ms("grace", given["grace"], least=0) / 1000
        port = given["metrics_port"]
        if port is not None and (not isinstance(port, int) or not 0 <= port <= 65_535):
            raise ConfigError(f"metrics_port={port!r} is no port; give 0 (any free one) to 65535")
        options = DirectOptions(
            clock=True if given["clock"] is None else given["clock"],
            metrics_port=port,
            metrics_host=given["metrics_host"],
            lease_ms=span_ms("lease", given["lease"], least=1_000),
            log_format=given["log_format"],
            log_level=given["log_level"],
        )
        self.target = worker_target(
            named(given["servers"], os.environ),
            name=self.name,
            options=options,
            token=given["token"] or os.environ.get("DELAYBOX_TOKEN") or None,
            tls=given["tls"],
            ca_file=given["ca_file"],
            cert_file=given["cert_file"],
            key_file=given["key_file"],
        )
        # Checked first: nothing is changed when something is wrong.
        self.queues, self.sizes, self.grace_s, self._given = queues, sizes, grace_s, given
        self.labels: Mapping[str, str] = labels

    @property
    def functions(self) -> Mapping[str, TaskFunction[..., Any]]:
        """By name."""
        return MappingProxyType(self._functions)

    @overload
    def task(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...

    @overload
    def task(
        self,
        *,
        name: str = "",
        queue: str = "",
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        cpu: bool = False,
        keep_result: Duration | None = None,
        result_type: str = "",
    ) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc] # mypy loses P here
        """Makes a function a task that this worker serves. The function stays callable as before.

        name: what it is scheduled by; the function's own name unless given.
        queue: where its tasks go unless the caller says otherwise, and where this worker takes them from.
        retries: attempts after the first, or a `Retry`, for tasks that bring no policy of their own.
        timeout: longest time of one attempt, for tasks without one of their own.
        cpu: a plain function that computes: it runs in a process of its own, not in a thread.
        keep_result: how long its results are kept unless the caller says otherwise.
        result_type: content type of the codec that writes its results; JSON (or bytes) unless given.
        """
        return partial(self._add, **options) if function is None else self._add(function)

    def _add(
        self,
        function: Callable[P, R],
        /,
        *,
        name: str = "",
        queue: str = "",
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        cpu: bool = False,
        keep_result: Duration | None = None,
        result_type: str = "",
    ) -> TaskFunction[P, R]:
        if queue:
            queue_names([queue])
        made = TaskFunction(
            function,
            name=name,
            queue=queue,
            kind=kind_of(function, cpu=cpu),
            retry=policy(retries),
            timeout_ms=0 if timeout is None else span_ms("timeout", timeout),
            keep_result_ms=0 if keep_result is None else span_ms("keep_result", keep_result),
            result_type=result_type,
            codecs=self._codecs,
        )
        if made.name in self._functions:
            raise InvalidTask("name", f"worker {self.name!r} has a task {made.name!r} already; give one of them a name")
        self._functions[made.name] = made
        return made

    def served(self) -> dict[FunctionKind, dict[str, tuple[str, ...]]]:
        """Functions by kind, each with the queues that it is served from here."""
        found: dict[FunctionKind, dict[str, tuple[str, ...]]] = {}
        for function in self._functions.values():
            if not self.queues:
                queues: tuple[str, ...] = (function.queue or DEFAULT_QUEUE,)
            elif not function.queue:
                queues = self.queues
            else:
                queues = (function.queue,) if function.queue in self.queues else ()
            if queues:
                found.setdefault(function.kind, {})[function.name] = queues
        return found

    def runner(self, *, metrics_sent: bool = False) -> Runner:
        """Makes the runner, for one run. ``metrics_sent``: see `run`. ConfigError when there is nothing to serve."""
        served = self.served()
        if not served:
            what = f" from the queues {', '.join(self.queues)}" if self.queues and self._functions else ""
            raise ConfigError(f"worker {self.name!r} has no task to serve{what}; decorate functions with @worker.task")
        return Runner(
            name=self.name,
            functions=self._functions,
            served=served,
            sizes=self.sizes,
            target=self.target,
            labels=self.labels,
            metrics_port=self._given["metrics_port"],
            metrics_host=self._given["metrics_host"],
            metrics_sent=metrics_sent,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Runner]:
        """Runs inside a program of yours, while the block does; drains at its end."""
        runner = self.runner()
        await runner.start()
        try:
            yield runner
        finally:
            await runner.stop(self.grace_s)

    def run(self, *, until: int | None = None, last_exit: bool = False, metrics_sent: bool = False) -> int:
        """Runs until SIGTERM or SIGINT: then it takes no more, lets what runs end, hands back the rest. A second
        signal ends it at once. Returns the exit code.

        last_exit: nothing comes after this in the process: it ends soon, whatever threads still do. What is there when
            it begins is never looked through for garbage.
        until: a file descriptor whose end means that whoever started this process is gone: the same as a signal.
        metrics_sent: whoever started this process sends its metrics, where OpenTelemetry's variables ask for that.
        """
        runner = self.runner(metrics_sent=metrics_sent)
        try:
            import uvloop
        except ModuleNotFoundError:
            factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        else:
            factory = uvloop.new_event_loop
        if last_exit:
            # Not before: straight on Redis the runner has imported most of what there is.
            collector.set_apart()
        with asyncio.Runner(loop_factory=factory) as loop:
            code = loop.run(runner.until_asked_to_stop(self.grace_s, until))
            if last_exit:
                # The loop would wait without end for threads that a function left behind in `asyncio.to_thread`.
                force = threading.Timer(EXIT_S, os._exit, (code,))
                force.daemon = True
                force.start()
        return code


def worker_labels(labels: Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    """Labels given as pairs, or each as ``name`` or ``name=value``. InvalidTask."""
    if isinstance(labels, Mapping):
        found = dict(labels)
    else:
        texts = (labels,) if isinstance(labels, str) else labels or ()
        found = {name: value for name, _, value in (text.partition("=") for text in texts)}
    for name in found:
        if LABEL.fullmatch(name) is None:
            raise InvalidTask("labels", f"label {name[:80]!r} is not a name; use {LABEL_FORM}")
    return found


def queue_names(queues: Iterable[str]) -> tuple[str, ...]:
    """``queues`` when they can be names of queues. InvalidTask."""
    given = (queues,) if isinstance(queues, str) else tuple(dict.fromkeys(queues))
    for queue in given:
        if QUEUE.fullmatch(queue) is None:
            raise InvalidTask("queue", f"queue {queue[:80]!r} is not a name; use {QUEUE_FORM}")
    return given
