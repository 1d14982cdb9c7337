"""KEDA's contract of an external scaler, called as KEDA calls it: with a client generated from it, without headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from delaybox.core.scopes import Access, Token
from delaybox.wire.gen import externalscaler_pb2 as keda
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen.externalscaler_pb2_grpc import ExternalScalerStub
from tests.rpc import Rpc, refused, rpc_process
from tests.servers import RealServer

Code = grpc.StatusCode


def stub_of(rpc: Rpc) -> Any:
    made: Any = ExternalScalerStub  # generated without types
    return made(rpc.channel)


def ref(**metadata: str) -> keda.ScaledObjectRef:
    """As KEDA sends it: with the whole metadata of the trigger."""
    known = {"scalerAddress": "delaybox:9088", "caCert": "x", **metadata}
    return keda.ScaledObjectRef(name="mail", namespace="default", scalerMetadata=known)


@pytest.fixture
async def rpc(server: RealServer, prefix: str) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix) as made:
        yield made


def test_names_and_numbers_are_those_of_the_public_contract() -> None:
    assert keda.DESCRIPTOR.package == "externalscaler"
    (service,) = keda.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "externalscaler.ExternalScaler"
    assert {(m.name, m.input_type.name, m.output_type.name, m.server_streaming) for m in service.methods} == {
        ("IsActive", "ScaledObjectRef", "IsActiveResponse", False),
        ("StreamIsActive", "ScaledObjectRef", "IsActiveResponse", True),
        ("GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", False),
        ("GetMetrics", "GetMetricsRequest", "GetMetricsResponse", False),
    }
    fields = {
        message.name: {field.number: field.name for field in message.fields}
        for message in keda.DESCRIPTOR.message_types_by_name.values()
    }
    assert fields == {
        "ScaledObjectRef": {1: "name", 2: "namespace", 3: "scalerMetadata"},
        "IsActiveResponse": {1: "result"},
        "GetMetricSpecResponse": {1: "metricSpecs"},
        "MetricSpec": {1: "metricName", 2: "targetSize", 3: "targetSizeFloat"},
        "GetMetricsRequest": {1: "scaledObjectRef", 2: "metricName"},
        "GetMetricsResponse": {1: "metricValues"},
        "MetricValue": {1: "metricName", 2: "metricValue", 3: "metricValueFloat"},
    }


async def test_workers_are_needed_once_something_is_due_for_them(rpc: Rpc) -> None:
    stub = stub_of(rpc)
    mail = ref(queue="mail", targetPlaces="20", clear="1s")
    assert not (await stub.IsActive(mail)).result
    (spec,) = (await stub.GetMetricSpec(mail)).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("delaybox-places", 20, 20.0)
    asked = keda.GetMetricsRequest(scaledObjectRef=mail, metricName=spec.metricName)
    (value,) = (await stub.GetMetrics(asked)).metricValues
    assert (value.metricName, value.metricValue, value.metricValueFloat) == ("delaybox-places", 0, 0.0)

    stream = stub.StreamIsActive(mail)
    assert not (await stream.read()).result
    task = pb.NewTask(type=pb.TASK_TYPE_WORKER, name="send", queue="mail", payload=b"x")
    await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[task] * 200))
    # Pushed within some seconds, without a poll.
    assert (await stream.read()).result
    stream.cancel()
    assert (await stub.IsActive(mail)).result
    assert not (await stub.IsActive(ref(queue="reports", targetPlaces="20"))).result
    (value,) = (await stub.GetMetrics(asked)).metricValues
    # At least the backlog: 200 in 1 s, of 0.1 s each as assumed, at 0.7 use: 28.6 places, so two replicas of 20.
    assert value.metricValueFloat % 20 == 0 and value.metricValueFloat >= 40
    # The same as the node's own answer.
    answer = await rpc.scheduler.Scaling(pb.ScalingRequest(queue="mail", places=20, clear_ms=1_000))
    assert answer.needs[0].needed >= 2 and answer.needs[0].terms[0].backlog == 200


async def test_nodes_are_scaled_by_kind(rpc: Rpc) -> None:
    stub = stub_of(rpc)
    clocks = ref(kind="clock")
    (spec,) = (await stub.GetMetricSpec(clocks)).metricSpecs
    (value,) = (await stub.GetMetrics(keda.GetMetricsRequest(scaledObjectRef=clocks))).metricValues
    assert (spec.targetSizeFloat, value.metricName, value.metricValueFloat) == (1.0, "delaybox-places", 1.0)


async def test_wrong_metadata_is_refused_by_name(rpc: Rpc) -> None:
    stub = stub_of(rpc)
    for metadata, field in (
        ({"queue": "mail"}, "targetPlaces"),
        ({"queue": "mail", "targetPlaces": "0"}, "targetPlaces"),
        ({"queu": "mail", "targetPlaces": "1"}, "queu"),
        ({"queue": "a b", "targetPlaces": "1"}, "queue"),
        ({"kind": "kafka", "targetPlaces": "1"}, "kind"),
        ({"targetPlaces": "1", "lead": "soon"}, "lead"),
    ):
        answer = await refused(stub.IsActive(ref(**metadata)))
        assert (answer.status, answer.field) == (Code.INVALID_ARGUMENT, field), metadata


async def test_the_token_comes_in_the_metadata(server: RealServer, prefix: str) -> None:
    reader, other = "a-token-that-may-read-tasks", "a-token-that-may-schedule-only"
    tokens = (Token.of(reader, (Access.READ,)), Token.of(other, (Access.SCHEDULE,)))
    async with rpc_process(server=server.settings, prefix=prefix, tokens=tokens) as rpc:
        stub = stub_of(rpc)
        for call in (stub.IsActive, stub.GetMetricSpec):
            none = await refused(call(ref(targetPlaces="1")))
            assert none.status is Code.UNAUTHENTICATED and "tokenFromEnv" in none.text
            wrong = await refused(call(ref(targetPlaces="1", token="wrong-wrong-wrong-wrong")))
            assert wrong.status is Code.UNAUTHENTICATED
            assert (await refused(call(ref(targetPlaces="1", token=other)))).status is Code.PERMISSION_DENIED
            await call(ref(targetPlaces="1", tokenFromEnv=reader))
        asked = keda.GetMetricsRequest(scaledObjectRef=ref(targetPlaces="1"))
        assert (await refused(stub.GetMetrics(asked))).status is Code.UNAUTHENTICATED
        stream = stub.StreamIsActive(ref(targetPlaces="1"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
