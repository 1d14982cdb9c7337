"""Rules about the tree itself that no linter knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import delaybox

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "delaybox"
LONGEST = 500


def _requirements(name: str) -> dict[str, list[str]]:
    """Pinned requirement → its hashes."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {line.split(" --hash")[0].strip(): re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line) for line in lines}


@pytest.mark.parametrize("name", ["dev.txt", "runtime.txt"])
def test_requirements_are_pinned_hashed_and_name_no_address(name: str) -> None:
    pins = _requirements(name)
    assert pins
    for pin, hashes in pins.items():
        assert re.match(r"[a-z0-9._-]+==[\w.!+]+( ;.*)?$", pin), f"{pin!r} is not one pinned package"
        assert hashes, f"{pin} has no hash"
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"://|index-url|find-links|@ ", text)


def test_tests_run_on_what_is_shipped() -> None:
    assert _requirements("runtime.txt").items() <= _requirements("dev.txt").items()


def test_no_file_grows_past_what_can_be_read() -> None:
    files = [path for kind in ("*.py", "*.lua") for path in PACKAGE.rglob(kind) if "gen" not in path.parts]
    for room in ("tests", "benchmarks", "scripts", "examples"):
        files += [path for path in (ROOT / room).rglob("*.py") if not any(p.startswith(".") for p in path.parts)]
    long = {
        str(path.relative_to(ROOT)): count for path in files if (count := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long, "split these by job"


def test_keys_are_spelled_in_one_file() -> None:
    """A key that is spelled elsewhere is missed when a key's name changes, and by fsck."""
    spelled = re.compile(
        r"""f["'][^"']*\{(self\.)?(store\.)?(tag|prefix)s?\w*(\[\w+\])?\}\}?:|:(ready|active|idem|near|lease):"""
    )
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "store" / "keys.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if spelled.search(line)
    }
    assert not found, "use delaybox.store.keys"


def test_the_public_door() -> None:
    assert delaybox.__all__ == ["AsyncClient", "Call", "Client", "NewTask", "Retry", "Worker", "__version__"]
    for name in delaybox.__all__:
        assert getattr(delaybox, name) is not None and name in dir(delaybox)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(delaybox, "Nothing")  # noqa: B009 - mypy knows that there is none
