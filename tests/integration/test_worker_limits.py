"""A worker behind something that takes less than the contract says: its stream goes on, the task fails in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import Worker
from tests.waiting import PATIENCE_S

LIMIT = 200_000


class Narrow(grpc.GenericRpcHandler):
    """A node's part, spoken by hand, on a server that refuses messages past 200 kB."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[pb.Failed] = asyncio.get_running_loop().create_future()
        self.streams = 0
        self._seen = 0
        self._sent = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self.work, pb.FromWorker.FromString, pb.ToWorker.SerializeToString)

    async def work(self, requests: AsyncIterator[pb.FromWorker], context: object) -> AsyncIterator[pb.ToWorker]:
        first = await anext(requests)
        self.streams += 1
        welcome = pb.Welcome(
            session="s", resumed=first.hello.session == "s", heartbeat_ms=60_000, resume_ms=60_000, max_output=1 << 20
        )
        yield pb.ToWorker(welcome=welcome, seen=self._seen)
        async for message in requests:
            self._seen = message.number
            if message.credit and not self._sent:
                self._sent = 1
                task = pb.Assignment(sequence=1, id="id", name="large", want_result=True)
                yield pb.ToWorker(number=1, tasks=[task], seen=self._seen)
            for failed in message.failed:
                if not self.failed.done():
                    self.failed.set_result(failed)


async def test_a_result_that_something_on_the_way_refuses_fails_its_task_and_the_stream_goes_on() -> None:
    narrow = Narrow()
    server = grpc.aio.server(handlers=[narrow], options=[("grpc.max_receive_message_length", LIMIT)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    worker = Worker("w", servers=f"127.0.0.1:{port}", grace="1s")

    @worker.task
    async def large() -> str:
        return "x" * 500_000

    try:
        async with worker.running():
            failed = await asyncio.wait_for(narrow.failed, PATIENCE_S)
            assert failed.final and "result of 500002 bytes cannot be sent" in failed.reason
            assert "larger than max" in failed.reason
            assert narrow.streams == 3, "refused twice, then said in words"
    finally:
        await server.stop(0)
