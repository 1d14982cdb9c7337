"""What is needed, as a whole node shows it: over REST and gRPC, by the command, in the metrics."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub
from tests.command import Command
from tests.nodes import node


def test_every_view_shows_the_same_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with node("--data-dir", str(tmp_path / "d"), "--http-port", "0", folder=tmp_path) as running:
        tasks = [{"delay": "5m", "type": "worker", "name": "send", "queue": "mail", "payload": "x"}] * 50
        tasks += [{"delay": "0s", "type": "worker", "name": "send", "queue": "mail", "payload": "x"}] * 40
        assert running.call("POST", "/v1/tasks/batch", {"tasks": tasks})[0] == 200

        # Nobody serves them, so they wait; what was stored at once is in the heartbeat within half a second.
        path = "/v1/scaling?queue=mail&places=2"
        (by_rest,) = running.until(
            lambda: [n for n in running.call("GET", path)[2]["needs"] if n["terms"] and n["terms"][0]["backlog"] == 40]
        )
        assert (by_rest["kind"], by_rest["queue"], by_rest["places_each"], by_rest["running"]) == (
            "worker",
            "mail",
            2,
            0,
        )
        term = by_rest["terms"][0]
        assert (term["name"], term["due"], term["measured"], term["service_ms"]) == ("mail:send", 0, False, 100.0)
        assert by_rest["needed"] >= 1

        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            stub = SchedulerStub(channel)  # type: ignore[no-untyped-call]
            answer = stub.Scaling(pb.ScalingRequest(queue="mail", places=2))
            assert answer.target_use == 0.7 and answer.lead_ms >= 30_000
            (by_grpc,) = answer.needs
            assert (by_grpc.kind, by_grpc.terms[0].name, by_grpc.terms[0].backlog) == ("worker", "mail:send", 40)
            assert [need.kind for need in stub.Scaling(pb.ScalingRequest()).needs] == ["clock", "grpc", "rest"]
            with pytest.raises(grpc.RpcError) as refused:
                stub.Scaling(pb.ScalingRequest(kind="kafka"))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        command = Command(monkeypatch, capsys)
        server = ("--server", f"http://127.0.0.1:{running.port}")
        by_command = command("scaling", "--queue", "mail", "--places", "2", "--json", *server).json()
        assert by_command["needs"][0]["terms"][0]["backlog"] == 40
        shown = command("scaling", *server).out
        assert all(word in shown for word in ("clock", "grpc", "rest", "needed", "running", "(assumed)"))
        assert "mail:send" in command("scaling", "--function", "send", *server).out
        assert "kind" in command("scaling", "--kind", "kafka", *server).err

        metrics = running.call("GET", "/metrics")[2].decode()
        for line in (
            'delaybox_forecast_due_tasks{window="10s"} 0.0',
            'delaybox_forecast_due_tasks{window="10m"} 50.0',
            'delaybox_needed_members{kind="clock"} 1.0',
            'delaybox_needed_members{kind="rest"} 1.0',
        ):
            assert line in metrics, line
