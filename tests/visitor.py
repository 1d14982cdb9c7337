"""Whoever looks at the dashboard, without a browser."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlencode

from tests.waiting import PATIENCE_S

HTML = {"Accept": "text/html"}

Seen = tuple[int, dict[str, str], str]


class Visitor:
    """A browser in outline: it keeps cookies and finds the token of a form."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []

    def carried_to(self, port: int) -> Visitor:
        """The same visitor at another node, as if a proxy had led there: browsers know the proxy alone."""
        other = Visitor(port)
        # A cookie's name holds the port that a browser sees.
        other.cookies = {name.replace(str(self.port), str(port)): value for name, value in self.cookies.items()}
        return other

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        given = {**HTML, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, given)
            answer: HTTPResponse = connection.getresponse()
            text = answer.read().decode()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    self.set.append(value)
                    key, _, content = value.partition(";")[0].partition("=")
                    self.cookies[key] = content
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Seen:
        return self.ask("GET", path, None, **headers)

    def form_of(self, path: str) -> str:
        found = re.search(r'name="form" value="(\w+)"', self.get(path)[2])
        assert found, path
        return found[1]

    def post(self, path: str, form: dict[str, str], **headers: str) -> tuple[int, dict[str, str], str]:
        given = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(form).encode(), **given | headers)

    def change_many(self, path: str, form: dict[str, str]) -> Seen:
        """Posts it, and goes on as the page does where the store is not looked through in one step."""
        seen = self.post(path, form)
        while found := re.search(r'<form [^>]*hx-trigger="load.*?</form>', seen[2], re.DOTALL):
            hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', found[0])
            seen = self.post(path, {name: unescape(value) for name, value in hidden})
        return seen

    def log_in(self, token: str) -> tuple[int, dict[str, str], str]:
        form = self.form_of("/dashboard/login")
        return self.post("/dashboard/login", {"form": form, "token": token, "next": "/dashboard/queues"})


class Parts(HTMLParser):
    """Everything in a page that could run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith(("on", "hx-on", "hx-vals")) or name in ("style", "srcdoc", "formaction"):
                self.found.append(f"{tag} {name}={value}")
            if name in ("href", "src", "action") and not (value or "").startswith(("/dashboard", "#")):
                self.found.append(f"{tag} {name}={value}")
        if tag in ("iframe", "object", "embed", "base", "style", "img") or (
            tag == "script" and "src" not in dict(attrs)
        ):
            self.found.append(tag)
