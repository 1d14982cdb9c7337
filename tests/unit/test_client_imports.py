"""The client needs its three dependencies and nothing of a node's; what only imports the package loads none of it."""

from __future__ import annotations

import subprocess
import sys

_BLOCKED = """
import sys

class Only:
    allowed = {"delaybox", "google", "grpc", "typing_extensions", "tzdata"} | sys.stdlib_module_names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed and not name.startswith("_sysconfigdata"):
            raise ImportError(f"{name} is not a dependency of a client")

# What site-packages' own start-up files loaded does not count.
sys.meta_path.insert(0, Only())
"""


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_client_works_with_the_base_dependencies_alone():
    output = _python(
        _BLOCKED
        + """
import asyncio
import delaybox.client
from delaybox import AsyncClient, Client, NewTask, Retry

with Client(["127.0.0.1:1", "127.0.0.1:2"], retries=1) as client:
    for call in (
        lambda: client.schedule("f", {"x": 1}, delay="10m", retry=Retry(3)),
        lambda: client.schedule_many([NewTask.publish("x")], progress=True),
        lambda: next(client.map("f", [1])),
    ):
        try:
            call()
        except delaybox.client.Unreachable:
            print("unreachable")

async def main():
    async with AsyncClient("127.0.0.1:1", retries=0) as client:
        try:
            await client.get("x")
        except delaybox.client.Unreachable as error:
            print(error)

asyncio.run(main())
"""
    )
    *lines, last = output.splitlines()
    assert lines == ["unreachable"] * 3
    assert "127.0.0.1:1" in last and "is a node listening there?" in last


def test_importing_the_package_loads_nothing():
    loaded = _python(
        "import sys; before = set(sys.modules); import delaybox; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    assert loaded == "delaybox"
