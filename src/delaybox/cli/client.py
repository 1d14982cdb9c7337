"""Calls a node over HTTP for the commands: one kept connection, and errors that explain what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from delaybox import __version__
from delaybox.cli.exits import Exit, of_status
from delaybox.core.errors import ConfigError, DelayBoxError

if TYPE_CHECKING:
    import http.client

# http.client and ssl are imported by the first call: every `delaybox --help` loads this module.

DEFAULT_SERVER = "http://127.0.0.1:8088"
LATER = frozenset({429, 502, 503, 504})
"""Answers of a node, or of a proxy whose nodes are away, that another try may mend."""
TIMEOUT_S = 30.0
"""A node whose store hangs answers 503 after some 15 s."""
_NAMED = "--server (or DELAYBOX_SERVER)"
_MAX_ANSWER = 256 * 1024 * 1024

Query = Mapping[str, object]


class NodeUnreachable(DelayBoxError):
    """No answer came. ``sent``: the call may have been carried out all the same."""

    code = "unreachable"
    exit = Exit.NO_SERVER

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class NodeRefused(DelayBoxError):
    """The node answered with an error. ``code`` is the node's; ``detail`` its message, without our additions."""

    def __init__(
        self, status: int, code: str, detail: str, *, mend: str = "", field: str = "", retry_after_s: float = 1.0
    ) -> None:
        super().__init__(f"{detail}{mend}")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.exit = of_status(status)


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """An HTTP answer; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RestClient:
    """Calls to one node. Keeps a connection; not for several threads."""

    def __init__(self, server: str, token: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        """``server``: a URL with the node's contextPath, or host:port. ConfigError when it is neither."""
        url = server if "://" in server else f"http://{server}"
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{_NAMED} is {server!r}: {error}; write http://host:8088") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or " " in url.strip():
            raise ConfigError(f"{_NAMED} is {server!r}; write http://host:8088, and the contextPath if there is one")
        if parts.username or parts.password:
            raise ConfigError(f"{_NAMED} holds a user or password; leave it out and set DELAYBOX_TOKEN")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the token (--token or DELAYBOX_TOKEN) holds characters that no token has")
        self.tls = parts.scheme == "https"
        self.host = host
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.has_token = bool(token)
        self._port = port or (443 if self.tls else 80)
        self.root = self._root = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"User-Agent": f"delaybox-cli/{__version__}", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection | None = None

    # -- calls --------------------------------------------------------------------------------------------------

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON of a GET; errors as `call`."""
        return self.call("GET", path, query=query)

    def call(self, method: str, path: str, body: object = None, *, query: Query | None = None) -> Any:
        """The JSON that a path under the contextPath answers, None where it is empty. Unreachable, Refused."""
        data = None if body is None else json.dumps(body).encode()
        return self.send(method, path, data, query=query)

    def send(self, method: str, path: str, data: bytes | None, *, query: Query | None = None) -> Any:
        """As `call`, with a body that is JSON already."""
        answer = self.raw(method, self._root + path + _query(query), data)
        if answer.status >= 400:
            raise self.refusal(answer)
        return self._json(answer) if answer.body else None

    def stream(self, path: str, query: Query, *, quiet_s: float) -> Iterator[tuple[str, str]]:
        """(id, data) of each server-sent event, "" where it has none; ends with the stream, or when nothing came for
        ``quiet_s``. Unreachable, Refused."""
        import http.client

        headers = {**self._headers, "Accept": "text/event-stream"}
        connection = self._connect()
        try:
            connection.request("GET", self._root + path + _query(query), headers=headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise self.refusal(NodeAnswer(response.status, {}, response.read(_MAX_ANSWER)))
            if connection.sock is not None:
                connection.sock.settimeout(quiet_s)
            else:
                # The connection is the answer's alone, because the answer has no length.
                response.fp.raw._sock.settimeout(quiet_s)  # type: ignore[attr-defined]
            event_id = data = ""
            for raw in response:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if not line:
                    yield event_id, data
                    event_id = data = ""
                elif line.startswith("id:"):
                    event_id = line[3:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def probe(self, path: str) -> NodeAnswer:
        """A GET at the root of the server, outside the contextPath (/livez, /metrics), whatever it answers."""
        return self.raw("GET", path, None)

    def metrics(self) -> str:
        """The node's /metrics. Unreachable, Refused."""
        answer = self.probe("/metrics")
        if answer.status == 404:
            why = "; they are one node's, so proxies hide them"
            mend = f"{why}: name the node itself with {_NAMED}, such as http://node1:8088"
            raise NodeRefused(404, "no_metrics", f"{self.url} shows no /metrics", mend=mend)
        if answer.status != 200:
            raise self.refusal(answer)
        return answer.body.decode("utf-8", "replace")

    def raw(self, method: str, target: str, data: bytes | None) -> NodeAnswer:
        """One exchange. Unreachable."""
        import http.client

        headers = dict(self._headers)
        if data is not None:
            headers["Content-Type"] = "application/json"
        kept = self._connection is not None
        try:
            return self._exchange(method, target, data, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            # A kept connection may have been closed long ago; only a new one shows how the node is.
            if kept and method == "GET":
                return self.raw(method, target, data)
            raise self._unreachable(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None

    def _exchange(self, method: str, target: str, data: bytes | None, headers: dict[str, str]) -> NodeAnswer:
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
            body = response.read(_MAX_ANSWER)
        except BaseException:
            self.close()
            raise
        return NodeAnswer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _connect(self) -> http.client.HTTPConnection:
        import http.client
        import ssl

        connection = (
            http.client.HTTPSConnection(
                self.host, self._port, timeout=self._timeout_s, context=ssl.create_default_context()
            )
            if self.tls
            else http.client.HTTPConnection(self.host, self._port, timeout=self._timeout_s)
        )
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error, sent=False) from None
        return connection

    def close(self) -> None:
        """Harmless when repeated."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- errors -------------------------------------------------------------------------------------------------

    def _unreachable(self, error: Exception, *, sent: bool = True) -> NodeUnreachable:
        """``sent``: there was a connection, so the call may have reached the node."""
        import http.client
        import ssl

        match error:
            case ssl.SSLCertVerificationError():
                text = f"the certificate of {self.url} is not trusted ({error.verify_message}); "
                return NodeUnreachable(f"{text}name the authority's file in SSL_CERT_FILE")
            case ssl.SSLError():
                return NodeUnreachable(f"{self.url} does not speak TLS as it should ({error.reason}); is it http://?")
            case TimeoutError() if sent:
                return NodeUnreachable(
                    f"{self.url} took the call and did not answer within {self._timeout_s:g} s; `delaybox doctor` "
                    "looks for the reason",
                    sent=True,
                )
            case http.client.HTTPException() if not isinstance(error, ConnectionError):
                return NodeUnreachable(
                    f"what answers at {self.url} is not HTTP; name the node with {_NAMED}", sent=sent
                )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if not sent:
            return NodeUnreachable(
                f"no node answers at {self.url} ({reason}); start one with `delaybox serve`, or name the right one "
                f"with {_NAMED}"
            )
        return NodeUnreachable(f"the connection to {self.url} broke before the answer came ({reason})", sent=True)

    def refusal(self, answer: NodeAnswer) -> NodeRefused:
        """The exception for an error answer, with advice for the person at this terminal."""
        problem = _object(answer.body)
        code = str(problem.get("code") or "")
        detail = str(problem.get("detail") or problem.get("error") or problem.get("title") or "")
        if not detail:
            text = answer.body[:200].decode("utf-8", "replace").strip()
            detail = f"{self.url} answered {answer.status}" + (f": {text}" if text and "<" not in text else "")
        return NodeRefused(
            answer.status,
            code or f"http_{answer.status}",
            detail,
            mend=self._mend(answer.status, code, known=bool(problem)),
            field=str(problem.get("field") or ""),
            retry_after_s=_seconds(answer.headers.get("retry-after", "")),
        )

    def _mend(self, status: int, code: str, *, known: bool) -> str:
        if status == 401:
            return "; here it comes from --token or DELAYBOX_TOKEN" + ("" if self.has_token else ", and neither is set")
        if status == 403 and "scope" in code:
            return "; `delaybox token --scope …` makes one that has it"
        if status in (404, 405) and code not in ("not_found", "finished_or_unknown"):
            where = "" if known else " (what answers there may not be DelayBox)"
            return f"{where}; does {_NAMED} end with the node's contextPath, and is the node as new as this command?"
        return ""

    def _json(self, answer: NodeAnswer) -> Any:
        try:
            return json.loads(answer.body)
        except ValueError:
            raise NodeUnreachable(
                f"{self.url} answered {answer.status}, but not as DelayBox does; name the node with {_NAMED}", sent=True
            ) from None


def segment(text: str) -> str:
    """One part of a path: an id or the name of a queue. ConfigError for none."""
    if not text:
        raise ConfigError("an id or name is empty; give it (is a variable of the shell not set?)")
    return quote(text, safe="")


def _query(query: Query | None) -> str:
    """Leaves None out; a list is a name given several times."""
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, str(one)) for one in values if one is not None]
    return f"?{urlencode(pairs)}" if pairs else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(text: str) -> float:
    return min(float(text), 30.0) if text.isascii() and text.isdigit() else 1.0
