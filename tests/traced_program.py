"""A program with OpenTelemetry: a web application in FastAPI that schedules, and the worker of what it schedules."""

from __future__ import annotations

import logging
import os
from typing import Any

from fastapi import FastAPI
from opentelemetry import baggage, trace

from delaybox import AsyncClient, NewTask, Worker
from delaybox.client import AsyncHandle
from delaybox.worker import current

worker = Worker("traced")
log = logging.getLogger("shop.kitchen")


@worker.task(keep_result="1h")
async def greet(name: str) -> dict[str, Any]:
    return seen(name)


@worker.task(keep_result="1h")
def shout(name: str) -> dict[str, Any]:
    return seen(name)


@worker.task(keep_result="1h", cpu=True)
def square(name: str) -> dict[str, Any]:
    return seen(name)


@worker.task(retries=0)
async def fails() -> None:
    raise ValueError("canary")


def seen(name: str) -> dict[str, Any]:
    """What the code of a task finds: the span that is active, its baggage, and what it would pass on by itself."""
    span = trace.get_current_span().get_span_context()
    log.info("cooking %s", name, extra={"dish": name})
    return {
        "name": name,
        "trace": f"{span.trace_id:032x}",
        "span": f"{span.span_id:016x}",
        "baggage": baggage.get_baggage("user"),
        "passed": dict(current().trace),
    }


app = FastAPI()


@app.post("/orders")
async def order(function: str) -> dict[str, Any]:
    async with AsyncClient(os.environ["NODE"]) as client:
        one = await client.schedule(function, "one")
        answers = [answer async for answer in client.schedule_each([NewTask.call(function, "many")])]
        many = [answer.id for answer in answers if isinstance(answer, AsyncHandle)]
        results = [await client.result(task, timeout=30) for task in (one.id, *many)]
    return {"ids": [one.id, *many], "results": results}
