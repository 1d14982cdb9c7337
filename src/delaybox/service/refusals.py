"""Why a task cannot be changed, in words for whoever asked for it."""

from __future__ import annotations

from delaybox.core.errors import DelayBoxError, TaskNotFound, TaskRunning

UNREADABLE = "cannot be read: see `delaybox quarantine list`, or `delaybox fsck` until it is due"
PLACES = {"lease": "running", "dead": "dead", "quarantine": "quarantined"}


def no_dead_letter(task_id: str) -> TaskNotFound:
    """The error for a task that is not among the dead letters."""
    return TaskNotFound(f"task {task_id} is no dead letter: it was replayed or discarded, or never became one")


def refusal(task_id: str, word: str) -> DelayBoxError:
    """The error for a task that a script did not change, by the word with which it answered."""
    if word == "running":
        return TaskRunning(f"task {task_id} is running right now, so it cannot be changed; wait for it to end")
    if word == "newer":
        return TaskRunning(f"task {task_id} was written by a newer DelayBox; ask a node of that version")
    if word == "dead":
        return TaskNotFound(f"task {task_id} is a dead letter: it has failed for good; replay it first")
    if word == "quarantined":
        return TaskNotFound(f"task {task_id} {UNREADABLE}")
    return TaskNotFound(f"task {task_id} is not pending: it has finished, was cancelled, or never was pending")
