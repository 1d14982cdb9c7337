"""What `@worker.task` makes of a function: its name, where it runs and how its failures are retried."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
import time
import typing
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from functools import partial
from types import MethodType, UnionType
from typing import Any, Final, Generic, ParamSpec, TypeVar

from delaybox.client.models import Retry
from delaybox.client.new_tasks import CODECS
from delaybox.client.values import policy_of, put_policy
from delaybox.core.retry import RetryPolicy
from delaybox.core.texts import head
from delaybox.otel import tracing
from delaybox.wire import calls as many
from delaybox.wire.call import BYTES, Call, Calls, Codecs, Outcomes, check_name
from delaybox.wire.calls import CallPart
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.context import Context, Running
from delaybox.worker.failures import MisfitArguments, Stopped, failure

_WORD = re.compile(r"[\w.]+")
P = ParamSpec("P")
R = TypeVar("R")

TURN_S: Final = 0.005
"""How long several calls of an async function may keep the event loop."""


class FunctionKind(Enum):
    """Where a function runs. Each kind has places of its own."""

    ASYNC = "async"
    THREAD = "thread"
    CPU = "cpu"


class TaskFunction(Generic[P, R]):
    """A function that a worker serves. Calling it calls the function, here and now.

    A client schedules it by this object or by its ``name``.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str = "",
        queue: str = "",
        kind: FunctionKind,
        retry: RetryPolicy | None = None,
        timeout_ms: int = 0,
        keep_result_ms: int = 0,
        result_type: str = "",
        codecs: Codecs | None = None,
    ) -> None:
        self.function = function
        self.name = check_name(name or getattr(function, "__name__", ""))
        self.queue = queue
        self.kind = kind
        self.retry = retry
        self.timeout_ms = timeout_ms
        self.keep_result_ms = keep_result_ms
        self.result_type = result_type
        self.codecs = codecs or CODECS
        self.context_parameter, self._context_at = _context_parameter(function)
        # wire.call.NAME_ATTRIBUTE and OPTIONS_ATTRIBUTE: a client reads these.
        self.delaybox_name = self.name
        options = {"queue": queue, "keep_result": timedelta(milliseconds=keep_result_ms)}
        self.delaybox_options = {option: value for option, value in options.items() if value}
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", self.name)
        self.__qualname__ = getattr(function, "__qualname__", self.name)
        self.__module__ = getattr(function, "__module__", "")
        self.__doc__ = function.__doc__
        if kind is FunctionKind.ASYNC:
            self._looks_async()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Makes it a method where it stands in a class, as a plain function is."""
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str:
        """Pickled as functions are: by module and name."""
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"

    def _looks_async(self) -> None:
        """For `inspect.iscoroutinefunction` and asyncio's, which frameworks and test runners ask."""
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)
            return
        inner = inspect.unwrap(self.function)
        # Until Python 3.12 they accept as a function whatever has all attributes of one.
        for name in ("__code__", "__defaults__", "__kwdefaults__", "__annotations__"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))
        self._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    def started(self, call: Call | Calls, run: Running) -> Any:
        """Calls the function with a task's arguments. MisfitArguments when they do not fit.

        Of several calls: their Outcomes, or a coroutine that returns them.
        """
        if tracing.spans is not None:
            from delaybox.worker.traced import started

            return started(tracing.spans, run.context, partial(self._started, call, run))
        # The usual call, without a step for it.
        return self._one(call, run) if type(call) is Call else self._started(call, run)

    def _started(self, call: Call | Calls, run: Running) -> Any:
        if isinstance(call, Calls):
            return self._awaited(call, run) if self.kind is FunctionKind.ASYNC else self._each(call, run)
        return self._one(call, run)

    def _each(self, calls: Calls, run: Running) -> Outcomes:
        parts: list[CallPart] = []
        for call in calls.calls:
            run.context.heartbeat()
            try:
                parts.append(self._part(self._one(call, run)))
            except Exception as error:  # noqa: BLE001 - one call that fails leaves the others alone
                parts.append(_failed(error))
        return Outcomes(parts, self.result_type)

    async def _awaited(self, calls: Calls, run: Running) -> Outcomes:
        parts: list[CallPart] = []
        since = time.monotonic()
        for call in calls.calls:
            if time.monotonic() - since > TURN_S:
                # Other work waits for the event loop, too.
                await asyncio.sleep(0)
                since = time.monotonic()
            run.context.heartbeat()
            try:
                value: Any = self._one(call, run)
                parts.append(self._part(await value))
            except Exception as error:  # noqa: BLE001 - as above
                parts.append(_failed(error))
        return Outcomes(parts, self.result_type)

    def _part(self, value: object) -> CallPart:
        encoded = self.codecs.result(value, self.result_type)
        return CallPart(many.BYTES if encoded.content_type == BYTES else many.VALUE, encoded.data)

    def _one(self, call: Call, run: Running) -> R:
        if self.context_parameter:
            at = self._context_at
            # The context is inserted at its position, or the arguments behind it would move up by one.
            if at is not None and len(call.args) >= at:
                call.args = (*call.args[:at], run.context, *call.args[at:])
                call.kwargs.pop(self.context_parameter, None)
            else:
                call.kwargs[self.context_parameter] = run.context
        try:
            return self.function(*call.args, **call.kwargs)
        except TypeError as error:
            # No frame below this one: the call itself raised it, and not the function's body.
            if error.__traceback__ is None or error.__traceback__.tb_next is None:
                raise self._misfit(call, error) from None
            raise
        except StopIteration as error:
            # Whoever steps through coroutines would take StopIteration for a normal end.
            raise RuntimeError(f"{self.name} raised StopIteration") from error

    def _misfit(self, call: Call, error: TypeError) -> TypeError:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return error
        try:
            signature.bind(*call.args, **call.kwargs)
        except TypeError as why:
            hint = ""
            if "." in self.__qualname__.rpartition("<locals>.")[2] and next(iter(signature.parameters), "") == "self":
                hint = (
                    "; it is a method, and a worker has no object to call it on: make it a staticmethod, or a function "
                    "of the module"
                )
            return MisfitArguments(f"the arguments do not fit {self.name}{_shown(signature)}: {why}{hint}")
        return error

    def described(self, queues: list[str]) -> pb.Function:
        """As `Hello` lists it."""
        description = pb.Function(name=self.name, queues=queues, queue=self.queue, keep_result_ms=self.keep_result_ms)
        if self.retry is not None:
            put_policy(description.retry, self.retry)
        return description

    def home(self) -> tuple[str, str, str]:
        """How another process finds it: (module or "", file or "", qualified name). ValueError when it cannot."""
        if "<locals>" in self.__qualname__ or "<lambda>" in self.__qualname__:
            raise ValueError(
                f"task {self.name!r} runs in processes of its own, which import it; {self.__qualname__} is inside a "
                "function: move it to the top of a module"
            )
        if self.__module__ != "__main__":
            return self.__module__, "", self.__qualname__
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            return spec.name, "", self.__qualname__
        file = getattr(main, "__file__", None)
        if not file:
            raise ValueError(f"task {self.name!r} runs in processes of its own, which import it; put it into a file")
        return "", os.path.abspath(file), self.__qualname__  # noqa: PTH100 - links stay as they are


def _failed(error: Exception) -> CallPart:
    if isinstance(error, Stopped):
        raise error
    return CallPart(many.FAILED, failure(error).SerializeToString())


def kind_of(function: Callable[..., Any], *, cpu: bool) -> FunctionKind:
    """The kind of place where a function runs. TypeError for what cannot be a task."""
    if not callable(function):
        raise TypeError(f"{function!r} cannot be a task: it is not callable")
    target = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise TypeError(f"{function!r} cannot be a task: it is a generator; return a value (a list) instead")
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(function):
        if cpu:
            raise TypeError(
                f"{function!r} is async: cpu=True is for plain functions, which run in processes of their own"
            )
        return FunctionKind.ASYNC
    return FunctionKind.CPU if cpu else FunctionKind.THREAD


def policy(retries: int | Retry | None) -> RetryPolicy | None:
    """``retries``: attempts after the first, or a whole policy. None: the task's own counts, else the node's."""
    return None if retries is None else policy_of("retries", retries)


def _shown(signature: inspect.Signature) -> str:
    """The signature for people. The repr of defaults may be long, or raise."""
    try:
        return head(str(signature), 500)
    except Exception:  # noqa: BLE001 - whatever a default's __repr__ raises
        return head(f"({', '.join(signature.parameters)})", 500)


def _context_parameter(function: Callable[..., Any]) -> tuple[str, int | None]:
    """(name, place) of the parameter that is annotated as `Context`, or as an optional one; ("", None): there is none.

    place: how many positional ones stand before it; None when it can be given by name alone.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "", None
    if not any(parameter.annotation is not parameter.empty for parameter in parameters):
        return "", None
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation that only a type checker can resolve: go by the words
        hints = {}
    for at, parameter in enumerate(parameters):
        if _is_context(hints.get(parameter.name, parameter.annotation)):
            positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            return parameter.name, at if positional else None
    return "", None


def _is_context(hint: object) -> bool:
    """`Context`, or a choice that includes it, as a type or in words."""
    if hint is Context:
        return True
    if isinstance(hint, str):
        return any(word.rpartition(".")[2] == Context.__name__ for word in _WORD.findall(_no_arguments(hint)))
    if typing.get_origin(hint) is typing.Annotated:
        return _is_context(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return any(_is_context(one) for one in typing.get_args(hint))
    return False


def _no_arguments(words: str) -> str:
    """Whether an annotation allows a context: ``Optional[Context]`` and ``Annotated[Context, ...]`` do,
    ``list[Context]`` not."""
    outer, bracket, inner = words.strip().partition("[")
    if not bracket:
        return words
    return inner if outer.rpartition(".")[2] in ("Optional", "Union", "Annotated") else outer
