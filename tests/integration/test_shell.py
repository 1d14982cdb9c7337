"""Shell commands as a target runs them: what they get, what is kept of them, how many run at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from delaybox.core.delivery import Delivery, Done, Failed, HandBack
from delaybox.targets.shell import CommandLimits
from tests.shells import Desk, alive, delivery, desk, mark, until_alive, until_dead
from tests.waiting import until_async

DASH = Path("/bin/sh").resolve().name == "dash"


async def test_exit_code_output_and_duration_are_kept():
    async with desk(keep_result_ms=5_000) as d:
        done, failed, shot, missing = await d.run(
            delivery("echo out; echo err >&2; sleep 0.05"),
            delivery("echo no >&2; exit 3"),
            delivery("kill -SEGV $$"),
            delivery("no-such-command-here"),
        )
    assert isinstance(done, Done) and done.result is not None and done.keep_ms == 5_000
    assert (done.result.ok, done.result.exit_code, done.result.output) == (True, 0, b"out\nerr\n")
    assert 50 <= done.result.duration_ms < 5_000 and abs(done.result.finished_ms - time.time() * 1000) < 60_000
    assert isinstance(failed, Failed) and failed.result is not None
    assert (failed.reason, failed.result.exit_code, failed.result.output) == ("exit code 3", 3, b"no\n")
    assert isinstance(shot, Failed) and shot.reason == "killed by SIGSEGV"
    assert isinstance(missing, Failed) and missing.reason == "exit code 127"


async def test_keep_result_of_the_task_wins():
    async with desk() as d:
        (own,) = await d.run(delivery(":", keep_result_ms=77))
        assert isinstance(own, Done) and own.keep_ms == 77


async def test_the_environment_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DELAYBOX_AUTH_TOKENS", "canary-of-the-node")
    monkeypatch.setenv("REDIS_PASS", "canary-of-the-node")
    monkeypatch.setenv("LD_PRELOAD_X", "canary-of-the-node")
    leaky = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    async with desk() as d:
        one = delivery("cat /proc/self/environ", attempt=2, token=9)
        (outcome,) = await d.run(one)
        assert isinstance(outcome, Done) and outcome.result is not None
        got = dict(line.split(b"=", 1) for line in outcome.result.output.split(b"\0") if line)
        assert b"/delaybox-shell-" in got.pop(b"PWD")  # the shell's own
        assert got.pop(b"PATH").split(b":")[:2] == [b"/usr/local/sbin", b"/usr/local/bin"]
        assert got == {
            b"LANG": b"C.UTF-8",
            b"DELAYBOX_TASK_ID": one.id.encode(),
            b"DELAYBOX_ATTEMPT": b"3",
            b"DELAYBOX_FENCING": b"9",
        }
        # 3 is ls's own.
        assert (await d.result("ls /proc/self/fd")).output.split() == [b"0", b"1", b"2", b"3"]
        assert (await d.result("cat; ps -o pid= -o sid= -o pgid= -p $$; umask")).output.split()[-1:] == [b"0022"]
    os.close(leaky)


async def test_a_command_finds_its_trace_in_the_environment():
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with desk() as d:
        show = 'echo "$TRACEPARENT|$TRACESTATE|$BAGGAGE|$X"'
        outcomes = await d.run(
            delivery(show, header={"traceparent": trace, "tracestate": b"a=b", "baggage": b"u=$(id)", "x": b"y"}),
            delivery(show, header={"traceparent": b"00-x", "baggage": b"u=1"}),
        )
    shown = [o.result.output for o in outcomes if isinstance(o, Done) and o.result is not None]
    assert shown == [trace + b"|a=b|u=$(id)|\n", b"|||\n"], "a valid trace, and nothing else of the headers"


async def test_each_task_has_a_folder_of_its_own_that_goes_away():
    async with desk() as d:
        one = await d.result("pwd; stat -c %a .; ls -A; mkdir -p a/b; echo x > a/b/c; chmod 000 a/b; chmod 500 a")
        folder, mode, *rest = one.output.decode().split()
        assert mode == "700" and not rest
        assert stat.S_IMODE(os.stat(Path(folder).parent).st_mode) == 0o700
        other = await d.result("pwd; rmdir $PWD")
        assert other.output.decode().strip() != folder
        for _ in range(3):
            for touch in (
                "touch x",
                "touch x; rm x",
                "mkdir d",
                "chmod 777 .",
                "ln -s / l",
                "mv $PWD ../moved",
                "true",
            ):
                left = await d.result(f"stat -c %a .; ls -A; {touch}")
                assert left.output == b"700\n", touch
        base = Path(folder).parent

        def few_and_empty() -> bool:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                left = [p for p in base.iterdir() if p.name != "moved"]
                # At most one folder a slot stays for the next command.
                return len(left) <= 4 and not any(any(p.iterdir()) for p in left)
            return False

        await until_async(few_and_empty)
    await until_async(lambda: not base.exists())


async def test_a_payload_is_run_as_sh_would():
    async with desk() as d:
        assert (await d.result("nope")).output == b"sh: 1: nope: not found\n" or not DASH
        result = await d.result('echo "$0:$#"\nfor i in 1 2; do echo $i; done # comment\ncat <<X\nhere\nX\n')
        assert result.output == b"sh:0\n1\n2\nhere\n"
        assert (await d.result(b"echo \xff\xfe | od -An -tx1")).output.split() == [b"ff", b"fe", b"0a"]
        assert (await d.result("")).ok
        assert (await d.result(")")).exit_code == 2
        assert (await d.result("; echo never")).output.find(b"never\n") < 0


async def test_limits_are_set_on_every_command():
    limits = CommandLimits(cpu_s=7, memory=1 << 30, file_size=1 << 20, open_files=50, processes=40)
    async with desk(limits=limits, commands={"limits": ("/bin/cat", "/proc/self/limits")}) as d:
        for result in (await d.result("cat /proc/self/limits"), await d.result("", name="limits")):
            rows = {line[:26].strip(): line[26:].split()[:2] for line in result.output.decode().splitlines()}
            assert rows["Max cpu time"] == ["7", "7"]
            assert rows["Max address space"] == [str(1 << 30)] * 2
            assert rows["Max file size"] == [str(1 << 20)] * 2
            assert rows["Max open files"] == ["50", "50"]
            assert rows["Max core file size"] == ["0", "0"]
            assert int(rows["Max processes"][1]) >= 40
        big = await d.result("head -c 2000000 /dev/zero > f; ls -l f | cut -d' ' -f5; exit 9")
        assert b"1048576" in big.output
        hungry = await d.result("perl -e '$x = q(x) x 2_000_000_000' || exit 5")
        assert hungry.exit_code == 5
        assert (await d.result("ulimit -n 60")).exit_code != 0 or os.getuid() == 0


async def test_cpu_time_is_limited():
    async with desk(limits=CommandLimits(cpu_s=1)) as d:
        result = await d.result("exec perl -e '1 while 1'", timeout_ms=280_000)
        assert result.reason in ("killed by SIGXCPU", "killed by SIGKILL"), "and not by the time-out"


async def test_no_limit_is_left_alone():
    async with desk(limits=CommandLimits(cpu_s=0, memory=0, file_size=0, open_files=0, processes=0)) as d:
        result = await d.result("ulimit -t; ulimit -v; ulimit -f; ulimit -c")
        assert result.output.split() == [b"unlimited", b"unlimited", b"unlimited", b"0"]


async def test_commands_run_side_by_side_up_to_the_slots_and_report_as_they_end(tmp_path: Path):
    def until_there(name: str) -> Delivery:
        """Says that it runs, and runs until there is a file of this name."""
        return delivery(f": > {tmp_path}/ran-$DELAYBOX_TASK_ID; until [ -e {tmp_path}/{name} ]; do sleep 0.02; done")

    async with desk(concurrency=4) as d:
        slow, *quick = [until_there("slow"), *(until_there("quick") for _ in range(6))]
        running = asyncio.create_task(d.run(slow, *quick))
        await until_async(lambda: len([*tmp_path.glob("ran-*")]) == 4)
        (tmp_path / "quick").touch()
        await until_async(lambda: set(d.order) == {one.id for one in quick})
        (tmp_path / "slow").touch()
        await running
        assert d.order[-1] == slow.id
        assert all(isinstance(o, Done) for o in d.outcomes.values())

        word = mark()
        batch = [delivery(f"export MARK={word}; sleep 0.2") for _ in range(12)]
        running = asyncio.create_task(d.run(*batch))
        while not running.done():
            assert len({_job_of(pid) for pid in alive(word)} - {""}) <= 4
            await asyncio.sleep(0.01)


async def test_commands_whose_tasks_are_cancelled_end_whether_they_run_or_wait():
    word = mark()
    async with desk(concurrency=1) as d:
        runs, waits = [delivery(f"export MARK={word}; echo begun; sleep 60") for _ in range(2)]
        running = asyncio.create_task(d.run(runs, waits))
        await until_alive(word)
        d.target.end(os.urandom(16))
        for one in (waits, runs):
            d.target.end(one.task_id)
        d.target.end(waits.task_id)
        outcomes = await running
        assert d.order == [waits.id, runs.id]
        assert [isinstance(o, Done) and o.result is not None and o.result.cancelled for o in outcomes] == [True] * 2
        assert isinstance(outcomes[0], Done) and outcomes[0].result is not None
        assert alive(word) == [] and not d.target._jobs
        assert (await d.result("echo the slot is free again")).ok


async def test_what_waits_behind_a_command_of_several_slots_runs_when_that_one_is_cancelled():
    word = mark()
    async with desk(concurrency=2) as d:
        runs, wide, behind = delivery(f"export MARK={word}; sleep 60"), delivery(":", cost=2), delivery("echo ran")
        running = asyncio.create_task(d.run(runs, wide, behind))
        await until_alive(word)
        d.target.end(wide.task_id)
        await until_async(lambda: behind.id in d.order)
        d.target.end(runs.task_id)
        await running
        assert d.order == [wide.id, behind.id, runs.id]


async def test_commands_that_are_cancelled_do_not_make_the_others_pass_for_quick():
    """What passes for quick is kept here by the hundred, though other nodes may have slots free."""
    word = mark()
    async with desk(concurrency=1) as d:
        d.target._pace_s = 5.0  # that is how long those before took
        runs = delivery(f"export MARK={word}; sleep 60")
        running = asyncio.create_task(d.run(runs))
        await until_alive(word)
        room = d.target._room()
        for _ in range(30):
            wait = [delivery(":"), delivery(":")]
            waiting = asyncio.create_task(d.run(*wait))
            await asyncio.sleep(0)
            for one in wait:
                d.target.end(one.task_id)
            await waiting
        d.target.end(runs.task_id)
        await running
        assert d.target._room() == room


def _job_of(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    return next((v.decode() for v in raw.split(b"\0") if v.startswith(b"DELAYBOX_TASK_ID=")), "")


async def test_two_batches_share_the_slots():
    async with desk(concurrency=2) as d:
        first, second = [[delivery("sleep 0.05") for _ in range(20)] for _ in range(2)]
        await asyncio.gather(d.run(*first), d.run(*second))
        assert len(d.outcomes) == 40


async def test_a_thousand_commands_lose_none_and_leave_no_slot_behind():
    async with desk(concurrency=8) as d:
        batch = [delivery(f"echo {at}; exit $(({at} % 3))") for at in range(300)]
        outcomes = await d.run(*batch)
        for at, outcome in enumerate(outcomes):
            assert isinstance(outcome, (Done, Failed))
            assert outcome.result is not None and outcome.result.output == b"%d\n" % at
            assert outcome.result.exit_code == at % 3
        host = d.target.host_pid
    assert not Path(f"/proc/{host}").exists()


async def test_more_than_can_be_started_soon_is_handed_back():
    async with desk(concurrency=2) as d:
        d.target._pace_s = 10.0
        outcomes = await d.run(*(delivery("sleep 0.05") for _ in range(40)))
        assert [type(o) for o in outcomes].count(HandBack) == 40 - 4 * 2
        assert all(o.delay_ms for o in outcomes if isinstance(o, HandBack))


async def test_a_cancelled_batch_is_dead_before_it_is_handed_back():
    async with desk(concurrency=2) as d:
        word = mark()
        trap = delivery(f"trap '' TERM; export MARK={word}; sleep 60; sleep 60")
        batch = [trap, *(delivery(f"export MARK={word}; sleep 60") for _ in range(5))]
        work = asyncio.create_task(d.run(*batch))
        await until_alive(word, 2)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert alive(word) == []
        # The engine hands back what was not reported; what ran is reported so.
        assert len(d.outcomes) == 2 and all(isinstance(o, HandBack) for o in d.outcomes.values())
        assert (await d.result("echo the slots are free again")).ok
        assert d.target._pool.waiting == 0


async def test_a_slot_that_is_killed_fails_its_command_and_is_replaced():
    async with desk(concurrency=2) as d:
        for _ in range(5):
            word = mark()
            result = await d.result(f"export MARK={word}; setsid sleep 60 & kill -9 $PPID; sleep 60")
            assert result.reason == "the process that ran it died" and result.exit_code is None
            assert await until_dead(word) == []
        results = await d.run(*(delivery("echo again") for _ in range(20)))
        assert all(isinstance(o, Done) for o in results)


async def test_a_host_that_is_killed_is_replaced_and_its_commands_are_dead():
    async with desk(concurrency=2) as d:
        word = mark()
        work = asyncio.create_task(
            d.run(delivery(f"export MARK={word}; sleep 60"), delivery("sleep 60"), delivery(":"))
        )
        await until_alive(word)
        before, folder = d.target.host_pid, Path(d.target._pool._folder)
        os.kill(before, signal.SIGKILL)
        outcomes = await work
        assert isinstance(outcomes[0], Failed) and outcomes[0].reason == "the process that ran it died"
        assert await until_dead(word) == []
        assert isinstance(outcomes[2], Done), "what waited is run by the new host"
        assert d.target.host_pid != before and not folder.exists()
        assert (await d.result("echo again")).ok


async def test_a_host_that_was_killed_is_not_started_again_by_a_stop(caplog: pytest.LogCaptureFixture):
    async with desk(concurrency=2) as d:
        before, folder = d.target.host_pid, Path(d.target._pool._folder)
        os.kill(before, signal.SIGKILL)
        await until_async(lambda: "starting it again" in caplog.text)
        await d.target.stop()
        assert d.target.host_pid == before and not folder.exists()


async def test_stop_ends_everything_and_twice_is_harmless():
    async with desk() as d:
        word = mark()
        work = asyncio.create_task(d.run(delivery(f"export MARK={word}; setsid sleep 60 & sleep 60")))
        await until_alive(word, 2)
        await d.target.stop()
        await d.target.stop()
        assert await until_dead(word) == []
        await work


async def elsewhere(d: Desk, **task) -> None:
    (outcome,) = await d.run(delivery("echo no", **task))
    assert isinstance(outcome, HandBack) and outcome.delay_ms > 0


async def test_what_this_node_may_not_run_is_left_to_another():
    async with desk(payloads=False, commands={"cat": ("/bin/cat",)}) as d:
        await elsewhere(d)
        await elsewhere(d, name="dog")
        assert (await d.result("hello", name="cat")).output == b"hello"
    async with desk() as d:
        await elsewhere(d, name="cat")


async def test_as_many_as_there_are_slots_are_kept_whatever_they_cost():
    """Commands of a topic come one by one, as many at once as there are slots, and no other node gets them."""
    async with desk(concurrency=8) as d:
        # It has learnt that commands take long, so it does not look far ahead.
        d.target._pace_s = 60.0
        commands = [delivery(":", cost=8) for _ in range(8)]
        outcomes = await asyncio.gather(*(d.run(one) for one in commands))
    assert [type(outcome) for (outcome,) in outcomes] == [Done] * 8
