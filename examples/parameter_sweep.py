"""A simulation over a grid of parameters, computed by as many processes as there are.

    python3 parameter_sweep.py worker                 # one or more of these, on one or more machines
    python3 parameter_sweep.py sweep --points 400

An epidemic (SIR) is simulated for each pair of transmission and recovery rate. `client.map` schedules the grid, yields
what comes back, and needs no more memory for a million points than for a thousand: only the answer is kept, here the
pair that fits the observed peak best.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from delaybox import Client, Worker

SERVERS = os.environ.get("DELAYBOX_GRPC_SERVERS", "localhost:9088")
OBSERVED_PEAK = 0.21

worker = Worker("sweep", servers=SERVERS)


@worker.task(cpu=True, queue="sweep", timeout="1m")
def peak(transmission: float, recovery: float, days: int = 160) -> dict[str, Any]:
    """The largest share of people that is ill at once, and when. Euler steps of an hour."""
    well, ill, step = 0.9999, 0.0001, 1 / 24
    highest, day = ill, 0.0
    for hour in range(days * 24):
        caught, recovered = transmission * well * ill * step, recovery * ill * step
        well, ill = well - caught, ill + caught - recovered
        if ill > highest:
            highest, day = ill, hour / 24
    return {"transmission": transmission, "recovery": recovery, "peak": highest, "day": day, "process": os.getpid()}


def sweep(points: int) -> None:
    """Prints the best fit, and how many processes worked on it."""
    from delaybox import Call

    side = max(2, round(points**0.5))
    grid = [Call(0.1 + 0.5 * i / (side - 1), 0.05 + 0.25 * j / (side - 1)) for i in range(side) for j in range(side)]
    began, best, processes = time.monotonic(), None, set()
    with Client(SERVERS) as client:
        for found in client.map(peak, grid, ordered=False):
            processes.add(found["process"])
            if best is None or abs(found["peak"] - OBSERVED_PEAK) < abs(best["peak"] - OBSERVED_PEAK):
                best = found
    assert best is not None
    print(f"{len(grid)} points in {time.monotonic() - began:.1f} s on {len(processes)} processes")
    print(f"best: transmission {best['transmission']:.3f}, recovery {best['recovery']:.3f}, peak {best['peak']:.3f}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=("worker", "sweep"))
    arguments.add_argument("--points", type=int, default=400)
    asked = arguments.parse_args()
    if asked.what == "worker":
        raise SystemExit(worker.run())
    sweep(asked.points)
