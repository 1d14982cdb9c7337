"""T31: schemathesis against a served node. No 5xx, no answer that the OpenAPI document does not describe.

Its cases are the same in each run: each bound of each field (about 2,600) and five random ones of an operation, by a
fixed seed. Bounded by time, a busy machine would see only the first of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from tests.rest import rest_process
from tests.servers import RealServer

ROOT = Path(__file__).parents[2]
HOOKS = """
import schemathesis


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # Of a UUID with a pattern it makes any UUID and drops what does not fit, which is nearly all, and looks for a text
    # that fits the pattern and is no UUID, which there is not: half of a run's time. The pattern alone says the same.
    parts = [raw_schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("format") == "uuid" and "pattern" in part:
                del part["format"]
            parts += part.values()
        elif isinstance(part, list):
            parts += part
"""
CONFIG = """
seed = 31
hooks = "hooks"
continue-on-failure = true

[generation]
max-examples = 5

[checks]
# What no schema can say: a cursor is a page's own, a shell task needs a node that runs them, retries fit together.
positive_data_acceptance.enabled = false
# A key that is used again is answered with the first one's task, which may have been cancelled since.
ensure_resource_availability.enabled = false

[[operations]]
include-name = "POST /v1/tasks/batch"
# The bounds of a task's fields, one by one, are those of POST /v1/tasks.
phases.coverage.enabled = false
# A task that is refused is an item of the answer, not the answer's status.
checks.negative_data_rejection.enabled = false

[[operations]]
include-name = "GET /v1/events"
# An answer without an end, for which it would wait.
enabled = false

[[operations]]
include-name = "GET /task"
# What is no page is the first one, as the original had it.
checks.negative_data_rejection.enabled = false
"""


async def test_whatever_is_sent_is_answered_as_the_document_says(server: RealServer, prefix: str, tmp_path: Path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "hooks.py").write_text(HOOKS)
    report = tmp_path / "report.json"
    async with rest_process(server=server.settings, prefix=prefix) as api:
        fuzzer = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{api.port}/openapi.json",
            "--no-color",
            "--report-json-path",
            str(report),
            cwd=tmp_path,
            # Its tables of Unicode and of constants are made once, not in each run.
            env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await fuzzer.communicate()
        text = output.decode()
        assert fuzzer.returncode == 0, text[-8000:]
        assert api.exit_code is None
    # A run that could not read the document, or sent nothing, would pass too.
    # All but the stream without an end.
    selected = re.search(r"Selected: (\d+)/(\d+)\b", text)
    assert selected and 23 <= int(selected[1]) == int(selected[2]) - 1, text[-2000:]
    assert json.loads(report.read_text())
    cases = re.search(r"^ *([\d,]+) generated", text, re.MULTILINE)
    assert cases and int(cases[1].replace(",", "")) > 1_000, text[-2000:]
