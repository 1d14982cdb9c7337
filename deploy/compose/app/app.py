"""The functions that deploy/compose/worker.yaml runs. Put yours in their place."""

from __future__ import annotations

from delaybox import Worker

worker = Worker("shop")


@worker.task(queue="mail", retries=3, timeout="30s", keep_result="1h")
async def remind(customer: str, *, order: int) -> str:
    return f"{customer}: order {order} waits for you"
