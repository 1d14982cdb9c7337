"""Clients that three generators make of /openapi.json: each compiles, schedules, gets and cancels. None is kept.

What the generators need is fetched once by the package clients (pip, npm, go), in the versions that tests/clients pins,
into the user's cache folder. Without Node, Go or a registry a test is skipped, and fails where CI=true.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.request import urlopen

import pytest

from delaybox.api.rest.settings import ApiSettings
from delaybox.core.scopes import Token
from tests.children import serving
from tests.servers import RealServer

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
TOKEN = "clients-of-nobody-here"


def missing(words: str) -> NoReturn:
    """Skips the test; in CI it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def need(tool: str) -> None:
    """Without that tool the client is not generated."""
    if shutil.which(tool) is None:
        missing(f"no {tool} on the PATH: the client that needs it is not generated")


async def fetch(*words: str | Path, cwd: Path, **environ: str) -> None:
    """A command that needs a package registry."""
    try:
        await run(*words, cwd=cwd, **environ)
    except AssertionError as error:
        missing(f"what the generator needs cannot be fetched: {error}")


@contextmanager
def fetched(language: str, *pins: str) -> Iterator[Path]:
    """The folder for what a generator needs, one for each state of its pins. One process at a time is in it."""
    digest = hashlib.sha256(sys.version.encode())
    for name in pins:
        digest.update((CLIENTS / language / name).read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "delaybox" / "clients"
    folder = base / f"{language}-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


async def run(*words: str | Path, cwd: Path, **environ: str) -> str:
    """A command that must go well; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        cwd=cwd,
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(map(str, words))}\n{output.decode()[-6000:]}"
    return output.decode()


@pytest.fixture
async def address(server: RealServer, prefix: str) -> AsyncIterator[str]:
    settings = ApiSettings(server=server.settings, prefix=prefix, grace_s=3.0, tokens=(Token.of(TOKEN),))
    api = await serving(settings)
    yield f"http://127.0.0.1:{api.port}"
    await api.stop()


@pytest.fixture
async def document(address: str, tmp_path: Path) -> Path:
    """The document as a node serves it."""

    def get() -> bytes:
        with urlopen(f"{address}/openapi.json") as answer:
            body: bytes = answer.read()
            return body

    path = tmp_path / "openapi.json"
    path.write_bytes(await asyncio.to_thread(get))
    return path


def copied(language: str, tmp_path: Path, *names: str) -> Path:
    """Our program, in a folder where the client is made beside it."""
    place = tmp_path / language
    place.mkdir()
    for name in names:
        shutil.copy(CLIENTS / language / name, place)
    return place


async def test_python(address: str, document: Path, tmp_path: Path):
    place = copied("python", tmp_path, "use.py")
    with fetched("python", "requirements.txt") as folder:
        packages = folder / "packages"
        if not packages.exists():
            half = folder / "half"
            pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", half)
            await fetch(sys.executable, *pip, "-r", CLIENTS / "python" / "requirements.txt", cwd=folder)
            half.rename(packages)
        path = {"PYTHONPATH": str(packages), "PATH": f"{packages / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        out = place / "delaybox_client"
        made = ("generate", "--path", document, "--output-path", out, "--meta", "none", "--fail-on-warning")
        await run(sys.executable, "-m", "openapi_python_client", *made, cwd=place, **path)
        await run(sys.executable, "-m", "compileall", "-q", out, cwd=place)
        assert "done" in await run(sys.executable, "use.py", address, TOKEN, cwd=place, **path)


async def test_typescript(address: str, document: Path, tmp_path: Path):
    need("npm")
    pins = ("package.json", "package-lock.json")
    place = copied("typescript", tmp_path, "use.ts", "tsconfig.json", *pins)
    with fetched("typescript", *pins) as folder:
        modules = folder / "node_modules"
        if not (folder / "whole").exists():
            for name in pins:
                shutil.copy(CLIENTS / "typescript" / name, folder)
            await fetch("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
            (folder / "whole").touch()
        (place / "node_modules").symlink_to(modules)
        tools = modules / ".bin"
        await run(tools / "openapi-ts", "-i", document, "-o", "made", "-c", "@hey-api/client-fetch", cwd=place)
        await run(tools / "tsc", "-p", ".", cwd=place)
        assert "done" in await run("node", "built/use.js", address, TOKEN, cwd=place)


async def test_go(address: str, document: Path, tmp_path: Path):
    need("go")
    place = copied("go", tmp_path, "main.go", "go.mod", "go.sum", "oapi-codegen.yaml")
    (place / "made").mkdir()
    flags = {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    await fetch("go", "mod", "download", cwd=place, **flags)
    await run("go", "tool", "oapi-codegen", "-config", "oapi-codegen.yaml", document, cwd=place, **flags)
    await run("go", "build", "-o", "use", ".", cwd=place, **flags)
    assert "done" in await run(place / "use", address, TOKEN, cwd=place)
