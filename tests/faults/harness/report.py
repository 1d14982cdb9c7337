"""One JSON record and one line per run, in the style of Redis' own consistency client."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.harness.checker import Verdict
from tests.faults.harness.oracle import Fault

_ROOT = Path(__file__).parents[3]
OUT_VARIABLE = "DELAYBOX_FAULTS_OUT"
_LINE = (
    ("acked", "acked"),
    ("unknown", "unknown"),
    ("refused", "refused"),
    ("lost", "lost"),
    ("dup_sched", "dup_sched"),
    ("early", "early"),
    ("stale_acks", "stale_acks"),
    ("double_completed", "double"),
    ("orphans", "orphans"),
    ("dead", "dead"),
)


def line(row: str, mode: str, seed: int, faults: list[Fault], verdict: Verdict, extra: Mapping[str, Any]) -> str:
    """``T12 mode=durable seed=417 cut=10s  acked=100000 lost=0 … late p50/p99/max=4/38/9120ms``."""
    f = verdict.figures
    struck = " ".join(f"{kind}={n}" for kind, n in sorted(Counter(fault.kind for fault in faults).items()))
    parts = [f"{row} mode={mode} seed={seed} {struck or 'faults=0'} "]
    parts += [f"{label}={f.get(name, 0):.0f}" for name, label in _LINE]
    parts.insert(-5, f"dups={f.get('dups', 0):.0f}(explained {f.get('explained', 0):.0f})")
    parts.append(f" recover={f['recover_ms'] / 1000:.1f}s drain={f['drain_ms'] / 1000:.1f}s")
    parts.append(f" late p50/p99/max={f['late_p50_ms']:.1f}/{f['late_p99_ms']:.1f}/{f['late_max_ms']:.0f}ms")
    if any(fault.kind != "rollback" for fault in faults):
        parts.append(
            f"in fault {f['late_fault_p50_ms']:.0f}/{f['late_fault_p99_ms']:.0f}/{f['late_fault_max_ms']:.0f}ms"
        )
    parts += [f"{name}={value}" for name, value in extra.items()]
    return " ".join(parts)


def record(
    row: str,
    mode: str,
    seed: int,
    *,
    config: Mapping[str, Any],
    server: str,
    faults: list[Fault],
    verdict: Verdict,
    extra: Mapping[str, Any],
) -> Path:
    """Writes the run's record, to ``build/faults`` unless ``DELAYBOX_FAULTS_OUT`` names a folder; returns where."""
    folder = Path(os.environ.get(OUT_VARIABLE) or _ROOT / "build" / "faults")
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "row": row,
        "mode": mode,
        "seed": seed,
        "ok": not verdict.violations,
        "config": dict(config),
        "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "git": _git(),
        "server": server,
        "python": platform.python_version(),
        "faults": [fault._asdict() for fault in faults],
        "figures": verdict.figures | dict(extra),
        "violations": verdict.violations,
    }
    path = folder / f"{row}-{mode}-{seed}.json"
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return path


def _git() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"
