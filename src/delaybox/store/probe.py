"""What DelayBox asks of a Redis or Valkey server before it trusts it with tasks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.core.errors import StoreRefused, StoreUnavailable
from delaybox.store import roundtrips
from delaybox.store.cluster import ServerCluster
from delaybox.store.loader import translate
from delaybox.store.primaries import gaps_in_words
from delaybox.store.sentinel import UnknownPrimary
from delaybox.store.slots import SLOTS

_LOG_IN = (
    "set storage.redisPass (and storage.redisUser where the server has ACL users), or write both into the server's URL"
)
_OWN_FILES = "storage.redisCertFile and storage.redisKeyFile (cert_file and key_file of a client or worker)"
# Runs only where scripts may carry flags (Redis 7.0) and have `struct`; both are what the store's scripts need.
_CLOCK_LOOKS = 5
_UNCOUNTED = "min-string-size-avoid-copy-reply"
_PROBE_SCRIPT = "#!lua flags=allow-oom\nreturn struct.pack('>I2', 1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFeatures:
    """What the server is and can do, found by trying it: version numbers mislead (Valkey 9 reports Redis 7.2.4)."""

    kind: Literal["redis", "valkey"]
    version: str
    waitaof: bool
    hexpire: bool
    cluster: bool
    aof: bool
    policy: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What one server reports of itself.

    ``place``: which one, where there are several. ``info``: INFO's fields, none where an ACL forbids it. ``fsync``,
    ``full_coverage``, ``min_replicas``: settings, empty where they are hidden from us; so is ``uncounted_from``, the
    size from which messages are not counted in a listener's output buffer. ``clock_offset_ms``: see that function.
    """

    place: str
    info: Mapping[str, Any]
    fsync: str
    full_coverage: str
    clock_offset_ms: float
    min_replicas: str = ""
    uncounted_from: str = ""


async def report(client: Redis, place: str, *, settings: bool = True) -> ServerReport:
    """Asks one server. ``settings``: also for its settings; a server whose ACL hides them notes each time that it was
    asked. RedisError or OSError."""
    info = await info_of(client)
    names = ("appendfsync", "cluster-require-full-coverage", "min-replicas-to-write", _UNCOUNTED)
    fsync, full_coverage, *more = [await _setting(client, name) if settings else "" for name in names]
    offset_ms = await clock_offset_ms(roundtrips.of(client).send)
    return ServerReport(place, info, fsync, full_coverage, offset_ms, *more)


async def clock_offset_ms(send: Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]) -> float:
    """The server's clock minus this machine's, from the quickest of a few round trips. RedisError or OSError.

    0 where they differ by less than this can measure: probably it is one clock, and no task must seem early by it.
    """
    best, offset = float("inf"), 0.0
    for _ in range(_CLOCK_LOOKS):
        sent = time.time()
        (reply,) = await send([("TIME",)])
        if isinstance(reply, BaseException):
            raise reply
        answered = time.time()
        if answered - sent < best:
            best = answered - sent
            offset = (int(reply[0]) + int(reply[1]) / 1e6 - (sent + answered) / 2) * 1000
    return offset if abs(offset) > best * 1000 / 2 else 0.0


async def _setting(client: Redis, name: str) -> str:
    """A setting of the server; empty where it is hidden from us, or unknown to it."""
    (reply,) = await roundtrips.of(client).send([("CONFIG", "GET", name)])
    return next((value.decode() for value in reply.values()), "") if isinstance(reply, dict) else ""


async def probe_cluster(cluster: ServerCluster) -> ServerFeatures:
    """As `probe`, of all primaries: what the weakest of them can do. A cluster with slots that nobody serves is
    unavailable."""
    if gaps := cluster.uncovered():
        missing = sum(last + 1 - first for first, last in gaps)
        raise StoreUnavailable(
            f"the cluster serves only {SLOTS - missing} of {SLOTS} slots: no primary has the slots "
            f"{', '.join(gaps_in_words(gaps[:5]))}{' and more' if len(gaps) > 5 else ''}; bring the servers that had "
            "them back, or give the slots to others (`valkey-cli --cluster fix`)"
        )
    found: list[ServerFeatures] = []
    for link in cluster.links:
        try:
            found.append(await probe(link.client))
        except (StoreRefused, StoreUnavailable) as error:
            raise type(error)(f"{link}: {error}") from None
    return replace(
        found[0],
        cluster=True,
        aof=all(one.aof for one in found),
        waitaof=all(one.waitaof for one in found),
        hexpire=all(one.hexpire for one in found),
    )


async def probe(client: Redis) -> ServerFeatures:
    """Find out what the server can do.

    StoreRefused: it cannot be trusted with tasks (evicts keys, older than Redis 7.0's commands, a replica) or refuses
    us (password, ACL). StoreUnavailable: it does not answer, or still loads its data; try again.
    """
    try:
        info = await info_of(client)
        if int(info.get("loading", 0)):
            raise StoreUnavailable("the server is still loading its data")
        if info.get("role") not in (None, "master"):
            raise StoreRefused(
                f"the server is a read-only replica of {info.get('master_host')}:{info.get('master_port')}; "
                "point DelayBox at the primary"
            )
        policy = await _policy(client, info)
        if policy != "noeviction":
            raise StoreRefused(
                f"the server's maxmemory-policy is {policy}: it may throw tasks away when memory is short. Run "
                "`CONFIG SET maxmemory-policy noeviction` on it (and in its configuration file), or use another server"
            )
        await _try_scripts(client)
        commands = await _commands(client, "WAITAOF", "HEXPIRE")
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        if refusal := _unknown_name(error):
            raise StoreRefused(refusal) from None
        if refusal := _handshake_refusal(error):
            raise StoreRefused(f"the server at {_place(client)} refuses the connection: {refusal}") from None
        if refusal := _tls_refusal(error):
            raise StoreRefused(f"no TLS connection to the server at {_place(client)}: {refusal}") from None
        raise StoreUnavailable(f"the server does not answer: {error}{_tls_hint(client, error)}") from error
    except RedisError as error:
        if isinstance(error, BusyLoadingError) or str(error).startswith(("LOADING", "BUSY")):
            raise StoreUnavailable(f"the server is not ready: {error}") from None
        if isinstance(known := translate(error), StoreUnavailable | StoreRefused):
            raise known from None
        raise StoreRefused(f"the server refuses DelayBox: {_no_database(str(error)) or error}") from None
    valkey = info.get("valkey_version")
    return ServerFeatures(
        kind="valkey" if valkey or info.get("server_name") == "valkey" else "redis",
        version=str(valkey or info.get("redis_version", "")),
        waitaof="WAITAOF" in commands,
        hexpire="HEXPIRE" in commands,
        cluster=bool(int(info.get("cluster_enabled", 0))),
        aof=bool(int(info.get("aof_enabled", 0))),
        policy=policy,
        run_id=str(info.get("run_id", "")),
    )


async def info_of(client: Redis) -> Mapping[str, Any]:
    """INFO, or nothing where an ACL forbids it."""
    try:
        reply: Mapping[str, Any] = await client.info()
    except NoPermissionError:
        return {}
    return reply


async def _policy(client: Redis, info: Mapping[str, Any]) -> str:
    """The eviction policy. INFO is asked first, because managed servers forbid CONFIG."""
    if policy := info.get("maxmemory_policy"):
        return str(policy)
    try:
        reply = await client.execute_command("CONFIG GET", "maxmemory-policy")
        return str(next(iter(_text(part) for part in reply.values())))
    except (NoPermissionError, ResponseError, StopIteration, AttributeError):
        raise StoreRefused(
            "the server tells neither INFO nor CONFIG GET, so whether it evicts tasks is unknown; "
            "allow one of them to DelayBox's user (ACL SETUSER <user> +info)"
        ) from None


async def _try_scripts(client: Redis) -> None:
    try:
        await client.eval(_PROBE_SCRIPT, 0)
    except (NoPermissionError, RedisConnectionError, RedisTimeoutError):
        raise
    except ResponseError as error:
        if "Error compiling" not in str(error):
            raise
        raise StoreRefused(
            "the server cannot run DelayBox's scripts: it needs the commands of Redis 7.0 (or any Valkey)"
        ) from None


async def _commands(client: Redis, *names: str) -> frozenset[str]:
    """Which of ``names`` the server knows. Where an ACL forbids asking, none: they are optional."""
    try:
        entries = await client.execute_command("COMMAND INFO", *names)
    except ResponseError:
        return frozenset()
    return frozenset(name for name, entry in zip(names, entries, strict=True) if entry)


def _place(client: Redis) -> str:
    """Where the server is, without the user's name: of a URL that was mistyped that is the password."""
    options = client.connection_pool.connection_kwargs
    if "sentinels" in options:
        return str(options["sentinels"])
    return f"unix socket {options['path']}" if "path" in options else f"{options['host']}:{options['port']}"


def _tls_hint(client: Redis, error: BaseException) -> str:
    """What may be wrong with TLS where a server says nothing or hangs up; '' where nothing points to that."""
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return ""
    closed = "closed by server" in str(error) or "reset" in str(error)
    if "tls" not in options:
        return "; if it speaks TLS on this port, write rediss://, or set storage.redisTls" if closed else ""
    if closed:
        return f"; if it asks for a client certificate, give {_OWN_FILES}"
    if isinstance(error, RedisTimeoutError):
        # A server without TLS takes the greeting for the beginning of a command, and waits for the rest.
        return "; if it speaks no TLS on this port, give its TLS port, or redis:// instead of rediss://"
    return ""


def _unknown_name(error: BaseException) -> str | None:
    """What sentinels answer for a name that they do not know. Waiting does not mend this."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UnknownPrimary):
            return str(link)
        link = link.__cause__ or link.__context__
    return None


def _handshake_refusal(error: BaseException) -> str | None:
    """The server's error in the handshake (password, database), which redis-py wraps into a ConnectionError.

    Waiting does not mend these. A server that is only loading its data is another case: it becomes ready.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, AuthenticationError | ResponseError) and not isinstance(link, BusyLoadingError):
            text = str(link).removeprefix("WRONGPASS ").rstrip(".")
            if "HELLO must be called" in text:
                return f"a password is needed, and none is configured; {_LOG_IN}"
            if isinstance(link, AuthenticationError) or "WRONGPASS" in str(link):
                return f"{text}; {_LOG_IN}"
            return _no_database(text) or text
        link = link.__cause__ or link.__context__
    return None


def _no_database(text: str) -> str | None:
    if "SELECT" in text and "cluster" in text:
        return "a cluster has database 0 alone; set storage.redisDb to 0, or leave the number at the URL's end out"
    if "DB index" in text:
        return f"it has no such database ({text}); correct storage.redisDb, or the number at the URL's end"
    return None


def _tls_refusal(error: BaseException) -> str | None:
    """What is wrong with the certificates, theirs or ours. Waiting does not mend these."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({link.verify_message}); give the authority that signed it "
                "as storage.redisCaFile (ca_file of a client or worker), and the server by a name that its certificate "
                "has"
            )
        if isinstance(link, ssl.SSLError):
            reason = (link.reason or "").upper()
            if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
                return f"it asks for a client certificate; give {_OWN_FILES}"
            if "ALERT" in reason:
                return f"it does not accept our client certificate ({link.reason}); see {_OWN_FILES}"
            if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
                return "it does not speak TLS on this port; give its TLS port, or redis:// instead of rediss://"
        link = link.__cause__ or link.__context__
    return None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
