"""The Python in the documents, as it is pasted: the blocks under `<!-- runs -->`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import Node, node

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^<!-- runs -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in (ROOT / "README.md", ROOT / "docs" / "python.md")
    for number, code in enumerate(_BLOCK.findall(page.read_text()), 1)
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("docs")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), folder=folder) as started:
        yield started


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_pasted_example_works(code: str, served: Node, tmp_path: Path):
    assert "localhost:9088" in code or "redis://localhost:6379" in code, "only the address may be another one here"
    code = code.replace("redis://localhost:6379", served.address("redis"))
    script = tmp_path / "pasted.py"
    script.write_text(code.replace("localhost:9088", f"localhost:{served.grpc_port}"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout, "it shows something"


def test_there_are_some_to_try():
    assert len(SNIPPETS) >= 3
