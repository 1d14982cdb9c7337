"""A decorated function is used as the function was: as a method, pickled, asked if it is async, given a context."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import pickle
import pkgutil
import typing
from typing import Annotated, Any, Optional

import pytest

import delaybox
from delaybox.client import NotFinished, TaskFailed
from delaybox.core import errors
from delaybox.core.errors import DelayBoxError
from delaybox.worker import Context, Reject, RetryLater, Stopped, Worker
from delaybox.worker.functions import FunctionKind
from delaybox.worker.testing import Inline
from tests.crews import shift

WORKER = Worker("decorated")


@WORKER.task
async def waits(n: int) -> int:
    return n


@WORKER.task
def plain(n: int) -> int:
    return n


class Shop:
    """Its tasks stay methods for whoever has one."""

    rate = 3

    @WORKER.task
    def priced(self, n: int) -> int:
        return n * self.rate

    @staticmethod
    @WORKER.task
    def free(n: int) -> int:
        return n

    @classmethod
    @WORKER.task
    def named(cls, n: int) -> str:
        return f"{cls.__name__}{n}"


@WORKER.task
def first(ctx: Context, a: int, b: int = 0) -> list[Any]:
    return [ctx.name, a, b]


@WORKER.task
def middle(a: int, ctx: Context, *rest: int) -> list[Any]:
    return [a, ctx.name, *rest]


@WORKER.task
def only(ctx: Context, /, a: int) -> list[Any]:
    return [ctx.name, a]


@WORKER.task
def optional(a: int, ctx: Context | None = None) -> list[Any]:
    return [a, ctx and ctx.name]


@WORKER.task
def old_optional(a: int, ctx: Optional[Context] = None) -> list[Any]:  # noqa: UP045 - as many write it
    return [a, ctx and ctx.name]


@WORKER.task
def annotated(a: int, *, ctx: Annotated[Context, "told"]) -> list[Any]:
    return [a, ctx.name]


@WORKER.task
def unresolvable(a: Missing, ctx: Context | None = None) -> list[Any]:  # type: ignore[name-defined]  # noqa: F821
    return [a, ctx and ctx.name]


@WORKER.task
def others(a: int, ctx: list[Context] | None = None, b: Missing = None) -> list[Any]:  # type: ignore[name-defined]  # noqa: F821
    return [a, ctx, b]


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (first, (1, 2), ["first", 1, 2]),
        (first, {"a": 1}, ["first", 1, 0]),
        (middle, (1, 2, 3), [1, "middle", 2, 3]),
        (middle, {"a": 1}, [1, "middle"]),
        (only, (1,), ["only", 1]),
        (only, {"a": 1}, ["only", 1]),
        (optional, (1,), [1, "optional"]),
        (old_optional, (1,), [1, "old_optional"]),
        (annotated, (1,), [1, "annotated"]),
        (unresolvable, (1,), [1, "unresolvable"]),
        (others, (1,), [1, None, None]),
    ],
)
async def test_a_context_is_given_wherever_it_stands(function: Any, arguments: Any, result: Any) -> None:
    tasks = Inline(WORKER)
    sent = tasks.schedule(function, arguments)
    await tasks.advance_async()
    assert (sent.state, sent.result) == ("succeeded", result), sent.reason


async def test_too_many_arguments_are_still_told() -> None:
    tasks = Inline(WORKER)
    sent = tasks.schedule(first, (1, 2, 3))
    await tasks.advance_async()
    assert sent.state == "failed" and "too many positional arguments" in sent.reason


def test_a_decorated_method_stays_one() -> None:
    shop = Shop()
    assert (shop.priced(2), Shop.priced(shop, 2), Shop.free(2), shop.free(2)) == (6, 6, 2, 2)
    assert (Shop.named(1), shop.named(1)) == ("Shop1", "Shop1")
    assert shop.priced.delaybox_name == "priced"


async def test_a_method_run_by_a_worker_says_why_it_cannot_be() -> None:
    async with shift(WORKER, FunctionKind.THREAD) as s:
        given, free = s.give(("priced", [2]), ("free", [2]), want_result=True)
        reported = await s.until(given, free)
        assert reported.failed[given].final and "a worker has no object to call it on" in reported.failed[given].reason
        assert reported.succeeded[free].output == b"2"


def test_async_functions_are_still_seen_as_such() -> None:
    assert inspect.iscoroutinefunction(waits) and asyncio.iscoroutinefunction(waits)
    assert not inspect.iscoroutinefunction(plain) and not asyncio.iscoroutinefunction(plain)
    assert str(inspect.signature(waits)) == "(n: 'int') -> 'int'"
    assert asyncio.run(waits(3)) == 3


async def test_a_function_may_serve_two_workers() -> None:
    both = Worker("both")
    both.task(name="again")(waits)
    assert both.functions["again"].kind is FunctionKind.ASYNC
    tasks = Inline(both)
    sent = tasks.schedule("again", (4,))
    await tasks.advance_async()
    assert sent.result == 4


@pytest.mark.parametrize("function", [waits, plain, Shop.free])
def test_a_decorated_function_is_pickled_by_where_it_stands(function: Any) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function


def _kinds(root: type[BaseException]) -> set[type[BaseException]]:
    return {root}.union(*(_kinds(kind) for kind in root.__subclasses__()))


def _ours() -> list[type[BaseException]]:
    for module in pkgutil.walk_packages(delaybox.__path__, "delaybox."):
        # Main modules do something when they are imported, the scripts' folder is none of Python's.
        if not module.name.endswith("__main__") and ".gen." not in module.name:
            importlib.import_module(module.name)
    # Signals inside a node's process, which nobody else ever meets, are no DelayBoxErrors.
    users = tuple(f"delaybox.{package}." for package in ("client", "core", "wire", "worker"))
    found = (kind for kind in _kinds(Exception) if kind.__module__.startswith(users) or issubclass(kind, DelayBoxError))
    return sorted((kind for kind in found if "<" not in kind.__qualname__), key=lambda kind: kind.__qualname__)


def _made(kind: type[BaseException]) -> BaseException:
    given: dict[str, Any] = {}
    positional: list[Any] = []
    for p in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        value = {"int": 7, "bool": True, "bytes": b"b", "float": 2.5}.get(str(p.annotation), "text")
        if p.kind is p.KEYWORD_ONLY:
            given[p.name] = 1 if p.name == "after" else value
        elif p.kind is not p.VAR_KEYWORD:
            positional.append(value)
    return kind(*positional, **given)


def test_every_error_of_ours_goes_through_a_pool_of_processes() -> None:
    """One that pickle cannot make again ends the whole pool: BrokenProcessPool."""
    kinds = _ours()
    assert {DelayBoxError, errors.InvalidTask, TaskFailed, NotFinished, RetryLater, Reject, Stopped} <= set(kinds)
    for kind in kinds:
        error = _made(kind)
        error.add_note("a note")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.args, vars(again)) == (kind, str(error), error.args, vars(error))


def test_hints_are_read_as_they_are() -> None:
    assert typing.get_type_hints(waits)["n"] is int
