"""The life of a task as a line of moments, as far as the store knows it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from delaybox.core import ids
from delaybox.core.task import FailedAttempt, TaskState, TaskView


@dataclass(frozen=True, slots=True)
class Moment:
    """``at_ms`` 0: when it was is not known. ``tone``: good, bad, now or "" for the mark. ``about``: more words."""

    title: str
    at_ms: int = 0
    tone: str = ""
    about: str = ""


def of(task: TaskView) -> list[Moment]:
    """What has happened to it and what is to come, in order."""
    first_due = ids.due_ms(ids.parse(task.task_id))
    found = []
    if first_due != task.due_ms:
        found.append(Moment("First due", first_due, about="it was moved, put off or tried again since"))
    known = list(task.failures)
    if task.state is TaskState.FAILED and known and known[-1].attempt == task.attempt:
        known.pop()  # its end says why
    failed = [Moment(f"Attempt {one.attempt} failed", one.failed_ms, "bad", one.reason) for one in known]
    found += [moment for moment in failed if moment.at_ms <= task.due_ms]
    waits = task.state is TaskState.SCHEDULED
    found.append(Moment("Due", task.due_ms, "now" if waits else "", task.reason if waits else ""))
    by_failures = failed and not task.fired_ms and task.state in (TaskState.SCHEDULED, TaskState.READY)
    if (task.deliveries or task.fired_ms) and not by_failures:
        count = max(task.deliveries, 1)
        where = f"by {task.node}" if task.node else ""
        found.append(Moment(f"Handed out {count} {_times(count)}", task.fired_ms, about=where))
    if task.losses:
        found.append(Moment(f"Lost {task.losses} {_times(task.losses)}", tone="bad", about="with its worker or node"))
    result = task.result
    # A task that was brought back counts from 1 again; before the first one known of this run others may have failed.
    first = next((one.attempt for at, one in enumerate(known) if _rises(known[at:])), 0)
    unknown = first - 1 if first else task.attempt - (task.state is TaskState.FAILED)
    if unknown > 0:
        found.append(Moment(f"Failed {unknown} {_times(unknown)}", tone="bad", about="and was tried again"))
    found += [moment for moment in failed if moment.at_ms > task.due_ms]
    if result is not None and result.duration_ms:
        found.append(Moment("Began its last attempt", result.finished_ms - result.duration_ms))
    ended = result.finished_ms if result is not None else task.ended_ms
    if task.state is TaskState.READY:
        found.append(Moment("Waits", tone="now", about=task.reason or "for a free place"))
    elif task.state is TaskState.RUNNING:
        found.append(Moment("Runs", tone="now", about=task.progress.message if task.progress else ""))
    elif task.state is TaskState.SUCCEEDED:
        found.append(Moment("Succeeded", ended, "good"))
    elif task.state is TaskState.FAILED:
        found.append(Moment("Failed for good", ended, "bad", task.reason))
    elif task.state is TaskState.CANCELLED:
        found.append(Moment("Cancelled", ended, "", task.reason if task.reason != "cancelled" else ""))
    return found


def _rises(run: Sequence[FailedAttempt]) -> bool:
    return all(one.attempt < next_one.attempt for one, next_one in pairwise(run))


def _times(count: int) -> str:
    return "time" if count == 1 else "times"
