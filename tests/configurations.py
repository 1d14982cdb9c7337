"""Configuration files for tests, and how their mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from delaybox.config import load
from delaybox.core.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own; import it where that is wanted."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "config.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(**arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**{"environ": {}, **arguments})
    return str(caught.value)
