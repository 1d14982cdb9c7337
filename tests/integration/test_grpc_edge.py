"""The edge of the gRPC process: reflection, health, tokens, TLS, deadlines, limits, and requests of any kind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delaybox.api import call_scopes
from delaybox.core.scopes import Access, Token
from delaybox.processes.spawn import ChildFailed
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.rpc import Refused, Rpc, refused, rpc_process
from tests.servers import RealServer
from tests.spent import Spent
from tests.tls import Certificates
from tests.waiting import PATIENCE_S

Code = grpc.StatusCode
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ID = "018f0000-0000-8000-8000-000000000000"
DENIED = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED)
STREAMS_BOTH_WAYS = {"ScheduleStream", "Work", "Session", "ServerReflectionInfo"}


@pytest.fixture
async def rpc(server: RealServer, prefix: str) -> AsyncIterator[Rpc]:
    async with rpc_process(server=server.settings, prefix=prefix) as found:
        yield found


async def ask(channel: Any, method: str, request: bytes = b"", token: str | None = None, timeout: float = 20) -> bytes:
    """Any method with any bytes: its first answer. Of a stream both ways one request is sent."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    if method.rpartition("/")[2] in STREAMS_BOTH_WAYS:
        call: Any = channel.stream_stream(method)(iter([request]), metadata=metadata, timeout=timeout)
    else:
        call = channel.unary_stream(method)(request, metadata=metadata, timeout=timeout)
    try:
        found: bytes = await call.read()
    except grpc.aio.AioRpcError as error:
        if error.details() == _LOST_BY_CLIENT:
            return await ask(channel, method, request, token, timeout)
        raise
    return found


_LOST_BY_CLIENT = "Internal error from Core"
"""What grpc.aio's client says where the refusal came before it had sent the request: the status that came is lost."""


# -- reflection -----------------------------------------------------------------------------------------------------


class Generic:
    """A client that knows nothing but reflection."""

    def __init__(self, channel: Any, name: str) -> None:
        self._channel = channel
        self._info = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        self.pool = DescriptorPool()

    async def _one(self, **asked: Any) -> Any:
        call = self._info(iter([reflection_pb2.ServerReflectionRequest(**asked)]))
        return await call.read()

    async def services(self) -> set[str]:
        answer = await self._one(list_services="")
        return {service.name for service in answer.list_services_response.service}

    async def learn(self, **asked: str) -> None:
        answer = await self._one(**asked)
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            described = FileDescriptorProto.FromString(raw)
            for needed in described.dependency:
                await self.learn(file_by_filename=needed)
            self.pool.Add(described)

    async def call(self, service: str, method: str, **fields: Any) -> Any:
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        answer = GetMessageClass(found.output_type)
        call: Any = self._channel.unary_unary(
            f"/{service}/{method}", lambda message: message.SerializeToString(), answer.FromString
        )
        return await call(GetMessageClass(found.input_type)(**fields))


@pytest.mark.parametrize("name", ["grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"])
async def test_a_generic_client_lists_describes_schedules_and_gets(rpc: Rpc, name: str):
    client = Generic(rpc.channel, name)
    assert {"delaybox.v1.Scheduler", "delaybox.v1.Worker", "grpc.health.v1.Health"} <= await client.services()
    await client.learn(file_containing_symbol="delaybox.v1.Scheduler")
    task = {"payload": b"hello", "delay_ms": 60_000, "queue": "mail"}
    stored = await client.call("delaybox.v1.Scheduler", "Schedule", task=task)
    found = await client.call("delaybox.v1.Scheduler", "Get", id=stored.id)
    assert (found.payload, found.queue) == (b"hello", "mail")


async def test_reflection_can_be_turned_off(server: RealServer, prefix: str):
    async with rpc_process(server=server.settings, prefix=prefix, reflection=False) as rpc:
        for name in ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"):
            # Not as a stream: grpc's client sometimes calls it INTERNAL when the refusal comes before it has sent.
            ask: Any = rpc.channel.unary_unary(f"/{name}/ServerReflectionInfo")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(b"")
            assert error.value.code() is Code.UNIMPLEMENTED


# -- health ---------------------------------------------------------------------------------------------------------


async def test_health_tells_when_redis_is_away_and_back(make_server: Callable[..., RealServer]):
    own = make_server("--appendonly", "yes")
    async with rpc_process(server=own.settings) as rpc:
        check: Any = rpc.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        watch: Any = rpc.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(service="delaybox.v1.Scheduler"))
        assert (await watch.read()).status == SERVING
        own.kill()
        assert (await watch.read()).status == NOT_SERVING
        assert (await check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        answer = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask())))
        assert (answer.status, answer.code, answer.retry_after_ms) == (Code.UNAVAILABLE, "store_unavailable", 1_000)
        own.start()
        assert (await watch.read()).status == SERVING
        unknown = health_pb2.HealthCheckResponse.FromString(
            await ask(rpc.channel, "/grpc.health.v1.Health/Watch", b"\x0a\x01x")
        )
        assert unknown.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_a_process_that_starts_without_redis_says_so_and_opens_the_store_later(
    make_server: Callable[..., RealServer],
):
    own = make_server()
    own.kill()
    async with rpc_process(server=own.settings) as rpc:
        answer = await refused(rpc.scheduler.CancelMany(pb.CancelManyRequest(selection=pb.Selection(all=True))))
        assert (answer.status, answer.code) == (Code.UNAVAILABLE, "store_unavailable")
        assert (await refused(rpc.scheduler.Watch(pb.WatchRequest(ids=[ID])))).status is Code.UNAVAILABLE
        own.start()
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                await rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask(delay_ms=60_000)))
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is Code.UNAVAILABLE and time.monotonic() < give_up


# -- tokens ---------------------------------------------------------------------------------------------------------


def token(*scopes: Access) -> str:
    return "token-with-" + ("-".join(scopes) or "nothing")


async def test_every_method_against_every_kind_of_caller(server: RealServer, prefix: str):
    grants = [(), *((scope,) for scope in Access)]
    tokens = tuple(Token.of(token(*grant), grant) for grant in grants)
    wrong = "wrong-wrong-wrong-wrong"
    async with rpc_process(server=server.settings, prefix=prefix, tokens=tokens) as rpc:
        assert len(call_scopes.GRPC_RULES) > 20
        for method, rule in call_scopes.GRPC_RULES.items():
            for given in (None, wrong, *(token(*grant) for grant in grants)):
                if rule is call_scopes.WithoutToken.IN_MESSAGE:
                    continue  # see test_external_scaler
                allowed = isinstance(rule, call_scopes.WithoutToken) or given == token(rule)
                if allowed and method.endswith(("/Work", "Health/Watch")):
                    continue  # they would wait for ever
                answer = None
                try:
                    await ask(rpc.channel, method, token=given)
                except grpc.aio.AioRpcError as error:
                    answer = Refused(error)
                if allowed:
                    assert answer is None or answer.status not in DENIED, (method, given)
                    continue
                assert answer is not None, (method, given)
                if given in (None, wrong):
                    wanted = (Code.UNAUTHENTICATED, "unauthenticated")
                else:
                    wanted = (Code.PERMISSION_DENIED, "scope_missing")
                assert (answer.status, answer.code) == wanted, (method, given)


async def test_a_command_needs_the_scope_shell_as_well(server: RealServer, prefix: str):
    plain, both = (Access.SCHEDULE,), (Access.SCHEDULE, Access.SHELL)
    tokens = (Token.of(token(*plain), plain), Token.of(token(*both), both))
    task = pb.NewTask(type=pb.TASK_TYPE_SHELL_CMD, payload=b"date", delay_ms=60_000)
    async with rpc_process(server=server.settings, prefix=prefix, tokens=tokens, shell=True) as rpc:
        metadata = [(("authorization", f"Bearer {token(*scopes)}"),) for scopes in (plain, both)]
        answer = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=task), metadata=metadata[0]))
        assert (answer.status, answer.code) == (Code.PERMISSION_DENIED, "scope_missing")
        await rpc.scheduler.Schedule(pb.ScheduleRequest(task=task), metadata=metadata[1])
        # What one caller may do is not remembered for another.
        for _ in range(2):
            for given, code in zip(metadata, ("scope_missing", ""), strict=True):
                batch = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[task]), metadata=given)
                assert batch.results[0].error.code == code


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def reaches(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    channel: Any = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        try:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.UNAVAILABLE
            return False
        return True


def trusting(authority: str, own: tuple[str, str] | None = None) -> grpc.ChannelCredentials:
    cert, key = (Path(path).read_bytes() for path in own) if own else (None, None)
    return grpc.ssl_channel_credentials(Path(authority).read_bytes(), key, cert)


async def test_tls(server: RealServer, prefix: str, certificates: Certificates):
    cert, key = certificates.server
    async with rpc_process(server=server.settings, prefix=prefix, cert_file=cert, key_file=key) as rpc:
        address = f"localhost:{rpc.process.port}"
        assert await reaches(address, trusting(certificates.ca))
        assert not await reaches(address, trusting(certificates.wrong_ca))
        assert not await reaches(address, None)


async def test_a_folder_that_lies_deep(server: RealServer, prefix: str, tmp_path: Path):
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    async with rpc_process(server=server.settings, prefix=prefix, counted_in=str(deep)) as rpc:
        assert await reaches(rpc.address, None)
        (own,) = (path for path in deep.iterdir() if path.is_dir())
        assert own.stat().st_mode & 0o777 == 0o700, "who could connect there would pass by the front"


async def test_client_certificates(server: RealServer, prefix: str, certificates: Certificates):
    cert, key = certificates.server
    files = {"cert_file": cert, "key_file": key, "client_ca_file": certificates.ca}
    async with rpc_process(server=server.settings, prefix=prefix, **files) as rpc:
        address = f"localhost:{rpc.process.port}"
        assert await reaches(address, trusting(certificates.ca, certificates.client))
        assert not await reaches(address, trusting(certificates.ca))
        assert not await reaches(address, trusting(certificates.ca, certificates.wrong_client))


async def test_files_that_cannot_be_used_are_named(server: RealServer, certificates: Certificates, tmp_path: Path):
    (tmp_path / "text").write_text("hello")
    cert, key = certificates.server
    for files, words in (
        ({"cert_file": str(tmp_path / "none"), "key_file": key}, "certFile names .*none"),
        ({"cert_file": cert, "key_file": str(tmp_path / "text")}, "keyFile names .*no PEM file"),
    ):
        with pytest.raises(ChildFailed, match=words):
            async with rpc_process(server=server.settings, **files):
                pass


# -- deadlines and limits -------------------------------------------------------------------------------------------


async def test_a_deadline_ends_the_call(make_server: Callable[..., RealServer]):
    own = make_server()
    async with rpc_process(server=own.settings) as rpc:
        os.kill(own.pid, signal.SIGSTOP)
        try:
            started = Spent(lambda: [rpc.process.pid])
            answer = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask()), timeout=0.5))
            assert answer.status is Code.DEADLINE_EXCEEDED
            assert started.s() < 4, "it did not wait for Redis"
        finally:
            os.kill(own.pid, signal.SIGCONT)


async def test_limits(server: RealServer, prefix: str):
    async with rpc_process(server=server.settings, prefix=prefix, payload_limit=1_000) as rpc:
        large = pb.NewTask(payload=b"x" * 1_001)
        answer = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=large)))
        assert (answer.status, answer.code, answer.field) == (Code.INVALID_ARGUMENT, "too_large", "task.payload")
        assert answer.metadata == {"limit": "1000"}
        (result,) = (await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=[large]))).results
        assert (result.error.code, result.error.field) == ("too_large", "payload")
        for count, code in ((0, "invalid_task"), (10_001, "too_large")):
            batch = pb.ScheduleBatchRequest(tasks=[pb.NewTask()] * count)
            answer = await refused(rpc.scheduler.ScheduleBatch(batch))
            assert (answer.status, answer.code, answer.field) == (Code.INVALID_ARGUMENT, code, "tasks")
        huge = pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=b"x" * 17_000_000)])
        assert (await refused(rpc.scheduler.ScheduleBatch(huge))).status is Code.RESOURCE_EXHAUSTED


WRONG = [
    ({"due_ms": 5}, "due_ms", "outside 10^11 to 10^14; give Unix milliseconds, or leave it out"),
    ({"due_ms": 1_700_000_000}, "due_ms", "looks like seconds"),
    ({"due_ms": 1_700_000_000_000_000}, "due_ms", "looks like microseconds"),
    ({"due_ms": 2**64 - 1}, "due_ms", ""),
    ({"delay_ms": 2**64 - 1}, "delay_ms", "317 years); give milliseconds"),
    ({"due_ms": 1_700_000_000_000, "reject_past": True}, "due_ms", "in the past"),
    ({"type": 9}, "type", "9 is not a task type"),
    ({"type": pb.TASK_TYPE_WORKER}, "name", "missing"),
    ({"type": pb.TASK_TYPE_WORKER, "name": "a b"}, "name", "A-Z"),
    ({"name": "f"}, "name", "pub_sub"),
    ({"queue": "A"}, "queue", "not a queue name"),
    ({"priority": 9}, "priority", "9 is not a priority"),
    ({"headers": {"a": b"x" * 100_000}}, "headers", "more than"),
    ({"labels": {str(n): "" for n in range(17)}}, "labels", "at most 16"),
    ({"labels": {"ä": ""}}, "labels", "not a label's name"),
    ({"idempotency_key": "k" * 257}, "idempotency_key", "257 bytes"),
    ({"retry": {"max_attempts": 1_001}}, "retry.max_attempts", "1001"),
    ({"retry": {"factor": 0.5}}, "retry.factor", "0.5"),
    ({"retry": {"factor": float("nan")}}, "retry.factor", "nan"),
    ({"retry": {"jitter": -1.0}}, "retry.jitter", "-1"),
    ({"retry": {"initial_ms": 10, "max_ms": 5}}, "retry.initial_ms", "more than"),
    ({"timeout_ms": 2**64 - 1}, "timeout_ms", ""),
    ({"expire_after_ms": 2**64 - 1}, "expire_after_ms", ""),
    ({"keep_result_ms": 2**64 - 1}, "keep_result_ms", ""),
]


async def test_every_wrong_field_is_named_alone_and_in_a_batch(rpc: Rpc):
    tasks = [pb.NewTask(**fields) for fields, _, _ in WRONG]  # type: ignore[arg-type]
    batch = await rpc.scheduler.ScheduleBatch(pb.ScheduleBatchRequest(tasks=tasks))
    for task, result, (_, field, words) in zip(tasks, batch.results, WRONG, strict=True):
        answer = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=task)))
        assert (answer.status, answer.field) == (Code.INVALID_ARGUMENT, f"task.{field}"), answer.text
        assert words in answer.text
        assert (result.error.field, result.error.message.split(" ms in")[1:]) == (
            field,
            answer.text.split(" ms in")[1:],
        )
    http = await refused(rpc.scheduler.Schedule(pb.ScheduleRequest(task=pb.NewTask(type=pb.TASK_TYPE_HTTP))))
    assert (http.status, http.code, http.field) == (Code.PERMISSION_DENIED, "type_disabled", "task.type")
    for call in (rpc.scheduler.Get(pb.GetRequest(id="x")), rpc.scheduler.Cancel(pb.CancelRequest())):
        answer = await refused(call)
        assert (answer.status, answer.field) == (Code.INVALID_ARGUMENT, "id")


METHODS = sorted(
    method
    for method in call_scopes.GRPC_RULES
    if method.startswith("/delaybox.v1.Scheduler/") and not method.endswith("Stream")
)
raw_fields = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 20), st.integers(0, 2**64 - 1)).map(lambda f: varint(f[0] << 3) + varint(f[1])),
        st.tuples(st.integers(1, 20), st.binary(max_size=40)).map(
            lambda f: varint(f[0] << 3 | 2) + varint(len(f[1])) + f[1]
        ),
        st.binary(max_size=6),
    ),
    max_size=6,
).map(b"".join)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(METHODS), inner=raw_fields, wrap=st.booleans())
async def test_no_request_is_our_fault(rpc: Rpc, method: str, inner: bytes, wrap: bool):
    """Whatever comes is answered or refused; nothing ends as INTERNAL or UNKNOWN."""
    request = b"\x0a" + varint(len(inner)) + inner if wrap else inner
    try:
        await ask(rpc.channel, method, request)
    except grpc.aio.AioRpcError as error:
        assert error.code() in (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.PERMISSION_DENIED), (
            method,
            request.hex(),
            error,
        )
