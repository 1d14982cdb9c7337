"""What a form does, as a line for a shell and one for Python, so that people need the form only once. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pprint import pformat
from typing import Any, Final

_CALLS: Final = {"pub_sub": "publish", "worker": "schedule", "shell": "shell", "http": "webhook"}


def curl(body: Mapping[str, Any], address: str, *, token: bool) -> str:
    """The call of REST. ``address``: of the node, with the context path."""
    parts = ["curl", "-X POST", shlex.quote(f"{address}/v1/tasks"), "-H 'Content-Type: application/json'"]
    if token:
        parts.append('-H "Authorization: Bearer $DELAYBOX_TOKEN"')
    parts.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join([" ".join(parts[:3]), *parts[3:]])


def python(body: Mapping[str, Any], server: str, *, token: bool, tls: bool = False) -> str:
    """The call of the client. ``server``: the node's host and its port of gRPC."""
    kind = str(body.get("type", "pub_sub"))
    options = {name: body[name] for name in _OPTIONS if name in body}
    if "at" in options:
        options["at"] = _At(str(options["at"]))
    if "retry" in options:
        # Python counts the further attempts, REST all of them.
        options["retry"] = options["retry"]["max_attempts"] - 1
    if "idempotency_key" in options:
        options["key"] = options.pop("idempotency_key")
    payload: Any = b""
    if "payload_json" in body:
        payload = body["payload_json"]
    elif "payload_base64" in body:
        payload = _Decoded(str(body["payload_base64"]))
    elif "payload" in body:
        payload = str(body["payload"]).encode() if kind == "worker" else str(body["payload"])
    arguments: list[str] = []
    if kind == "worker":
        arguments = [repr(body.get("name", "")), *([_shown(payload)] if payload != b"" else [])]
    elif kind == "http":
        arguments = [repr(body.get("url", ""))]
        if payload != b"":
            options = {("json" if "payload_json" in body else "data"): payload, **options}
        if body.get("method", "POST") != "POST":
            options["method"] = body["method"]
    elif kind == "shell":
        arguments = [_shown(payload)] if payload != b"" else []
        if body.get("name"):
            options["name"] = body["name"]
    else:
        arguments = [_shown(payload)]
    arguments += [f"{name}={_shown(value)}" for name, value in options.items()]
    given = (", token=os.environ['DELAYBOX_TOKEN']" if token else "") + (", tls=True" if tls else "")
    call = f"client.{_CALLS[kind]}({', '.join(arguments)})"
    if len(call) > 80:
        call = f"client.{_CALLS[kind]}(\n    " + ",\n    ".join(arguments) + ",\n)"
    imports = ["from delaybox import Client"]
    if any(isinstance(value, _At) for value in options.values()):
        imports.insert(0, "from datetime import datetime")
    if isinstance(payload, _Decoded):
        imports.insert(0, "from base64 import b64decode")
    if token:
        imports.insert(0, "import os")
    return "\n".join([*imports, "", f'client = Client("{server}"{given})', call])


_OPTIONS: Final = (
    "at", "delay", "queue", "group", "priority", "labels", "idempotency_key", "timeout", "expire_after", "keep_result",
    "retry",
)  # fmt: skip


class _At(str):
    def __repr__(self) -> str:
        return f"datetime.fromisoformat({str(self)!r})"


class _Decoded(str):
    def __repr__(self) -> str:
        return f"b64decode({str(self)!r})"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, _At | _Decoded | str) else pformat(value, width=70, sort_dicts=False)
