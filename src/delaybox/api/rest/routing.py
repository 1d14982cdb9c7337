"""Routes, and how the route of a path is found."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from msgspec import Struct

from delaybox.api import call_scopes
from delaybox.api.rest.asgi import Headers, Receive, Scope


class Answer(Struct, frozen=True):
    """One response; the content type is JSON unless given.

    ``parts``: in place of a body, its parts as they come; the connection ends with the last one, or the stream with the
    connection. A part is sent when the caller has taken those before it.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"
    parts: AsyncGenerator[bytes, None] | None = None


Handler = Callable[[Scope, Headers, Receive], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """``name``: the path without the context path; segments in braces are parameters, which handlers find decoded in
    ``scope["params"]``. Every method needs a rule in `call_scopes`, or there is no such route.
    """

    name: str
    handlers: Mapping[str, Handler]
    browser: bool = False
    """A page, which its own dispatcher serves: a browser cannot send a token in a header."""
    rules: Mapping[str, call_scopes.Rule] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", {method: call_scopes.rule(method, self.name) for method in self.handlers})


class Router:
    """Finds routes by path. ``root``: the context path, empty or ``/api``."""

    def __init__(self) -> None:
        self._fixed: dict[str, Route] = {}
        self._patterns: dict[int, list[tuple[tuple[str, ...], Route]]] = {}

    def add(self, routes: Iterable[Route], root: str = "", *, slash: bool = False) -> None:
        """Serves ``routes`` under ``root``, with a slash at the end if asked for. Paths without parameters win."""
        for route in routes:
            path = root + route.name + "/" * slash
            if "{" in path:
                parts = tuple(path.split("/"))
                self._patterns.setdefault(len(parts), []).append((parts, route))
            else:
                self._fixed[path] = route

    def routes(self) -> list[Route]:
        """All routes."""
        found = [*self._fixed.values(), *(route for group in self._patterns.values() for _, route in group)]
        return list({route.name: route for route in found}.values())

    def find(self, scope: Scope) -> Route | None:
        """The route of a request; puts its parameters into ``scope["params"]``."""
        raw: bytes = scope["raw_path"]
        if b"%" not in raw:
            found = self._fixed.get(scope["path"])
            if found is not None:
                return found
            parts = scope["path"].split("/")
        else:
            # Decoded once, and after the path was split: %2F is a character of a name, and %252F stands for %2F.
            parts = [unquote(part) for part in raw.decode("ascii").split("/")]
            if not any("/" in part for part in parts) and (found := self._fixed.get("/".join(parts))) is not None:
                return found
        for pattern, route in self._patterns.get(len(parts), ()):
            params: dict[str, str] = {}
            for want, part in zip(pattern, parts, strict=True):
                if want == part:
                    continue
                if not part or not want.startswith("{"):
                    break
                params[want[1:-1]] = part
            else:
                scope["params"] = params
                return route
        return None
