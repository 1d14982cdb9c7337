"""S3: nothing outside argv, everything dead within the time-out and a second, nothing kept beyond the cap."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from delaybox.core.delivery import Failed
from delaybox.core.task import TaskResult
from delaybox.targets.shell import OUTPUT_BYTES, CommandLimits
from tests.proc import children_of
from tests.shells import Desk, alive, delivery, desk, mark
from tests.spent import Spent

WITHIN_S = 4.0
"""One second is promised; a busy machine gets some more. What clings would live for 99 s."""
CORPUS = [
    "; touch {p}",
    "$(touch {p})",
    "`touch {p}`",
    "| touch {p}",
    "|| touch {p}",
    "&& touch {p}",
    "& touch {p} &",
    "\ntouch {p}\n",
    "\r\ntouch {p}",
    "'; touch {p}; '",
    '"; touch {p}; "',
    "' \"$(touch {p})\" '",
    "--\ntouch {p}",
    "--help; touch {p}",
    "-c 'touch {p}'",
    "> {p}",
    ">> {p}",
    "<(touch {p})",
    "${{IFS}}touch${{IFS}}{p}",
    "\0; touch {p}",
    "a\0\ntouch {p}",
    "\x1b]0;touch {p}\x07",
    "../../../../{p}",
    "\u2028touch {p}",
    "%0atouch {p}",
    "x\\\n; touch {p}",
    "#\ntouch {p}",
    "EOF\ntouch {p}\n",
    "* {p} ?",
    "~root $HOME $PATH {p}",
    "\x00" * 10_000 + "touch {p}",
    "A" * 200_000 + "; touch {p}",
]


async def test_a_named_command_gets_its_payload_on_stdin_and_nowhere_else(tmp_path: Path):
    """Its argv is what the configuration says, whatever the payload holds."""
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf "%s|" "$#" "$@"\nprintf "\\n"\nexec cat\n')
    show.chmod(0o755)
    proof = tmp_path / "proof"
    args = ("one two", "$(touch PROOF)".replace("PROOF", str(proof)), "*", "--", "")
    escapes = 0
    async with desk(payloads=False, commands={"show": (str(show), *args), "cat": ("/bin/cat",)}) as d:
        for text in CORPUS:
            payload = text.format(p=proof).encode()
            result = await d.result(payload, name="show")
            line, _, rest = result.output.partition(b"\n")
            assert line == f"5|{'|'.join(args)}|".encode()
            assert rest == payload or (result.truncated and rest[:1000] == payload[:1000])
            escapes += proof.exists()
            whole = await d.result(payload, name="cat")
            assert whole.output == payload or whole.truncated
            escapes += proof.exists()
        for name in CORPUS:
            # A name is looked up, never run.
            (outcome,) = await d.run(delivery(b"", name=name.format(p=proof).replace("\0", "")))
            assert not hasattr(outcome, "result")
            escapes += proof.exists()
    assert escapes == 0


async def test_a_nul_that_came_past_the_api_fails_and_runs_nothing(tmp_path: Path):
    proof = tmp_path / "proof"
    async with desk() as d:
        for payload in (b"touch %s\0", b"\0touch %s", b"touch %s\n\0", b"touch %s;" + b"#" * 200_000):
            (outcome,) = await d.run(delivery(payload % str(proof).encode()))
            assert isinstance(outcome, Failed) and outcome.reason.startswith("it could not be started: ")
        assert not proof.exists()
        assert (await d.result("echo and the slot lives")).ok


def spent(d: Desk) -> Spent:
    host = d.target.host_pid
    return Spent(lambda: [host, *children_of(host)])


CLINGING: dict[str, Callable[[str], str]] = {
    "plain": lambda w: f"export MARK={w}; sleep 99",
    "deaf": lambda w: f"trap '' TERM INT HUP; export MARK={w}; sleep 99; sleep 99; sleep 99",
    "deaf child": lambda w: f"export MARK={w}; (trap '' TERM; sleep 98; sleep 98) & sleep 99",
    "stopped": lambda w: f"export MARK={w}; kill -STOP $$; sleep 99",
    "stopped child": lambda w: f"export MARK={w}; sleep 99 & kill -STOP $!; wait",
    "grandchild holds the pipe": lambda w: f"export MARK={w}; (sleep 99 &) ; sleep 99",
    "setsid": lambda w: f"export MARK={w}; setsid sleep 99 & sleep 99",
    "setsid, deaf": lambda w: f"export MARK={w}; setsid sh -c 'trap \"\" TERM; : {w}; sleep 99; sleep 99' & sleep 99",
    "setsid, double fork": lambda w: f"export MARK={w}; setsid sh -c '(setsid sleep 99 &) ; : {w}' & sleep 99",
    "nohup": lambda w: f"export MARK={w}; nohup sleep 99 & sleep 99",
    "closed its output": lambda w: f"export MARK={w}; exec >&- 2>&- <&-; sleep 99",
    "no environment": lambda w: f"export MARK={w}; env -i setsid sh -c ': {w}; sleep 99; :' & sleep 99",
    "busy": lambda w: f"export MARK={w}; while :; do :; done",
    "tree": lambda w: f"export MARK={w}; t() {{ [ $1 = 0 ] && sleep 99; t $(($1 - 1)) & t $(($1 - 1)) & wait; }}; t 4",
    "comet": lambda w: f"export MARK={w}; f() {{ sleep 0.01; f & }}; f & sleep 99",
    "comet with sessions": lambda w: (
        f'export MARK={w}; export C=\'sleep 0.01; setsid sh -c "$C" &\'; sh -c "$C"; sleep 99'
    ),
}


@pytest.mark.parametrize("kind", CLINGING)
async def test_everything_is_dead_a_second_after_the_time_out(kind: str):
    async with desk() as d:
        for time_out_s in (0.5, 4.0, 16.0):  # a busy machine may give it no time to be seen
            word, seen, started = mark(), False, spent(d)
            work = asyncio.create_task(d.result(CLINGING[kind](word), timeout_ms=int(time_out_s * 1000)))
            while not work.done():
                seen = seen or bool(alive(word))
                await asyncio.wait({work}, timeout=0.01)
            result, took = await work, started.s()
            left = alive(word)
            assert left == [], f"{len(left)} survivors when the command was reported"
            assert took <= time_out_s + WITHIN_S, f"{took:.2f} s"
            if seen:
                break
        assert seen
        assert result.reason.startswith("timed out after ") and not result.ok and result.exit_code is None
        assert (await d.result("echo free")).output == b"free\n"


LEFT: dict[str, Callable[[str], str]] = {
    "background": lambda w: f"export MARK={w}; sleep 99 & echo over",
    "keeps the pipe": lambda w: f"export MARK={w}; (sleep 99; echo late) & echo over",
    "setsid": lambda w: f"export MARK={w}; setsid sleep 99 & echo over",
    "double fork": lambda w: f"export MARK={w}; (setsid sh -c ': {w}; sleep 99; :' &) ; echo over",
    "daemon": lambda w: f"export MARK={w}; setsid setsid nohup sleep 99 >/dev/null 2>&1 & echo over",
    "writes for ever": lambda w: f"export MARK={w}; (while :; do echo x; done) & echo over",
    "no environment": lambda w: f"export MARK={w}; env -i setsid sh -c ': {w}; sleep 99; :' & echo over",
}


@pytest.mark.parametrize("kind", LEFT)
async def test_what_a_command_leaves_behind_ends_with_it(kind: str):
    word = mark()
    async with desk() as d:
        started = spent(d)
        result = await d.result(LEFT[kind](word), timeout_ms=30_000)
        assert started.s() < 20.0
        assert alive(word) == []
        assert result.ok and b"over" in result.output


async def test_a_gigabyte_of_output_keeps_64_kib_and_both_ends():
    async with desk(limits=CommandLimits(cpu_s=200)) as d:
        await d.run(*(delivery(":") for _ in range(8)))
        before = _rss_kib(d.target.host_pid)
        result = await d.result(
            "echo first; head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo last", timeout_ms=280_000
        )
        assert result.ok and result.truncated
        assert len(result.output) <= OUTPUT_BYTES
        assert result.output.startswith(b"first\nxxx") and result.output.endswith(b"xxx\nlast\n")
        assert b"[... 999934" in result.output and b" bytes cut ...]" in result.output
        grown = _rss_kib(d.target.host_pid) - before
        assert grown < 20_000, f"{grown} KiB"


async def test_output_without_end_is_cut_off_by_the_time_out():
    word = mark()
    async with desk() as d:
        started = spent(d)
        result = await d.result(f"export MARK={word}; yes", timeout_ms=500)
        assert started.s() <= 0.5 + WITHIN_S
        assert result.truncated and len(result.output) <= OUTPUT_BYTES and alive(word) == []


def _rss_kib(host: int) -> int:
    """Of the host and its slots."""
    total = 0
    for pid in [host, *children_of(host)]:
        line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
        total += int(line.split()[1])
    return total


NOBODY = 54_321
BOMBS = {
    "fork bomb": "b() { sleep 99 & b & b & wait; }; b",
    "fork bomb with sessions": "while :; do setsid sleep 99 & done",
}


@pytest.mark.parametrize("kind", BOMBS)
async def test_a_fork_bomb_is_held_by_the_limit_and_leaves_nothing(kind: str):
    # The system does not hold root to the limit, so root's bomb becomes somebody else first: one user for each bomb,
    # since both may go off at once.
    root = os.getuid() == 0
    user = NOBODY + list(BOMBS).index(kind) if root else os.getuid()
    become = f"exec setpriv --reuid={user} --regid={user} --clear-groups " if root else "exec "
    async with desk(limits=CommandLimits(processes=20, cpu_s=5)) as d:
        limit = int((await d.result("ulimit -p 2>/dev/null || ulimit -u")).output)
        assert limit < 1_000, "this test must not take the machine down"
        for time_out_s in (1, 4, 16):  # a busy machine may give a bomb no time to go off
            before, most = _processes_of(user), 0
            started = spent(d)
            bomb = f"{become}sh -c {shlex.quote(BOMBS[kind])}"
            work = asyncio.create_task(d.result(bomb, timeout_ms=time_out_s * 1_000))
            while not work.done():
                most = max(most, _processes_of(user))
                await asyncio.sleep(0.02)
            result: TaskResult = await work
            took = started.s()
            assert took <= time_out_s + WITHIN_S, f"{took:.2f} s"
            assert _processes_of(user) <= before, "survivors"
            assert not result.ok
            if most > 10:
                break
        assert 10 < most <= limit, (most, limit)
        assert (await d.result("echo free")).ok


def _processes_of(uid: int) -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += "State:\tZ" not in (entry / "status").read_text()
        except OSError:
            continue
    return count


async def test_many_abusers_at_once_leave_nothing():
    word = mark()
    async with desk(concurrency=8) as d:
        kinds = [make(word) for make in (*CLINGING.values(), *LEFT.values())]
        started = spent(d)
        await d.run(*(delivery(text, timeout_ms=500) for text in kinds))
        assert alive(word) == []
        assert started.s() < 60
        assert (await d.result("echo free")).ok
