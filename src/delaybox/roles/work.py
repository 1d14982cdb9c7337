"""The work process: runs shell commands, from the store or from a Kafka topic. Streams of SDK workers end in the gRPC
process."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from delaybox.core.delivery import Target
from delaybox.core.errors import ConfigError
from delaybox.core.lane import ANY_QUEUE, lane_of
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.listener import cancels
from delaybox.processes import child, collector
from delaybox.processes.child import Stopping
from delaybox.processes.spec import ProcessKind
from delaybox.roles import opening
from delaybox.roles.engines import claiming
from delaybox.roles.settings import ShellSettings, TopicCommands, WorkSettings

if TYPE_CHECKING:
    from delaybox.targets.shell import ShellTarget

log = logging.getLogger("delaybox.work")


async def serve(settings: WorkSettings) -> int:
    """The process's whole life; returns its exit code."""
    stopping = Stopping()
    settings = await opening.prepared(settings)
    async with contextlib.AsyncExitStack() as stack:
        rules = LiveRules()
        shell = await _shell(settings.shell, rules, stack) if settings.shell is not None else None
        if settings.again:
            child.ready(store_id=settings.store_id)
        store = await opening.opened(settings, stopping)
        if store is None:
            return 0
        stack.push_async_callback(store.close)
        if settings.topic is not None and shell is not None and settings.shell is not None:
            await _from_topic(settings.topic, shell, settings.shell.concurrency, settings.grace_s, stack)
            shell = None
        options = replace(
            claiming(settings, ProcessKind.WORK),
            lanes=shell_lanes(settings.shell) if shell is not None and settings.shell is not None else (),
            places=settings.shell.concurrency if settings.shell is not None else 0,
        )
        engine = Engine(store, {TaskType.SHELL_CMD: shell} if shell is not None else {}, options, rules=rules)
        collector.set_apart()
        await engine.start()
        stack.push_async_callback(engine.stop, settings.grace_s)
        if shell is not None:
            listener = cancels(store, shell.end)
            await listener.start()
            stack.push_async_callback(listener.stop)
        if not settings.again:
            child.ready(store_id=settings.store_id)
        await stopping.wait()
    return 0


def shell_lanes(shell: ShellSettings) -> tuple[bytes, ...]:
    """The lanes of shell tasks that a node with these settings can run, in any queue."""
    names = [*([""] if shell.payloads else []), *shell.commands]
    return tuple(lane_of(TaskType.SHELL_CMD, ANY_QUEUE, name) for name in names)


async def _shell(s: ShellSettings, rules: LiveRules, stack: contextlib.AsyncExitStack) -> ShellTarget:
    """The target of SHELL_CMD tasks, running."""
    from delaybox.targets.shell import CommandLimits, ShellOptions, ShellTarget, why_not

    options = ShellOptions(
        payloads=s.payloads,
        user=s.user,
        commands=s.commands,
        concurrency=s.concurrency,
        timeout_ms=s.timeout_ms,
        grace_ms=s.grace_ms,
        keep_result_ms=s.keep_result_ms,
        limits=CommandLimits(
            cpu_s=s.cpu_s,
            memory=s.memory,
            file_size=s.file_size,
            open_files=s.open_files,
            processes=s.processes,
        ),
    )
    if problem := why_not(options):
        raise ConfigError(problem)
    target = ShellTarget(options, rules)
    await target.start()
    stack.push_async_callback(target.stop)
    what = "payloads and named commands" if s.payloads and s.commands else "payloads"
    log.info(
        "shell commands: %s, %d at once, as user %s",
        what if s.payloads else f"only those named {', '.join(s.commands)}",
        s.concurrency,
        s.user or os.getuid(),
    )
    if os.getuid() == 0 and s.user in ("", "root"):
        log.warning(
            "shell commands run as root, whom nothing binds: they can read every secret of the node. Set "
            "workers.shell.user, or run the node as another user"
        )
    return target


async def _from_topic(
    by: TopicCommands, shell: Target, slots: int, grace_s: float, stack: contextlib.AsyncExitStack
) -> None:
    """Reads shell tasks from the execution topic and hands them to their target."""
    from delaybox.api.kafka.topic_command import Commands
    from delaybox.api.kafka.topic_work import TopicWork
    from delaybox.wire.shell_signing import Signing

    if by.accept_unsigned:
        log.warning(
            "workers.shell.acceptUnsigned is true: whoever may write to topic %s can run commands as this node's user",
            by.topic,
        )
    work = TopicWork(
        by.kafka,
        by.topic,
        by.group,
        shell,
        Commands(Signing(by.signing_keys), accept_unsigned=by.accept_unsigned),
        slots=slots,
        instance=by.instance,
    )
    await work.start()
    stack.push_async_callback(work.stop, grace_s)


if __name__ == "__main__":
    child.main(WorkSettings, serve)
