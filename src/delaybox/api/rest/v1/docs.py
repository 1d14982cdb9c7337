"""``/openapi.json`` and ``/docs``: Swagger UI from files that are installed with the node, none fetched elsewhere."""

from __future__ import annotations

from typing import Final

from openapi_ui_bundles import swagger_ui

from delaybox.api.rest.asgi import Headers, Receive, Scope
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.routing import Answer, Route
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.v1.openapi import document

# Swagger UI sets style attributes and draws its icons from data: addresses; scripts come from this node alone.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS: Final = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
)
_FILES: Final = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DelayBox API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


class Pages:
    """The handlers. They show nothing about tasks, so they need no token."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._document = b""

    async def openapi(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        if not self._document:
            self._document = document(self._settings.root, tokens=bool(self._settings.tokens))
        return Answer(200, self._document, _GUARDS)

    async def page(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        return Answer(200, _PAGE, _GUARDS, b"text/html; charset=utf-8")

    async def file(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        name = scope["params"]["file"]
        if name == "start.js":
            return Answer(200, _START, _GUARDS, b"text/javascript; charset=utf-8")
        kind = _FILES.get(name)
        if kind is None:
            raise Refusal(404, "there is no such file here; see /docs")
        # Read on request, so that a node whose page nobody opens does not hold 1.5 MB of JavaScript.
        return Answer(200, (swagger_ui.static_path / name).read_bytes(), _GUARDS, kind)


def pages(settings: ApiSettings) -> list[Route]:
    """The routes, at the root."""
    made = Pages(settings)
    return [
        Route("/openapi.json", {"GET": made.openapi, "HEAD": made.openapi}),
        Route("/docs", {"GET": made.page, "HEAD": made.page}),
        Route("/docs/{file}", {"GET": made.file, "HEAD": made.file}),
    ]
