"""What `delaybox webhook listen` and `send` do; loaded when they are called."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import typer

from delaybox.cli import messages, options
from delaybox.cli.exits import Exit
from delaybox.core import ids, texts
from delaybox.core.errors import ConfigError
from delaybox.core.task import DEFAULT_QUEUE
from delaybox.core.webhook import METHODS, Webhook, WebhookRules, url_of
from delaybox.wire import webhook_signing

_SHOWN: Final = 2_000
_LONGEST_BODY: Final = 16 << 20
"""More than a node sends unless it is set so: a payload of 1 MiB is 1.4 MB within a structured event."""
_HERE: Final = ("localhost", "*.localhost")
_ANYWHERE: Final = WebhookRules(enabled=True, allow=("0.0.0.0/0", "::/0", *_HERE), ports=tuple(range(1, 65_536)))
"""The person at this machine may call whatever this machine reaches."""


def listen(
    port: int,
    host: str,
    secret: list[str] | None,
    status: int,
    retry_after: str | None,
    count: int,
    as_json: bool,
) -> None:
    """Prints each request that arrives, and checks its signature where there is a secret."""
    from delaybox.targets.http import retry_after_ms

    secrets = _checked(secret)
    if retry_after is not None and retry_after_ms(retry_after, 0) is None:
        raise ConfigError(
            f"--retry-after {texts.line(retry_after)[:40]!r} is no wait; give seconds, such as 5, or a date as HTTP "
            "writes it, such as 'Sun, 29 Nov 2026 12:00:00 GMT'"
        )
    messages.as_json = as_json
    done = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def handle_any(self) -> None:
            nonlocal done
            size = self.headers.get("content-length", "0")
            if not (size.isascii() and size.isdigit()) or int(size) > _LONGEST_BODY:
                self.send_error(413)
                return
            body = self.rfile.read(int(size))
            problem = _problem(body, dict(self.headers.items()), secrets)
            self.send_response(401 if problem and secrets else status)
            if retry_after is not None:
                self.send_header("retry-after", retry_after)
            self.send_header("content-length", "0")
            self.end_headers()
            _show(self.command, self.path, dict(self.headers.items()), body, problem, as_json=as_json)
            done += 1
            if done == count:
                # Not in this thread: it returns when the server has ended.
                threading.Thread(target=server.shutdown).start()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """What is worth knowing is printed above."""

    for method in METHODS:
        setattr(Handler, f"do_{method}", Handler.handle_any)
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; give another port") from None
    with server:
        where = f"http://{host}:{server.server_address[1]}"
        checks = "signatures are checked" if secrets else "without --secret no signature is checked"
        messages.note(f"listening on {where}; {checks}. Ctrl-C ends it")
        server.serve_forever(poll_interval=0.05)


def _problem(body: bytes, headers: dict[str, str], secrets: tuple[str, ...]) -> str:
    if not secrets:
        return "not checked"
    try:
        webhook_signing.verify(body, headers, secrets)
    except webhook_signing.NotVerified as error:
        return str(error)
    return ""


def _show(method: str, path: str, headers: dict[str, str], body: bytes, problem: str, *, as_json: bool) -> None:
    shown = body.decode("utf-8", "replace")
    if as_json:
        return messages.out_json(
            {"method": method, "path": path, "headers": headers, "body": shown, "verified": not problem, "why": problem}
        )
    lower = {name.lower(): value for name, value in headers.items()}
    attempt = lower.get("delaybox-attempt")
    verdict = "verified" if not problem else texts.line(problem)
    which = texts.line(lower.get(webhook_signing.ID, "no webhook-id"))
    which += f"  attempt {texts.line(attempt)}" if attempt else ""
    messages.out(f"{method} {texts.line(path)}  {which}  {verdict}")
    if body:
        messages.out(f"  {texts.line(shown[:_SHOWN])}")
    return None


def send(
    url: str,
    given: tuple[str | None, str | None, Path | None],
    method: str,
    header: list[str] | None,
    cloudevents: str | None,
    dry_run: bool,
    secret: list[str] | None,
    timeout: str,
    as_json: bool,
) -> None:
    """Sends a request as a node would send it, or only shows it. ``given``: the body as text, as JSON, or its file."""
    messages.as_json = as_json
    body, kind = _body(*given)
    headers = {name: value.encode() for name, value in options.pairs("--header", header).items()}
    if kind and not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = kind
    asked = _ANYWHERE.check(Webhook(url, method.upper(), cloudevents=cloudevents or ""), headers, body)
    timeout_ms = options.duration_ms("--timeout", timeout, least=1)
    now_ms = time.time_ns() // 1_000_000
    raw = _request(asked, headers, body, now_ms, _checked(secret))
    if dry_run:
        return (
            messages.out_json({"request": raw.decode("utf-8", "replace")})
            if as_json
            else messages.out(raw.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n"))
        )
    import asyncio

    status, answer, problem = asyncio.run(_send(asked, raw, timeout_ms))
    if problem:
        messages.error(problem)
        raise typer.Exit(Exit.NO_SERVER)
    if as_json:
        messages.out_json({"status": status, "body": answer})
    else:
        messages.out(f"{status}{f'  {texts.line(answer[:_SHOWN])}' if answer else ''}")
    if not 200 <= status < 300:
        raise typer.Exit(Exit.FAILED)
    return None


def _request(asked: Webhook, headers: dict[str, bytes], body: bytes, now_ms: int, secrets: tuple[str, ...]) -> bytes:
    import os

    from delaybox.targets.http import request_bytes
    from delaybox.wire.http_event import as_event

    message_id = ids.render(now_ms.to_bytes(6, "big") + ids.tails(0, os.urandom(8))[0])
    header, body = as_event(
        asked.cloudevents, asked.method, headers, body, event_id=message_id, queue=DEFAULT_QUEUE, time_ms=now_ms
    )
    return request_bytes(
        asked, url_of(asked.url), header, body, message_id=message_id, attempt=1, token=1, due_ms=now_ms,
        timestamp=now_ms // 1000, keys=tuple(webhook_signing.key_of(one) for one in secrets),
    )  # fmt: skip


async def _send(asked: Webhook, raw: bytes, timeout_ms: int) -> tuple[int, str, str]:
    """Status, body, and why there is no answer."""
    import asyncio

    from delaybox.targets.http_client import Forbidden, HttpClient, NoAnswer

    client, url = HttpClient(_ANYWHERE), url_of(asked.url)
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            answer = await client.request(url, raw, 64 * 1024, head=asked.method == "HEAD")
    except TimeoutError:
        return 0, "", f"no whole answer from {url.place} within {timeout_ms} ms"
    except (NoAnswer, Forbidden) as error:
        return 0, "", str(error)
    finally:
        client.close()
    return answer.status, answer.body.decode("utf-8", "replace"), ""


def _body(text: str | None, as_json: str | None, file: Path | None) -> tuple[bytes, bytes]:
    if sum(given is not None for given in (text, as_json, file)) > 1:
        raise ConfigError("more than one body; give one of --payload, --payload-json and --payload-file")
    if as_json is not None:
        try:
            json.loads(as_json)
        except ValueError as error:
            raise ConfigError(f"--payload-json is no JSON ({error}); quote it for the shell: '{{\"a\": 1}}'") from None
        return as_json.encode(), b"application/json"
    if file is not None:
        try:
            return file.read_bytes(), b""
        except OSError as error:
            raise ConfigError(f"--payload-file {file}: {error.strerror}") from None
    return (text or "").encode(), b""


def _checked(given: list[str] | None) -> tuple[str, ...]:
    secrets = tuple(one for text in given or () for one in text.split(",") if one)
    for one in secrets:
        try:
            webhook_signing.key_of(one)
        except ValueError as error:
            raise ConfigError(f"--secret: {error}") from None
    return secrets
