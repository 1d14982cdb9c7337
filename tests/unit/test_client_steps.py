"""What a client decides, without a node: retries, endpoints, chunks, streams."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from delaybox.client import calls, chunks, results, task_lists
from delaybox.client.batches import StoredBatch, count
from delaybox.client.endpoints import Endpoints, Pace, parse, pause_s
from delaybox.client.errors import (
    CallTimeout,
    Failure,
    NotFinished,
    OutcomeUnknown,
    Refused,
    ResultGone,
    TaskCancelled,
    TaskFailed,
    Unreachable,
    closed,
)
from delaybox.client.models import ScheduleAnswer, Scheduled
from delaybox.client.new_tasks import CODECS, NewTask
from delaybox.client.steps import Invoke, OpenStream, Receive, Send
from delaybox.core.errors import (
    ConfigError,
    DelayBoxError,
    InvalidTask,
    Overloaded,
    StoreUnavailable,
    TaskNotFound,
)
from delaybox.store.replies import Stored
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2
from tests.client_world import BROKE, BUSY, FULL, NEVER_SENT, NO, STORE_AWAY, TIMED_OUT, World, answer_of


def _schedule(key: str = "") -> Callable[[World], Any]:
    task = NewTask.publish(b"x", key=key or None).message
    return lambda world: world.run(world.session.unary(calls.schedule(task)))


def _get(world: World) -> Any:
    return world.run(world.session.unary(calls.get("id")))


STORED = pb.ScheduleResponse(id="id", due_ms=5, created=True)
INFO = pb.TaskInfo(id="id", state=pb.TASK_STATE_READY)


@pytest.mark.parametrize("failure", [NEVER_SENT, BUSY, FULL])
def test_what_was_certainly_not_stored_is_sent_again(failure: Failure):
    world = World(failure, failure, STORED)
    assert _schedule()(world) == ScheduleAnswer("id", 5)
    assert len(world.pauses) == 2


@pytest.mark.parametrize("failure", [BROKE, TIMED_OUT, STORE_AWAY])
def test_what_may_have_been_stored_is_not_sent_again_but_said_to_be_unknown(failure: Failure):
    world = World(failure)
    with pytest.raises(OutcomeUnknown, match=r"it may have been done, or not: .* can be repeated") as caught:
        _schedule()(world)
    assert caught.value.__cause__ is failure.error


@pytest.mark.parametrize("failure", [BROKE, TIMED_OUT, STORE_AWAY, NEVER_SENT])
def test_with_a_key_it_is_sent_again(failure: Failure):
    assert _schedule("k")(World(failure, STORED)) == ScheduleAnswer("id", 5)


def test_a_key_of_our_own_hides_that_the_first_attempt_was_stored():
    found = pb.ScheduleResponse(id="id", due_ms=5, created=False)
    task = chunks.with_key(NewTask.publish(b"x").message, "own")
    world = World(BROKE, found)
    assert world.run(world.session.unary(calls.schedule(task, own_key=True))).created
    assert not _schedule("k")(World(found)).created


def test_a_key_does_not_make_an_unknown_outcome_known():
    with pytest.raises(OutcomeUnknown):
        _schedule("k")(World(BROKE, NEVER_SENT, retries=1))
    with pytest.raises(Unreachable):
        _schedule("k")(World(NEVER_SENT, NEVER_SENT, retries=1))
    with pytest.raises(OutcomeUnknown):
        _schedule("k")(World(BROKE, BUSY, retries=1))


@pytest.mark.parametrize("failure", [BROKE, TIMED_OUT, STORE_AWAY, BUSY, NEVER_SENT])
def test_reads_are_repeated(failure: Failure):
    assert _get(World(failure, failure, INFO)).id == "id"


def test_reads_that_never_work_end_with_what_went_wrong():
    with pytest.raises(StoreUnavailable):
        _get(World(*[STORE_AWAY] * 3, retries=2))
    with pytest.raises(CallTimeout):
        _get(World(TIMED_OUT, retries=0))


def test_a_node_that_says_no_is_believed():
    world = World(NO, nodes=2)
    with pytest.raises(TaskNotFound):
        _get(world)
    world = World(Failure(Refused("internal", "broken"), "INTERNAL"))
    with pytest.raises(Refused):
        _schedule()(world)


def test_unless_a_number_is_given_the_time_bounds_the_tries():
    world = World(*[NEVER_SENT] * 100, retries=None)
    with pytest.raises(Unreachable) as caught:
        _get(world)
    assert 29 < sum(world.pauses) < 30 and len(world.invoked()) > 6
    assert any(f"{len(world.invoked())} attempts" in note for note in caught.value.__notes__)
    world = World(*[BROKE] * 100, retries=None, timeout_s=5)
    with pytest.raises(OutcomeUnknown):
        _schedule("k")(world)
    world = World(BROKE, retries=None)
    with pytest.raises(OutcomeUnknown):
        _schedule()(world)


def test_a_program_that_waits_for_a_node_says_so_once(caplog: pytest.LogCaptureFixture):
    with pytest.raises(Unreachable):
        _get(World(*[NEVER_SENT] * 100, retries=None))
    (warning,) = caplog.messages
    assert warning.startswith("no connection; trying again for up to 30 s")


def test_a_call_on_a_closed_client_is_not_tried_again():
    world = World(closed())
    with pytest.raises(Unreachable, match="closed"):
        _get(world)
    assert world.pauses == []


def test_pauses_grow_and_heed_the_nodes_wish():
    world = World(*[NEVER_SENT] * 4, INFO)
    _get(world)
    assert world.pauses == [0.1, 0.2, 0.4, 0.8]
    world = World(BUSY, INFO)
    _get(world)
    assert world.pauses == [2]


def test_what_a_node_asked_for_is_waited_for_and_up_to_twice_as_long_by_chance():
    world = World(BUSY, INFO)
    world.session.draw = lambda: 0.75
    _get(world)
    assert world.pauses == [3.5]
    # Where the time is over sooner, a last attempt is made before its end.
    world = World(BUSY, INFO, timeout_s=3.0)
    world.session.draw = lambda: 0.75
    _get(world)
    assert world.pauses == [2.5]


def test_no_pause_is_begun_that_the_timeout_ends():
    world = World(BUSY, timeout_s=1.5)
    with pytest.raises(Overloaded):
        _get(world)
    assert world.pauses == []


def test_another_node_is_asked_at_once_and_the_lost_one_left_alone():
    world = World(NEVER_SENT, INFO, INFO, INFO, nodes=2)
    for _ in range(3):
        _get(world)
    lost, *others = world.invoked()
    assert world.pauses == [] and lost not in others
    world.script, world.now = [INFO, INFO], world.now + 1
    for _ in range(2):
        _get(world)
    assert set(world.invoked()[-2:]) == {0, 1}, "it is tried again later"


def test_nodes_take_turns():
    world = World(*[INFO] * 6, nodes=3)
    for _ in range(6):
        _get(world)
    assert sorted(world.invoked()) == [0, 0, 1, 1, 2, 2] and len(set(world.invoked()[:3])) == 3


def test_a_node_that_is_slower_than_others_gets_fewer_calls_until_it_is_fast_again():
    slow = True

    def answer(effect: Invoke) -> Any:
        world.now += 0.05 if slow and effect.which == 0 else 0.01
        return INFO

    world = World(*[answer] * 600, nodes=3)
    world.session.endpoints = Endpoints(world.session.endpoints.names, random.Random(1).random)

    def shares() -> list[float]:
        asked = [_get(world) and world.invoked()[-1] for _ in range(300)]
        return [asked.count(which) / len(asked) for which in range(3)]

    assert shares()[0] < 0.1, "a third before it was found to be slow"
    slow = False
    world.now += 60
    assert min(shares()) > 0.25


def test_a_node_that_has_calls_to_answer_is_passed_over():
    pace = Pace(2)
    pace.began(0)
    pace.took(1, "Get", 1.0, 0.01)
    assert pace.cost(0, 1.0) == 2 * pace.cost(1, 1.0)
    pace.ended(0)
    assert pace.cost(0, 1.0) == pace.cost(1, 1.0)


def test_one_node_must_not_use_up_all_of_the_time():
    def attempts(nodes: int, call: Callable[[World], Any]) -> float | None:
        world = World(STORED if call is not _get else INFO, nodes=nodes)
        call(world)
        return next(effect.timeout_s for effect in world.did if isinstance(effect, Invoke))

    assert (attempts(2, _get), attempts(1, _get), attempts(2, _schedule())) == (15, 30, 30)


def test_pauses_are_bounded_and_jittered():
    assert pause_s(1, 0) == 0.1 and pause_s(1, 1) == 0.05 and pause_s(1000, 0) == 5


def test_addresses():
    assert parse("a") == ("a:9088",)
    assert parse(["a:1", "b:2,a:1", "[::1]:5", "unix:/tmp/x.sock"]) == ("a:1", "b:2", "[::1]:5", "unix:/tmp/x.sock")
    wrong: Any
    for wrong in ("", "http://a:1", "a:0", "a:70000", "a b", []):
        with pytest.raises(ConfigError, match="localhost:9088"):
            parse(wrong)
    with pytest.raises(ConfigError, match="without a scheme"):
        parse("https://a:1")


# -- many ---------------------------------------------------------------------------------------------------------


def _results(*payloads: int, **errors: str) -> pb.ScheduleBatchResponse:
    return pb.ScheduleBatchResponse(results=[pb.ScheduleResult(id=str(n), created=True) for n in payloads])


def _tasks(count: int, key: bool = False) -> Any:
    return iter([NewTask.publish(str(n), key=f"k{n}" if key else None) for n in range(count)])


def _each(world: World, tasks: Any, *, chunk: int = 2, safe: bool = False) -> list[Any]:
    line = chunks.ChunkLine(chunk, lambda: world.now, safe=safe, filled=threading.Event(), answered=threading.Event())
    world.run(chunks.schedule_each(world.session, tasks, line))
    return [outcome.id if isinstance(outcome, ScheduleAnswer) else type(outcome) for outcome in world.emitted]


def test_chunks_are_sent_ahead_and_answered_in_order():
    world = World(*[_results(n, n + 1) for n in range(0, 20, 2)])
    assert _each(world, _tasks(20)) == [str(n) for n in range(20)]
    kinds = [type(effect) for effect in world.did if isinstance(effect, Send | Receive)]
    assert kinds[: chunks.UNDER_WAY + 1] == [Send] * chunks.UNDER_WAY + [Receive]


def test_nothing_to_do_opens_nothing():
    world = World()
    assert _each(world, iter([])) == [] and not any(isinstance(effect, OpenStream) for effect in world.did)


def test_a_broken_stream_leaves_unknown_what_was_sent_and_goes_on():
    world = World(_results(0, 1), BROKE, _results(8, 9), _results(10, 11), nodes=2)
    unknown = [OutcomeUnknown] * 2 * (chunks.UNDER_WAY - 1)
    assert _each(world, _tasks(2 + 2 * chunks.UNDER_WAY + 2)) == ["0", "1", *unknown, "8", "9", "10", "11"]
    first, second = (effect.which for effect in world.did if isinstance(effect, OpenStream))
    assert first != second


@pytest.mark.parametrize("safe", [False, True])
def test_with_keys_a_broken_stream_loses_nothing(safe: bool):
    world = World(BROKE, *[answer_of] * 2)
    assert _each(world, _tasks(4, key=not safe), safe=safe) == ["0", "1", "2", "3"]
    repeated = [effect.request for effect in world.did if isinstance(effect, Invoke)]
    assert repeated == [effect.message for effect in world.did if isinstance(effect, Send)], "under the same keys"


def test_keys_of_our_own_do_not_stay_on_the_callers_tasks():
    task = NewTask.publish(b"0")
    _each(World(_results(0)), iter([task]), safe=True)
    assert task.key == ""


def test_without_any_node_it_ends():
    world = World(NEVER_SENT, *[NEVER_SENT] * 6)
    with pytest.raises(Unreachable):
        _each(world, _tasks(100))


def test_no_right_to_schedule_ends_it():
    world = World(Failure(Refused("scope_missing", "no"), "PERMISSION_DENIED", refused=True))
    with pytest.raises(Refused):
        _each(world, _tasks(100))


def _error(code: str, retry_after_ms: int = 0) -> pb.ScheduleResult:
    return pb.ScheduleResult(error=pb.Error(code=code, message=code, retry_after_ms=retry_after_ms))


def test_tasks_of_a_batch_that_were_refused_for_now_are_sent_again_alone():
    mixed = pb.ScheduleBatchResponse(
        results=[pb.ScheduleResult(id="0", created=True), _error("overloaded", 500), _error("invalid_task")]
    )
    world = World(mixed, answer_of)
    assert _each(world, _tasks(3), chunk=3)[:2] == ["0", "1"]
    (again,) = (effect.request for effect in world.did if isinstance(effect, Invoke))
    assert again == pb.ScheduleBatchRequest(tasks=[NewTask.publish("1").message]) and world.pauses == [0.5]


def test_a_store_that_did_not_answer_leaves_the_task_unknown_unless_it_has_a_key():
    away = pb.ScheduleBatchResponse(results=[_error("store_unavailable", 1000)])
    assert _each(World(away), _tasks(1)) == [OutcomeUnknown]
    assert _each(World(away, answer_of), _tasks(1, key=True)) == ["0"]


def test_a_chunk_leaves_when_it_is_old_enough():
    filled = threading.Event()
    line = chunks.ChunkLine(1000, lambda: now[0], safe=False, filled=filled, answered=threading.Event())
    now = [0.0]
    line.add(NewTask.publish("0"))
    assert line.next() is None and line.linger_s() == chunks.LINGER_S and filled.is_set()
    now[0] = chunks.LINGER_S
    chunk = line.next()
    assert chunk is not None and len(chunk.tasks) == 1 and line.linger_s() is None


def test_what_a_source_raises_comes_after_all_that_it_gave():
    def breaks_off() -> Any:
        yield from _tasks(3)
        raise OSError("the file ends here")

    world = World(_results(0, 1), _results(2))
    with pytest.raises(OSError, match="ends here"):
        _each(world, breaks_off())
    assert [outcome.id for outcome in world.emitted] == ["0", "1", "2"]


def test_only_tasks_are_taken():
    with pytest.raises(TypeError, match=r"'text' is not a task; make them with NewTask\.call"):
        _each(World(), iter(["text"]))


def test_counts_of_many():
    done = Scheduled()
    for outcome in (ScheduleAnswer("a", 1), ScheduleAnswer("b", 1, created=False), DelayBoxError("x")):
        done.add(outcome)
    assert (done.created, done.existing, done.refused, done.total) == (1, 1, 1, 3)
    assert [place for place, _ in done.errors] == [2]


def _stored(*created: bool) -> StoredBatch:
    return StoredBatch([Stored(bytes(15) + bytes([n]), n, new) for n, new in enumerate(created)])


def test_a_batch_that_is_stored_as_a_whole_is_counted_and_read():
    done, batch = Scheduled(), _stored(True, False, True)
    count(done, batch)
    count(done, [ScheduleAnswer("a", 1), DelayBoxError("x")])
    assert (done.created, done.existing, done.refused) == (3, 1, 1)
    last = ScheduleAnswer("00000000-0000-0000-0000-000000000002", 2, True)
    assert list(batch)[2] == batch[-1] == last and list(batch[1:]) == [batch[1], last]


@pytest.mark.parametrize("safe", [False, True])
def test_tasks_stored_in_this_process_are_answered_as_by_a_node(safe: bool):
    world = World(_stored(True, False), _stored(True))
    assert [end[-1] for end in _each(world, _tasks(3), safe=safe)] == ["0", "1", "0"]
    # Only this call can have stored a task under a key that the client made.
    assert [outcome.created for outcome in world.emitted] == [True, safe, True]


def test_a_list_goes_on_where_it_broke_off():
    def page(*ids: str, cursor: str) -> pb.ListResponse:
        tasks = [pb.TaskInfo(id=one, state=pb.TASK_STATE_READY) for one in ids]
        return pb.ListResponse(tasks=tasks, cursor=cursor)

    world = World(page("a", "b", cursor="1"), BROKE, page("c", cursor=""), None, nodes=2)
    asked: list[str] = []

    def run(steps: Any) -> None:
        answer = None
        try:
            while True:
                effect = steps.send(answer)
                if isinstance(effect, OpenStream):
                    assert isinstance(effect.request, pb.ListRequest)
                    asked.append(effect.request.cursor)
                answer = world._do(effect)
        except StopIteration:
            pass

    run(task_lists.listed(world.session, "List", {}, None))
    assert [task.id for task in world.emitted] == ["a", "b", "c"] and asked == ["", "1"]


@pytest.mark.parametrize("limit", [-1, 1.5, "5", True])
def test_a_list_has_a_number_of_tasks_as_its_limit(limit: Any):
    for steps in (task_lists.listed(World().session, "List", {}, limit), task_lists.ended(World().session, {}, limit)):
        with pytest.raises(InvalidTask, match="is no number of tasks; give 0 or more, or leave it out for all"):
            next(steps)


def _end(task_id: str, state: int, **more: Any) -> pb.WatchResponse:
    return pb.WatchResponse(events=[pb.TaskEvent(id=task_id, state=state, **more)])  # type: ignore[arg-type]


def _result(*script: Any, limit_s: float | None = None) -> Any:
    world = World(*script)
    return world.run(results.result(world.session, "t", limit_s=limit_s, codecs=CODECS))


def test_results():
    done = task_pb2.Result(ok=True, output=b'{"a":1}')
    assert _result(_end("t", pb.TASK_STATE_SUCCEEDED, result=done)) == {"a": 1}
    assert _result(BROKE, None, _end("t", pb.TASK_STATE_SUCCEEDED, result=done)) == {"a": 1}, "over a broken watch"
    raw = task_pb2.Result(ok=True, output=b"1", content_type="application/octet-stream")
    assert _result(_end("t", pb.TASK_STATE_SUCCEEDED, result=raw)) == b"1"
    command = task_pb2.Result(ok=True, output=b"1\n", exit_code=0)
    assert _result(_end("t", pb.TASK_STATE_SUCCEEDED, result=command)) == b"1\n"


def test_ends_without_a_result():
    failed = task_pb2.Result(output=b"traceback", reason="ValueError: x")
    with pytest.raises(TaskFailed, match="task t failed: ValueError: x") as caught:
        _result(_end("t", pb.TASK_STATE_FAILED, reason="ValueError: x", result=failed))
    assert (caught.value.reason, caught.value.output) == ("ValueError: x", b"traceback")
    with pytest.raises(TaskCancelled):
        _result(_end("t", pb.TASK_STATE_CANCELLED))
    for state in (pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FINISHED_OR_UNKNOWN):
        with pytest.raises(ResultGone, match="keep_result"):
            _result(_end("t", state))


def test_a_result_is_waited_for_no_longer_than_asked():
    def late(_: Any) -> Failure:
        world_now[0] += 10
        return TIMED_OUT

    world_now = [0.0]
    world = World(late)
    world.session.clock = lambda: world_now[0]
    with pytest.raises(NotFinished, match="within 5 s") as caught:
        world.run(results.result(world.session, "t", limit_s=5, codecs=CODECS))
    assert isinstance(caught.value, TimeoutError)


def test_a_watch_that_stood_for_long_is_opened_again():
    world = World()

    def after_a_while(_: Any) -> Failure:
        world.now += 50
        return BROKE

    done = task_pb2.Result(ok=True, output=b"1")
    world.script = [after_a_while, NEVER_SENT, _end("t", pb.TASK_STATE_SUCCEEDED, result=done)]
    assert world.run(results.result(world.session, "t", limit_s=None, codecs=CODECS)) == 1


def test_the_time_that_a_result_is_waited_for_bounds_the_tries():
    world = World(*[NEVER_SENT] * 100, retries=None)
    with pytest.raises(Unreachable):
        world.run(results.result(world.session, "t", limit_s=120, codecs=CODECS))
    assert 118 < sum(world.pauses) < 120


def test_without_any_time_what_is_there_is_told():
    done = task_pb2.Result(ok=True, output=b"1")
    assert _result(_end("t", pb.TASK_STATE_SUCCEEDED, result=done), limit_s=0) == 1
    with pytest.raises(NotFinished, match="has not finished yet"):
        _result(_end("t", pb.TASK_STATE_RUNNING), limit_s=0)
