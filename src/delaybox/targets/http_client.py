"""The HTTP client of webhooks: resolves a name, checks every address, and connects to the address that was checked.

It follows no redirect, uses no proxy, and keeps connections for later requests to the same host and address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final

from delaybox.core.addresses import Address, literal
from delaybox.core.webhook import Url, WebhookRules
from delaybox.targets.http_connection import AnswerBroken, Connection, HttpAnswer

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""The addresses of a host name; OSError when it has none."""

_CONNECT_S: Final = 5.0
_KEEP_S: Final = 15.0
_MOST_IDLE: Final = 1_000
_NAMES_KEPT: Final = 1_000
_NAME_KEPT_S: Final = 5.0
_RESOLVING: Final = 64
"""Names that are looked up at once: those whose servers do not answer must leave room for the others."""

_Key = tuple[str, str, int, Address]


class NoAnswer(Exception):
    """No answer came; another attempt may get one."""


class Forbidden(Exception):
    """The host's name leads to an address to which nothing may be sent."""


class NotAcked(Exception):
    """Whoever was asked first said no, so nothing was sent."""


class SystemResolver:
    """Asks the system, in threads of its own, so that slow names hold up only names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="delaybox-resolver")

    async def __call__(self, host: str) -> Sequence[Address]:
        """See `Resolve`."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM
        )
        return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Does not wait for names that are being looked up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class HttpClient:
    """Sends requests where ``rules`` let it. ``resolve``: the system's resolver unless given."""

    def __init__(self, rules: WebhookRules, *, ca_file: str = "", resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._own = SystemResolver() if resolve is None else None
        self._resolve: Resolve = resolve or self._own  # type: ignore[assignment]
        self._names: OrderedDict[str, tuple[float, Sequence[Address]]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Sequence[Address]]] = {}
        self._idle: defaultdict[_Key, list[Connection]] = defaultdict(list)
        self._idle_count = 0
        self._tls = ssl.create_default_context()
        if ca_file:
            self._tls.load_verify_locations(ca_file)

    def close(self) -> None:
        """Closes idle connections."""
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()
        for asking in self._asking.values():
            asking.cancel()
        if self._own is not None:
            self._own.close()

    async def request(
        self,
        url: Url,
        data: bytes,
        max_body: int,
        *,
        head: bool = False,
        first: Callable[[], Awaitable[bool]] | None = None,
    ) -> HttpAnswer:
        """Sends a whole request to the URL's host. Forbidden, NoAnswer, NotAcked. The caller limits the time.

        With ``first`` it is sent once at most: on a connection of its own, because that one which was kept has ended is
        learnt only when the request was sent; and only where ``first``, which is called then, says so.
        """
        addresses = await self._addresses(url)
        for address in addresses if first is None else ():
            connection = self._take((url.scheme, url.host, url.port, address))
            if connection is None:
                continue
            try:
                return await self._carried(connection, url, address, data, max_body, head=head)
            except AnswerBroken as error:
                if not error.silent:
                    raise NoAnswer(str(error)) from None
                # The server closed it while it was idle; the request goes out on a new one.
            break
        connection, address = await self._connected(url, addresses)
        if first is not None:
            may = False
            try:
                may = await first()
            finally:
                if not may:
                    connection.close()
            if not may:
                raise NotAcked
        try:
            return await self._carried(connection, url, address, data, max_body, head=head)
        except AnswerBroken as error:
            raise NoAnswer(str(error)) from None

    async def _carried(
        self, connection: Connection, url: Url, address: Address, data: bytes, max_body: int, *, head: bool
    ) -> HttpAnswer:
        try:
            answer = await connection.request(data, max_body, head=head)
        except BaseException:
            connection.close()
            raise
        self._keep((url.scheme, url.host, url.port, address), connection)
        return answer

    async def _addresses(self, url: Url) -> Sequence[Address]:
        """The addresses of the host, every one of them checked. Forbidden, NoAnswer."""
        own = literal(url.host)
        found = [own] if own is not None else await self._looked_up(url.host)
        for address in found:
            if problem := self._rules.address_problem(url, address):
                raise Forbidden(problem)
        return found

    async def _looked_up(self, host: str) -> Sequence[Address]:
        now = asyncio.get_running_loop().time()
        known = self._names.get(host)
        if known is not None and now - known[0] < _NAME_KEPT_S:
            return known[1]
        asking = self._asking.get(host)
        if asking is None:
            # All that want the name now share one question, which outlives those that give up waiting.
            asking = self._asking[host] = asyncio.create_task(self._ask(host, now))
            asking.add_done_callback(lambda _: self._asking.pop(host))
            # Whoever waits gets the error; where nobody does any more, it is no news.
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(asking)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else ""
            raise NoAnswer(f"the name {host} cannot be resolved ({why or 'no such name'})") from None

    async def _ask(self, host: str, now: float) -> Sequence[Address]:
        found = await self._resolve(host)
        if not found:
            raise OSError(0, "it has no address")
        self._names[host] = (now, found)
        self._names.move_to_end(host)
        if len(self._names) > _NAMES_KEPT:
            self._names.popitem(last=False)
        return found

    async def _connected(self, url: Url, addresses: Sequence[Address]) -> tuple[Connection, Address]:
        """A new connection to one of the addresses. NoAnswer."""
        loop = asyncio.get_running_loop()
        problem = ""
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    _, connection = await loop.create_connection(
                        Connection,
                        str(address),
                        url.port,
                        ssl=self._tls if url.scheme == "https" else None,
                        server_hostname=url.host if url.scheme == "https" else None,
                    )
            except TimeoutError:
                problem = f"no connection to {url.place} within {_CONNECT_S:.0f} s"
            except ssl.SSLCertVerificationError as error:
                problem = f"the certificate of {url.place} is not valid: {error.verify_message}"
            except (OSError, ssl.SSLError) as error:
                problem = f"no connection to {url.place} ({error.strerror or type(error).__name__})"[:300]
            else:
                if connection.peer and ip_address(connection.peer) != address:
                    connection.close()
                    raise Forbidden(f"a connection to {address} ended at {connection.peer}; nothing was sent")
                return connection, address
        raise NoAnswer(problem)

    def _take(self, key: _Key) -> Connection | None:
        kept = self._idle.get(key)
        oldest = asyncio.get_running_loop().time() - _KEEP_S
        while kept:
            connection = kept.pop()
            self._idle_count -= 1
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        self._idle.pop(key, None)
        return None

    def _keep(self, key: _Key, connection: Connection) -> None:
        if not connection.open:
            connection.close()
            return
        if self._idle_count >= _MOST_IDLE:
            self._drop_idle()
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle[key].append(connection)
        self._idle_count += 1

    def _drop_idle(self) -> None:
        """Closes those that are too old, or, where none is, those of the host that was kept first."""
        oldest = asyncio.get_running_loop().time() - _KEEP_S
        for key in list(self._idle):
            fresh = [one for one in self._idle[key] if one.open and one.idle_since > oldest]
            for one in self._idle[key]:
                if one not in fresh:
                    one.close()
            if fresh:
                self._idle[key] = fresh
            else:
                del self._idle[key]
        self._idle_count = sum(map(len, self._idle.values()))
        if self._idle_count >= _MOST_IDLE:
            for one in self._idle.pop(next(iter(self._idle))):
                one.close()
                self._idle_count -= 1
