"""Runs ``delaybox …`` inside the test's process."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import pytest

from delaybox.cli import main, messages


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """stdout, which must be one JSON value."""
        return json.loads(self.out)


class Command:
    """Calls the entry point as a shell would, but for the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(messages, "as_json", False)
        self._monkeypatch.setattr(sys, "argv", ["delaybox", *arguments])
        self._capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code) if isinstance(end.code, int) else 1
        return Done(code, *self._capsys.readouterr())
