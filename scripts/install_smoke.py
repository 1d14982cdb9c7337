"""What a user does with an installed DelayBox: run by check_install.py with the environment's own Python.

    python -P install_smoke.py <folder>

Starts a node with the embedded server in the folder, asks it over REST and gRPC, has a worker process run functions of
each kind and the node run a command, and proves the store with fsck. Prints one line when all of it was right.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import delaybox
from delaybox import Call, Client

READY_S = 60.0
HERE = Path(sys.executable).parent
APP = """
from delaybox import Worker

worker = Worker("smoke")


@worker.task(keep_result="1h")
async def greet(name: str) -> str:
    return f"hello {name}"


@worker.task(keep_result="1h", cpu=True)
def square(n: int) -> int:
    return n * n


@worker.task(keep_result="1h")
def shout(text: str) -> str:
    return text.upper()
"""


def main(folder: Path) -> int:
    checkout = Path(delaybox.__file__).resolve()
    assert "site-packages" in checkout.parts, f"{checkout} is not what was installed"
    every_module()
    protos = checkout.parent / "proto" / "delaybox" / "v1"
    assert (protos / "scheduler.proto").is_file(), f"no contract in {protos}"
    (folder / "smoke_app.py").write_text(APP)
    log = (folder / "node.log").open("w+b")
    data = folder / "data"
    options = ["--data-dir", str(data), "--http-port", "0", "--grpc-port", "0", "--enable-shell"]
    node = command("serve", *options, log=log, folder=folder)
    started = [node]
    try:
        http = f"http://127.0.0.1:{logged(node, log, r'listening on http://127.0.0.1:([0-9]+)')}"
        grpc_address = f"127.0.0.1:{logged(node, log, r'grpc listening on 127.0.0.1:([0-9]+)')}"
        worker = command("worker", "smoke_app:worker", "--server", grpc_address, log=log, folder=folder)
        started.insert(0, worker)
        until(lambda: ready(http), "the node is not ready")
        over_rest(http)
        over_grpc(grpc_address)
        by_a_worker(grpc_address)
        a_command(http)
        for arguments in (["list", "--server", http], ["fsck", "--data-dir", str(data)]):
            done = subprocess.run([HERE / "delaybox", *arguments], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        for process in started:
            process.terminate()
            assert process.wait(30) == 0, f"{process.args!r} ended with {process.returncode}"
    except BaseException:
        sys.stderr.write((folder / "node.log").read_text(errors="replace"))
        raise
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    print("ok", flush=True)
    return 0


def every_module() -> None:
    """Imports each module of the package: a name that a dependency lacks shows at once, wherever it is used."""
    for found in pkgutil.walk_packages(delaybox.__path__, "delaybox."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def command(*arguments: str, log: Any, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([HERE / "delaybox", *arguments], stdout=log, stderr=log, cwd=folder)


def until(true: Callable[[], Any], otherwise: str) -> Any:
    """What ``true`` returned when it was true; AssertionError, with ``otherwise``, where that takes too long."""
    give_up = time.monotonic() + READY_S
    while not (found := true()):
        assert time.monotonic() < give_up, otherwise
        time.sleep(0.05)
    return found


def logged(process: subprocess.Popen[bytes], log: Any, words: str) -> str:
    """The group of ``words`` in what was logged; AssertionError where the process ended or took too long."""

    def look() -> re.Match[str] | None:
        found = re.search(words, Path(log.name).read_text(errors="replace"))
        assert found or process.poll() is None, "the node did not start"
        return found

    return str(until(look, "the node did not start in time")[1])


def ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http}/readyz", timeout=30):
            return True
    except urllib.error.HTTPError:
        return False


def ask(url: str, body: object = None) -> Any:
    """The JSON answer, or the text of another one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
        return json.loads(text) if "json" in answer.headers["content-type"] else text


def over_rest(http: str) -> None:
    task = ask(f"{http}/v1/tasks", {"delay": "1h", "payload": "hello", "labels": {"n": "1"}})
    assert ask(f"{http}/v1/tasks/{task['id']}")["payload"] == "hello"
    assert ask(f"{http}/openapi.json")["openapi"].startswith("3.")
    assert "swagger" in ask(f"{http}/docs").lower()
    assert "delaybox_" in ask(f"{http}/metrics")


def over_grpc(address: str) -> None:
    import grpc
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        assert "delaybox.v1.Scheduler" in ProtoReflectionDescriptorDatabase(channel).get_services()
    with Client(address) as client:
        task = client.publish({"order": 17}, delay="1h")
        assert task.get().state == "scheduled", task.get()
        task.cancel()


def by_a_worker(address: str) -> None:
    with Client(address) as client:
        for name, argument, wanted in (("greet", "Ann", "hello Ann"), ("square", 12, 144), ("shout", "a", "A")):
            task = client.schedule(name, Call(argument), keep_result="1h")
            assert task.result(timeout=60) == wanted, name


def a_command(http: str) -> None:
    task = f"{http}/v1/tasks/{ask(f'{http}/v1/tasks', {'type': 'shell', 'payload': 'echo from the shell'})['id']}"
    until(lambda: ask(task)["state"] == "succeeded", "the command did not succeed")
    assert "from the shell" in json.dumps(ask(task)), ask(task)


if __name__ == "__main__":
    # Somebody's settings for another node must not reach this one.
    for name in [name for name in os.environ if name.startswith(("DELAYBOX_", "APP_", "REDIS_"))]:
        del os.environ[name]
    sys.exit(main(Path(sys.argv[1])))
