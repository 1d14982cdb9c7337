"""A real browser for tests: Chromium, driven through ChromeDriver's own protocol (W3C WebDriver)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import axe_core_python
import pytest

from tests.waiting import PATIENCE_S, Log, until

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_NOT_DONE = ("stale element", "intercepted", "not interactable", "does not belong to the document", "detached")
"""Words of the driver for what it has not done because the page changed meanwhile."""
ENTER, TAB = "\ue007", "\ue004"


def need_browser() -> tuple[str, str]:
    """The paths of a browser and its driver; skips the test where there is none, and fails it where CI=true and the
    machine has one to install."""
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if found and driver:
        return found, driver
    if os.environ.get("CI") == "true" and shutil.which("apt-cache"):
        offered = subprocess.run(["apt-cache", "show", "chromium-driver"], capture_output=True, check=False)
        assert offered.returncode, "this machine can have a browser: apt-get install chromium chromium-driver"
    pytest.skip("there is no browser here (apt-get install chromium chromium-driver)")


class Element:
    """A part of the page."""

    def __init__(self, browser: Browser, reference: str) -> None:
        self._browser = browser
        self.reference = reference

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        return self._browser.call(method, f"/element/{self.reference}{path}", body)

    @property
    def text(self) -> str:
        return str(self._call("GET", "/text"))

    def click(self) -> None:
        self._call("POST", "/click", {})

    def type(self, text: str) -> None:
        self._call("POST", "/value", {"text": text})

    def clear(self) -> None:
        self._call("POST", "/clear", {})


class Browser:
    """One window."""

    def __init__(self, driver_port: int, binary: str, profile: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", driver_port, timeout=120)
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
            "--disable-background-networking", "--disable-component-update", "--no-first-run", "--lang=en-GB",
            f"--user-data-dir={profile}", "--hide-scrollbars", "--force-color-profile=srgb",
        ]  # fmt: skip
        options = {"binary": binary, "args": arguments}
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self._session = f"/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        value = json.loads(answer.read())["value"]
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message'][:2000]}")
        return value

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A command of the driver for this window."""
        return self._ask(method, self._session + path, body)

    def go(self, address: str) -> None:
        self.call("POST", "/url", {"url": address})

    @property
    def address(self) -> str:
        return str(self.call("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str, *arguments: Any) -> Any:
        """What a script hands to its last argument."""
        return self.call("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def all(self, css: str) -> list[Element]:
        found = self.call("POST", "/elements", {"using": "css selector", "value": css})
        return [Element(self, one[_ELEMENT]) for one in found]

    def one(self, css: str, text: str = "") -> Element:
        """The first such part that holds ``text``, once it is there."""

        def look() -> Element | None:
            with contextlib.suppress(AssertionError):  # replaced while it is looked at
                return next((found for found in self.all(css) if text in found.text), None)
            return None

        return until(look, lambda: f"no {css} with {text!r} at {self.address}:\n{self.text}")

    def click(self, text: str, css: str = "button, a") -> None:
        """Presses a button or link by its words, and waits until a page that this leads to is there."""
        self._on(css, text, lambda found: found.click())

    def press(self, key: str) -> None:
        """Presses a key, wherever the page has its focus."""
        keys = [{"type": how, "value": key} for how in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def fill(self, name: str, text: str) -> None:
        """Types into a field by its name."""

        def put(field: Element) -> None:
            field.clear()
            field.type(text)

        self._on(f"main [name='{name}']:not([type=hidden])", "", put)

    def choose(self, name: str, option: str) -> None:
        options = f"main select[name='{name}'] option[value='{option}'], main select[name='{name}'] option"
        self._on(options, option, lambda found: found.click())

    def _on(self, css: str, text: str, act: Callable[[Element], None]) -> None:
        """Does it to `one`, and to the next one where that was replaced before it was done."""

        def done() -> bool:
            try:
                act(self.one(css, text))
            except AssertionError as error:
                if any(words in str(error) for words in _NOT_DONE):
                    return False
                raise
            return True

        until(done, lambda: f"{css} with {text!r} at {self.address} is replaced again and again:\n{self.text}")

    @property
    def text(self) -> str:
        """What the page shows; nothing while the next one takes its place."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def see(self, words: str) -> None:
        """Returns when the page shows these words."""
        until(lambda: words in self.text, lambda: f"{words!r} is not at {self.address}:\n{self.text}")

    def miss(self, words: str) -> None:
        """Returns when the page does not show these words any more."""
        until(lambda: words not in self.text, lambda: f"{words!r} is still at {self.address}:\n{self.text}")

    def complaints(self) -> list[str]:
        """What the console has said since the last call, but for answers with an error's status."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [one["message"] for one in entries if "Failed to load resource" not in one["message"]]

    def axe(self) -> list[str]:
        """What axe-core finds against WCAG 2.1 A and AA and good practice, in words."""
        self.devtools("Runtime.evaluate", expression=AXE.read_text())
        found = self.run_async(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map("
            "v => v.id + ': ' + v.help + ' '"
            " + v.nodes.map(n => n.html.slice(0, 160) + ' ' + n.failureSummary.slice(0, 300)).join(' | '))),"
            " e => done([String(e)]))"
        )
        return list(found)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def dark(self, wanted: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """As PNG, or as WebP where the file's name ends so, which is a third of the size."""
        form = {"format": "webp", "quality": 60} if file.suffix == ".webp" else {"format": "png"}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole, **form)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._ask("DELETE", self._session)
        self._connection.close()


@contextlib.contextmanager
def driver() -> Iterator[Callable[[], Browser]]:
    """Opens windows, each with nothing remembered; all are closed at the end."""
    binary, program = need_browser()
    with tempfile.TemporaryDirectory(prefix="dbx-browser-", ignore_cleanup_errors=True) as folder:
        log = Log(Path(folder) / "driver.log")
        process = subprocess.Popen(
            [program, "--port=0"], stdout=log.fd, stderr=log.fd, stdin=subprocess.DEVNULL, cwd=folder
        )
        log.started()
        opened: list[Browser] = []
        try:
            port = int(log.wait_for(r"successfully on port (\d+)")[1])

            def make() -> Browser:
                opened.append(Browser(port, binary, f"{folder}/{len(opened)}"))
                return opened[-1]

            yield make
        finally:
            for one in opened:
                one.close()
            process.terminate()
            process.wait(PATIENCE_S)
