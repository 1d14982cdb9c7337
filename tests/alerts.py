"""The alerts of deploy/prometheus on what a node's /metrics shows: Prometheus's own promtool evaluates them."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.waiting import until
from tests.web import called

PROMTOOL = shutil.which("promtool")
RULES = Path(__file__).parent.parent / "deploy/prometheus/rules.yml"
EXPRESSIONS: dict[str, str] = {
    rule["alert"]: rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine (Debian: prometheus)")

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")


class Alerts:
    """``look``: what Prometheus would get at this moment; "" when nobody answers. What it got when this was made is the
    past of counters."""

    def __init__(self, folder: Path, look: Callable[[], str]) -> None:
        self._folder = folder
        self._look = look
        self._before = look()

    def holds(self, name: str) -> bool:
        """Whether the expression of an alert is true by now, after a minute of the past."""
        assert PROMTOOL is not None
        expression = EXPRESSIONS[name]
        asked = set(re.findall(r"[a-z_]{2,}", expression))
        before, after = (dict(samples(text, asked)) for text in (self._before, self._look()))
        series = [
            {"series": each, "values": f"{_value(before.get(each))}x4 {_value(after.get(each))}x4"}
            for each in sorted({*before, *after})
        ]
        case = {
            "interval": "15s",
            "input_series": series,
            "promql_expr_test": [
                {
                    "expr": f"count({expression}) > bool 0",
                    "eval_time": "2m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        }
        file = self._folder / f"{name}.yml"
        file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [case]}))
        done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True)
        assert "FAILED" in done.stdout + done.stderr or done.returncode == 0, done.stdout + done.stderr
        assert "parse error" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.returncode == 0

    def until(self, name: str) -> None:
        """Returns when the alert's expression is true."""
        until(lambda: self.holds(name), lambda: f"{name} is not there:\n{self._look()}")

    def until_gone(self, name: str) -> None:
        """Returns when the alert's expression is not true any more."""
        until(lambda: not self.holds(name), lambda: f"{name} is still there:\n{self._look()}")


def scraped(address: str) -> str:
    """The metrics of a node, and Prometheus's own ``up``."""
    try:
        status, text = called(address, "/metrics")
    except OSError:
        return 'up{job="delaybox"} 0\n'
    return f'{text}up{{job="delaybox"}} {int(status == 200)}\n'


def samples(text: str, asked: set[str]) -> Iterator[tuple[str, float]]:
    """Series and value of each of these metrics."""
    for line in text.splitlines():
        if (found := _SAMPLE.match(line)) is not None and found[1] in asked and math.isfinite(float(found[3])):
            labels = ",".join(part for part in (found[2], 'instance="a"') if part)
            yield f"{found[1]}{{{labels}}}", float(found[3])


def _value(value: float | None) -> str:
    return "_" if value is None else f"{value:.6f}"
