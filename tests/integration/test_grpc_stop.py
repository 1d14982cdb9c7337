"""A node that stops while calls come over gRPC."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import grpc

from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import scheduler_pb2_grpc as rpc
from tests.nodes import node
from tests.waiting import PATIENCE_S

CALLERS = 12


def test_calls_that_come_while_a_node_stops_are_known_not_to_be_done(tmp_path: Path) -> None:
    """They were ended as cancelled: no client knew whether to send them again, and most did not."""
    answered = [threading.Event() for _ in range(CALLERS)]
    ends: Counter[str] = Counter()

    with node("--http-port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"), folder=tmp_path) as stopped:

        def call(number: int) -> None:
            with grpc.insecure_channel(f"127.0.0.1:{stopped.grpc_port}") as channel:
                stub = rpc.SchedulerStub(channel)  # type: ignore[no-untyped-call]
                while True:
                    try:
                        stub.Queues(pb.QueuesRequest(), timeout=PATIENCE_S)
                    except grpc.RpcError as error:
                        ends[f"{error.code().name}: {error.details()}"] += 1
                        return
                    answered[number].set()

        callers = [threading.Thread(target=call, args=(n,)) for n in range(CALLERS)]
        for caller in callers:
            caller.start()
        for event in answered:
            assert event.wait(PATIENCE_S)
        stopped.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(PATIENCE_S)
        assert stopped.process.wait(PATIENCE_S) == 0
    assert sum(ends.values()) == CALLERS
    for words in ends:
        assert words.startswith("UNAVAILABLE") and ("error code 7" in words or "failed to connect" in words), ends
