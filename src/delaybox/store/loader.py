"""Reads the Lua files and runs them: by SHA, by source where the server has forgotten it, many in one round trip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any, NamedTuple, Protocol

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.core.errors import DelayBoxError, PartAway, StoreFull, StoreLost, StoreRefused, StoreUnavailable
from delaybox.store.durability_waits import CONFIRMED
from delaybox.store.replies import leaves_more
from delaybox.store.roundtrips import NotSent

_INCLUDE = "--@include "
_CLOCK = _INCLUDE + "lib/time.lua"
_REST, _END = "--@rest", "--@end"
"""Around what few calls of a script need; without an end it goes on to the last line. Without it, the script is one of
its own, which answers most calls: the others it answers with `_WHOLE` in that place, before it has written anything,
and the whole script is sent. What follows a second such line even fewer need: what stands above that is one more script
of its own."""
_WHOLE = b"WHOLE"
_SHARDED = {
    "local NOTIFY = 'PUBLISH'": "local NOTIFY = 'SPUBLISH'",
    "local MOVES = false": "local MOVES = true",
}
"""Lines that are others in a cluster."""

Observer = Callable[[str, float], None]
"""Called with the name and the round-trip seconds of each script that answered."""


class Gate(Protocol):
    """Decides whether scripts may be sent. ``refusal``: why not, None while they may. ``again``: the refusal after a
    new look."""

    refusal: StoreLost | None

    def again(self, runner: ScriptRunner) -> Awaitable[StoreLost | None]: ...


_ALWAYS = frozenset({"ping", "ready", "beat", "leave", "roster", "create_store", "stamp"})
"""Scripts that run even while the gate refuses: they find out which store lies there, and touch no task."""


class Script(NamedTuple):
    """One Lua file, its includes resolved."""

    name: str
    source: str
    sha: str


class ScriptCall(NamedTuple):
    """One run of a script on one partition. ``args`` are str, bytes, int or float. ``whole``: what it is about needs
    the whole script (`load`); ``lent``: it needs what stands above the script's second mark, which gives permits of
    limits back. A caller that does not know leaves both out, which then costs one more round trip. ``few``: the short
    script of its kind is likely to answer it (`_SHORT`). ``together``: that may answer others as well in one run, which
    have the same arguments but for the first."""

    script: str
    tag: str
    args: Sequence[Any]
    whole: bool = False
    lent: bool = False
    few: bool = False
    together: bool = False


class _Run(NamedTuple):
    """One script as it is sent: the number of its keys, these, and its arguments. ``of``: the calls that it answers;
    ``short``: each of them has its own part of the reply."""

    script: Script
    args: Sequence[Any]
    of: Sequence[int]
    short: bool = False


_SHORT = {"claim": "claims"}
"""The script that answers most calls of a script (`ScriptCall.few`), several in one run, or leaves them to it. It is a
fifth of what the server's collector has to visit of the other one."""
_MOST_TOGETHER = 16
_ALONE_FOR = 20
"""A partition that needed the whole script needs it again as a rule, of keys that take turns for example, or because
more is due at a time than a short one takes. So many calls there are sent alone then, or each would cost two round
trips."""


@cache
def load(name: str, clock: str | None = None, sharded: bool = False, usual: int = 0) -> Script:
    """The script ``scripts/<name>.lua`` with every ``--@include`` line replaced by that file, and comments left out.

    They are a third of the text, all of which the server hashes and reads before a script's first run. Their lines
    stay, empty, so that errors name the lines of the files.

    ``clock``: Lua to stand in for lib/time.lua; tests move time with it instead of waiting. ``sharded``: for a cluster:
    messages on a partition's channels go to the subscribers at its own server alone, and slots may move. ``usual``:
    1: only what most calls need, where the script says what that is by a line ``--@rest``: the server's Lua collector
    then has less to visit (ADR 0075). 2: the same up to a second such line, where there is one; 0: the whole.
    """
    folder = resources.files("delaybox.store.scripts")
    own = (folder / f"{name}.lua").read_text().splitlines()
    if usual and _REST not in own:
        return load(name, clock, sharded, 0)
    lines: list[str] = []
    left_out, rests = False, 0
    for line in own:
        if line in (_REST, _END):
            before, rests = left_out, rests + (line == _REST)
            left_out = line == _REST and 0 < usual <= rests
            lines += [f"return '{_WHOLE.decode()}'"] * (left_out and not before)
        elif left_out:
            continue
        elif clock is not None and line == _CLOCK:
            lines += clock.splitlines()
        elif line.startswith(_INCLUDE):
            lines += (folder / line[len(_INCLUDE) :].strip()).read_text().splitlines()
        else:
            lines.append(line)
    if sharded:
        lines = [_SHARDED.get(line, line) for line in lines]
    source = "\n".join("" if line.lstrip().startswith("--") else line for line in lines) + "\n"
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def names() -> list[str]:
    """Every script there is."""
    folder = resources.files("delaybox.store.scripts")
    return sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".lua"))


# Errors that a repeat can mend. Every script re-runs harmlessly (rule 15), so after an unknown outcome it is sent
# again. After a fail-over one answer may come from a server that is a replica now, the next from the primary
# (`connections`).
_PASSING = (
    RedisConnectionError, RedisTimeoutError, TryAgainError, ClusterDownError, MasterDownError, ReadOnlyError, OSError,
    InvalidResponse,  # something else answers at the server's address, such as a proxy
)  # fmt: skip
_UNAVAILABLE = (*_PASSING, BusyLoadingError)


def translate(error: BaseException) -> BaseException:
    """The error as one of DelayBox's; what is neither the server's failing nor its refusal is returned as it is."""
    if isinstance(error, DelayBoxError):
        return error
    if isinstance(error, NotSent):
        return PartAway(str(error))
    if isinstance(error, AskError):
        # MovedError is one as well.
        return PartAway("a part of the store has just moved to another server; try again shortly")
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and str(error).startswith("OOM")):
        return StoreFull(
            "the server has reached its maxmemory: it takes no new tasks, while due ones go on firing; raise "
            "maxmemory, or try again later"
        )
    if isinstance(error, ReadOnlyError):
        return StoreUnavailable(
            "the server is a read-only replica of another one, so nothing can be stored; after a fail-over wait until "
            "the primary is reached again, else point storage.redisHost at the primary"
        )
    if isinstance(error, RedisError) and str(error).startswith("MISCONF"):
        why = str(error).removeprefix("MISCONF ").rstrip(".")
        return StoreUnavailable(
            f"the server cannot write to its disk and refuses all writes ({why}); free space on its disk, or look at "
            "the server's log"
        )
    if isinstance(error, RedisError) and str(error).startswith("NOREPLICAS"):
        return StoreUnavailable(
            "the server has fewer replicas than its min-replicas-to-write asks for, and refuses all writes; bring the "
            "replicas back"
        )
    if isinstance(error, RedisError) and str(error).startswith("STORELOST"):
        return StoreLost(
            f"the server does not hold this node's store any more ({str(error).removeprefix('STORELOST ')}); bring its "
            "data back, or run `delaybox store accept` if what is there now is meant"
        )
    # What is forbidden to a script is no NOPERM in Valkey.
    if isinstance(error, NoPermissionError) or str(error).startswith("ACL failure in script"):
        return StoreRefused(
            f"the server's ACL forbids what DelayBox needs: {str(error).rstrip('.')}; allow it to DelayBox's user "
            "(docs/security.md shows the `ACL SETUSER` for it)"
        )
    if isinstance(error, ResponseError) and str(error).startswith("TOOLATE"):
        return _too_late()
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(f"Redis is not answering ({type(error).__name__}); try again shortly")
    if isinstance(error, RedisError) and str(error).startswith(("BUSY", "LOADING", "UNKILLABLE")):
        return StoreUnavailable(f"Redis refuses writes at the moment: {error}")
    return error


PATIENCE_S = 2.0
"""How long one command waits for a part of the store that is away: nearly as long as a fail-over takes."""
_LOOK_AGAIN_S = 0.05

REPEATED_WITHIN_MS = 30_000
"""A command is repeated only within this time of its first sending: half the time for which the server remembers it."""

_NOT_AFTER = """
do
  local time = redis.call('TIME')
  if time[1] * 1000 + time[2] / 1000 > tonumber(table.remove(ARGV)) then
    return redis.error_reply('TOOLATE this was sent first so long ago that the server may have forgotten it')
  end
end
"""
"""Stands before a script that is repeated; its last argument is the latest moment (ms of the server's clock)."""


_TIME = "return redis.call('TIME')"


def _sent(run: _Run, source: bool = False) -> tuple[Any, ...]:
    return ("EVAL", run.script.source, *run.args) if source else ("EVALSHA", run.script.sha, *run.args)


def _refuses_several(reply: BaseException) -> bool:
    """Whether an error says that keys of several partitions may not be named at once. Proxies have their own words."""
    return isinstance(reply, ClusterCrossSlotError) or (isinstance(reply, ResponseError) and "same slot" in str(reply))


def _too_late() -> StoreUnavailable:
    return StoreUnavailable(
        "Redis gave no answer in time, so whether this was carried out is unknown; look before you send it again"
    )


def _with_prelude(source: str, prelude: str) -> str:
    """``source`` with Lua put before its first statement, behind the line that names its flags."""
    first, newline, rest = source.partition("\n")
    return first + newline + prelude + rest if first.startswith("#!") else prelude + source


class ScriptRunner:
    """Runs scripts.

    ``send``: see `Servers.send`. ``repeats``: how often an unknown outcome is asked again before it is reported.
    ``within_ms``: how long after the first time at most: a process that was frozen reports the outcome as unknown.
    ``clock``, ``sharded``: see `load`. ``gate``: keeps the scripts of a store from one that is not it. ``confirmed``:
    sends those of `CONFIRMED` and waits until they are confirmed (`Servers.confirmed`); None: nothing is waited for.
    """

    def __init__(
        self,
        send: Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]],
        *,
        repeats: int = 2,
        within_ms: int = REPEATED_WITHIN_MS,
        observe: Observer | None = None,
        clock: str | None = None,
        gate: Gate | None = None,
        sharded: bool = False,
        confirmed: Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]] | None = None,
    ) -> None:
        self._send_all = send
        self._send_confirmed = confirmed
        self.confirms = confirmed is not None
        """Whether callers are answered only when their writes are confirmed, which may take a second or two."""
        self._clock = clock
        self._sharded = sharded
        self._repeats = repeats
        self._within_ms = within_ms
        self._observe = observe
        self._gate = gate
        self._apart = sharded  # keys of several partitions are refused in one script
        self._alone: dict[str, int] = {}  # by tag how many calls are yet sent alone

    def source(self, name: str) -> str:
        """A script as this runner sends it to answer most calls."""
        return load(name, self._clock, self._sharded, 1).source

    async def run(self, call: ScriptCall) -> Any:
        """The reply of one script; StoreUnavailable or StoreFull where the server failed.

        A part of the store that is away is waited for, for a moment.
        """
        result = (await self.run_many((call,)))[0]
        if isinstance(result, PartAway):
            give_up = time.monotonic() + PATIENCE_S
            while isinstance(result, PartAway) and time.monotonic() < give_up:
                await asyncio.sleep(_LOOK_AGAIN_S)
                result = (await self.run_many((call,)))[0]
        if isinstance(result, BaseException):
            raise result
        return result

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """One round trip for all; per call its reply or its (translated) exception. Nothing is raised."""
        gate = self._gate
        if gate is not None and gate.refusal is not None and calls and calls[0].script not in _ALWAYS:
            refusal = await gate.again(self)
            if refusal is not None:
                return [refusal] * len(calls)
        results: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        first_sent = time.monotonic()
        for turn in range(self._repeats + 1):
            if turn:
                await asyncio.sleep(0.02 * 4**turn)
                replies = await self._again([calls[i] for i in waiting], first_sent)
            else:
                replies = await self._round(calls)
            again: list[int] = []
            for i, reply in zip(waiting, replies, strict=True):
                if turn and isinstance(reply, NotSent):
                    # What became of the first sending stays unknown.
                    again.append(i)
                    continue
                results[i] = reply
                if isinstance(reply, _PASSING):
                    again.append(i)
            waiting = again
            # A server that hangs is not asked more than twice: callers wait for the answer.
            hangs = turn >= 1 and any(isinstance(results[i], RedisTimeoutError) for i in waiting)
            if not waiting or hangs:
                break
        return [translate(r) if isinstance(r, BaseException) else r for r in results]

    async def _round(self, calls: Sequence[ScriptCall]) -> list[Any]:
        started = time.perf_counter()
        runs = self._runs(calls)
        waits = self._waits(calls)
        found = await self._send([_sent(run) for run in runs], waits)
        for all_ in (self._apart, True):
            # The first use, a restart or SCRIPT FLUSH. A NOSCRIPT ran nothing, so the source cannot make it run twice.
            forgotten = [i for i, reply in enumerate(found) if isinstance(reply, NoScriptError)]
            if not forgotten:
                break
            # One server knows it from then on, so that the others of a round need not bring its source, too.
            first = {runs[i].script.sha: i for i in reversed(forgotten)}
            sent = await self._send([_sent(runs[i], all_ or first[runs[i].script.sha] == i) for i in forgotten], waits)
            for i, reply in zip(forgotten, sent, strict=True):
                found[i] = reply
        replies: list[Any] = [None] * len(calls)
        for run, reply in zip(runs, found, strict=True):
            each = [reply] * len(run.of)
            if run.short and not isinstance(reply, BaseException):
                each = reply
            elif len(run.of) > 1 and _refuses_several(reply):
                # Behind a proxy lies a cluster of which this process knows nothing.
                self._apart, each = True, [_WHOLE] * len(run.of)
            for i, own in zip(run.of, each, strict=True):
                replies[i] = own
                if run.short and isinstance(own, list) and leaves_more(own):
                    self._alone[calls[i].tag] = _ALONE_FOR
        if self._observe is not None:
            took = time.perf_counter() - started
            for call in calls:
                self._observe(call.script, took)
        unanswered = [i for i, reply in enumerate(replies) if reply == _WHOLE]
        if unanswered:
            self._alone |= {calls[i].tag: _ALONE_FOR for i in unanswered if calls[i].few}
            found = await self._round([calls[i]._replace(whole=True) for i in unanswered])
            for i, reply in zip(unanswered, found, strict=True):
                replies[i] = reply
        return replies

    def _is_alone(self, tag: str) -> bool:
        left = self._alone.pop(tag, 0)
        if left > 1:
            self._alone[tag] = left - 1
        return left > 0

    def _runs(self, calls: Sequence[ScriptCall]) -> list[_Run]:
        """What is sent for these: mostly one run for each."""
        runs: list[_Run] = []
        groups: dict[Sequence[Any], list[int]] = {}
        for i, c in enumerate(calls):
            few = c.few and not c.whole and not self._apart and not self._is_alone(c.tag)
            if few and c.together and len(calls) > 1:
                groups.setdefault((c.script, *c.args[1:]), []).append(i)
                continue
            if few:
                script = load(_SHORT[c.script], self._clock)
            else:
                script = load(c.script, self._clock, self._sharded, 0 if c.whole else 1 + c.lent)
            runs.append(_Run(script, (1, c.tag, *c.args), (i,), few))
        for group in groups.values():
            for at in range(0, len(group), _MOST_TOGETHER):
                of = group[at : at + _MOST_TOGETHER]
                tags, first = [calls[i].tag for i in of], calls[of[0]]
                args = (len(of), *tags, b"".join([calls[i].args[0] for i in of]), *first.args[1:])
                runs.append(_Run(load(_SHORT[first.script], self._clock), args, of, True))
        return runs

    async def _again(self, calls: Sequence[ScriptCall], first_sent: float) -> list[Any]:
        """Sends commands once more that may have been carried out already, each as the whole script.

        The script itself refuses to run too late, because this process can be frozen right before it sends.
        """

        def left_ms() -> int:
            return self._within_ms - int((time.monotonic() - first_sent) * 1000)

        if left_ms() <= 0:
            return [_too_late()] * len(calls)
        # Each server has a clock of its own, so each partition is asked.
        tags = list(dict.fromkeys(call.tag for call in calls))
        times = dict(zip(tags, await self._send([("EVAL", _TIME, 1, tag) for tag in tags]), strict=True))
        left = left_ms()
        replies: list[Any] = [times[call.tag] for call in calls]
        sent = [i for i, now in enumerate(replies) if not isinstance(now, BaseException)]
        commands = [
            (
                "EVAL",
                _with_prelude(load(calls[i].script, self._clock, self._sharded).source, _NOT_AFTER),
                1,
                calls[i].tag,
                *calls[i].args,
                int(replies[i][0]) * 1000 + int(replies[i][1]) // 1000 + left,
            )
            for i in sent
        ]
        found = await self._send(commands, self._waits(calls)) if commands else ()
        for i, reply in zip(sent, found, strict=True):
            replies[i] = reply
        return replies

    def _waits(self, calls: Sequence[ScriptCall]) -> bool:
        """Whether these are answered only when they are confirmed."""
        return self._send_confirmed is not None and any(call.script in CONFIRMED for call in calls)

    async def _send(self, commands: list[tuple[Any, ...]], waits: bool = False) -> list[Any]:
        send = self._send_confirmed if waits and self._send_confirmed is not None else self._send_all
        try:
            return await send(commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)
