"""How the node starts, watches and stops its API process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import DelayBoxError

READY_TIMEOUT_S = 20.0
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


class ApiFailed(DelayBoxError):
    """The API process did not start; the message is its own."""

    code = "api_failed"


class ApiProcess:
    """A running API process.

    ``port`` is the one it listens on. ``died`` is set when the process has ended, whatever the cause: after `stop` that
    is meant, before it the node must act on it.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int, grace_s: float) -> None:
        self._process = process
        self._grace_s = grace_s
        self.port = port
        self.died = asyncio.Event()
        self._watcher = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """Lets requests in flight finish within the grace, then ends it. Harmless when repeated or when it is dead."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self.died.wait(), self._grace_s + 2.0)
            except TimeoutError:
                self.kill()
        await self.died.wait()

    def kill(self) -> None:
        """Ends it at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _watch(self) -> None:
        try:
            await self._process.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self.died.set()


async def spawn_api(settings: ApiSettings, *, ready_timeout_s: float = READY_TIMEOUT_S) -> ApiProcess:
    """Starts the process and returns when it listens; ApiFailed, with its words, when it cannot.

    To be called from a thread that lives as long as the node: on Linux the process dies with that thread.
    """
    environment = dict(os.environ)
    environment.pop(_MULTIPROCESS, None)
    if settings.metrics_dir:
        # Read when prometheus-client is imported, so it can not travel in the settings line.
        environment[_MULTIPROCESS] = settings.metrics_dir
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "delaybox.api.rest.process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is for the node, which then stops this process in its turn
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(ready_timeout_s):
            process.stdin.write(settings.to_json().encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        said = json.loads(line) if line else {}
        if not said.get("ready"):
            raise ApiFailed(said.get("error") or "the API process ended before it was ready; its log says why")
        return ApiProcess(process, int(said["port"]), settings.grace_s)
    except TimeoutError:
        await _end(process)
        raise ApiFailed(f"the API process was not ready within {ready_timeout_s:g} s; its log says why") from None
    except (ConnectionError, json.JSONDecodeError):
        await _end(process)
        raise ApiFailed("the API process ended before it was ready; its log says why") from None
    except BaseException:
        await _end(process)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
