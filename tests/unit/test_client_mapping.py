"""What a map decides, without a node: its window, its watches, its groups."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from delaybox.client.chunks import LINGER_S
from delaybox.client.errors import (
    TaskFailed,
    Unreachable,
)
from delaybox.client.mapping import Map, MapWindow
from delaybox.client.new_tasks import CODECS, MapCalls
from delaybox.client.steps import Invoke
from delaybox.core.errors import (
    NotDecodable,
    NotEncodable,
)
from delaybox.wire.call import CONTENT_TYPE
from delaybox.wire.calls import RESULTS, CallPart, join, split
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2
from tests.client_world import NEVER_SENT, World, answer_of


def _window(size: int, *, ordered: bool = True, clock: Callable[[], float] = lambda: 0.0) -> MapWindow:
    flags = (threading.Event() for _ in range(3))
    return MapWindow(size, ordered=ordered, clock=clock, results=next(flags), room=next(flags), work=next(flags))


MAKE = MapCalls("double", {}, CODECS, keep_result_ms=1)


def test_a_window_gives_in_order_or_as_they_come():
    for ordered, first, then in ((True, [], ["a", "b"]), (False, ["b"], ["a"])):
        window = _window(2, ordered=ordered)
        for item in (1, 2):
            assert not window.full
            window.put(item, MAKE, 1)
        assert window.full
        window.finish([(1, "b")])
        assert window.take() == first
        window.finish([(0, "a")])
        assert window.take() == then and window.empty and not window.full


def test_tasks_of_a_map_leave_together():
    now = [0.0]
    window = _window(100, clock=lambda: now[0])
    assert window.linger_s() is None
    for item in range(5):
        window.put(item, MAKE, 2)
    assert window.next(3, MAKE, safe=False) is None and window.linger_s() == LINGER_S
    now[0] = LINGER_S
    found = window.next(3, MAKE, safe=False)
    assert found is not None
    assert [unit.numbers for unit in found[0]] == [(0, 1), (2, 3), (4,)]
    for item in range(6):
        window.put(item, MAKE, 1)
    found = window.next(3, MAKE, safe=False)
    assert found is not None and len(found[0]) == 3, "enough are there"
    window.end()
    found = window.next(10, MAKE, safe=False)
    assert found is not None and len(found[0]) == 3, "nothing more comes"


def test_an_item_that_cannot_be_sent_has_that_for_its_outcome():
    window = _window(100)
    for item in (1, object(), 2):
        window.put(item, MAKE, 5)
    window.end()
    found = window.next(10, MAKE, safe=False)
    assert found is not None and [unit.numbers for unit in found[0]] == [(0, 2)]
    window.finish([(0, "a"), (2, "c")])
    first, broken, third = window.take()
    assert (first, third) == ("a", "c") and isinstance(broken.error, NotEncodable)


def test_a_map_has_few_watches_however_slowly_its_items_come():
    window = _window(10_000)
    looked = 0
    for n in range(2_000):
        before = {id(watch): watch.changed for watch in window.watches}
        new, _ = window.watch([str(n)])
        for watch in window.watches:
            if watch is new or watch.changed != before.get(id(watch), False):
                looked += len(watch.ids)
                watch.changed = False
        assert len(window.watches) <= 6
    assert {task_id for watch in window.watches for task_id in watch.ids} == {str(n) for n in range(2_000)}
    assert looked < 100 * 2_000


def _mapped(world: World, count: int, *, fails: frozenset[int] = frozenset(), **options: Any) -> None:
    steps = Map(
        world.session,
        iter(range(count)),
        MAKE,
        _window(4, clock=lambda: world.now),
        chunk=2,
        codecs=CODECS,
        **{"return_exceptions": False, "chunksize": 1, "cancel_on_exit": True, **options},
    )

    def ends(effect: Any) -> pb.WatchResponse:
        out = pb.WatchResponse()
        for task_id in reversed(effect.stream.request.ids):
            if int(task_id[1:-1]) in fails:
                out.events.add(id=task_id, state=pb.TASK_STATE_FAILED, reason="odd")
            else:
                value = b"%d" % (2 * int(task_id[1:-1]))
                out.events.add(id=task_id, state=pb.TASK_STATE_SUCCEEDED, result={"ok": True, "output": value})
        return out

    world.script = [lambda effect: answer_of(effect) if isinstance(effect, Invoke) else ends(effect)] * 3 * count
    world.run(steps.steps())


def test_a_map_yields_in_order_in_windows():
    world = World()
    _mapped(world, 12)
    assert world.emitted == [2 * n for n in range(12)]


def test_an_item_that_failed_is_raised_after_those_before_it():
    world = World()
    with pytest.raises(TaskFailed, match="odd"):
        _mapped(world, 6, fails=frozenset({3}))
    assert world.emitted == [0, 2, 4]


def test_or_it_is_yielded_as_its_error():
    world = World()
    _mapped(world, 6, fails=frozenset({3}), return_exceptions=True)
    assert isinstance(world.emitted[3], TaskFailed) and world.emitted[4:] == [8, 10]


def test_a_group_that_failed_or_was_not_understood_is_taken_apart_or_named():
    """Two items a task: one group fails as a whole, one has an item that failed, one comes from a stranger, one is too
    large for a node."""
    odd = worker_pb2.Failed(reason="odd").SerializeToString()

    def stored(effect: Any) -> pb.ScheduleBatchResponse:
        out = pb.ScheduleBatchResponse()
        for task in effect.request.tasks:
            if b"[6]" in task.payload and task.headers.get(CONTENT_TYPE):
                out.results.add(error=pb.Error(code="too_large", message="too large for this node"))
                continue
            out.results.add(id=f"{len(given)}", created=True)
            given.append(task)
        return out

    def ends(effect: Any) -> pb.WatchResponse:
        out = pb.WatchResponse()
        for task_id in effect.stream.request.ids:
            task = given[int(task_id)]
            event = out.events.add(id=task_id, state=pb.TASK_STATE_SUCCEEDED)
            if CONTENT_TYPE not in task.headers:
                event.result.output = task.payload
                continue
            first = json.loads(split("it", task.payload)[0].data)[0]
            if first == 0:
                event.state = pb.TASK_STATE_FAILED
            elif first == 2:
                event.result.output = join([CallPart(0, b'"two"'), CallPart(2, odd)])
                event.result.content_type = RESULTS
            else:
                event.result.output = b"[4, 5]"
        return out

    given: list[pb.NewTask] = []
    world = World(*[lambda effect: stored(effect) if isinstance(effect, Invoke) else ends(effect)] * 30)
    steps = Map(
        world.session,
        iter(range(8)),
        MAKE,
        _window(100, clock=lambda: world.now),
        chunk=10,
        chunksize=2,
        codecs=CODECS,
        return_exceptions=True,
        cancel_on_exit=False,
    )
    world.run(steps.steps())
    zero, one, two, three, *strange, six, seven = world.emitted
    assert (zero, one, two, three, six, seven) == ([0], [1], "two", [3], [6], [7])
    assert all(isinstance(one, NotDecodable) and "use chunksize=1" in str(one) for one in strange) and len(strange) == 2


def test_what_concerns_all_of_a_map_is_raised():
    world = World(*[NEVER_SENT] * 6)
    steps = Map(
        world.session,
        iter(range(2)),
        MAKE,
        _window(4, clock=lambda: world.now),
        chunk=2,
        chunksize=1,
        codecs=CODECS,
        return_exceptions=True,
        cancel_on_exit=True,
    )
    with pytest.raises(Unreachable):
        world.run(steps.steps())
