"""Commands on several tasks: lists that come in pages, and calls for one id after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import typer

from delaybox.cli import messages
from delaybox.cli.client import LATER, NodeRefused, NodeUnreachable, RestClient, segment
from delaybox.cli.exits import Exit
from delaybox.cli.usage import UsageError
from delaybox.core import texts
from delaybox.core.limits import MAX_PAGE

AGAIN_S: Final = 1.0


class Outage:
    """The time in which no node answers, for commands that wait for something: one warning, and then it is gone
    through."""

    def __init__(self) -> None:
        self._warned = False

    def passes(self, error: NodeUnreachable | NodeRefused) -> None:
        """Returns after a moment; raises the error where no other try mends it."""
        if isinstance(error, NodeRefused) and error.status not in LATER:
            raise error
        if not self._warned:
            messages.warning(f"{error}; goes on when a node answers")
        self._warned = True
        time.sleep(AGAIN_S)

    def over(self) -> None:
        """A node has answered."""
        self._warned = False


def note_more(cursor: str | None) -> None:
    """Where a list goes on."""
    if cursor:
        messages.note(f"there may be more: --cursor {cursor}")


def note_scan(answer: Mapping[str, Any]) -> bool:
    """Says of an answer that no index was asked for it, which takes long where much waits; whether that is so."""
    if answer.get("scanned"):
        messages.note(
            "neither a label nor the function is indexed (index.labels, index.functions), so all that waits is looked "
            "through"
        )
    return bool(answer.get("scanned"))


def pages(
    client: RestClient, path: str, query: dict[str, Any], *, limit: int, cursor: str = ""
) -> tuple[list[dict[str, Any]], str | None]:
    """The first tasks of a list, up to a number, and the cursor of the rest."""
    found: list[dict[str, Any]] = []
    more: str | None = cursor or None
    noted = False
    while True:
        page = client.get(path, {**query, "cursor": more, "limit": min(MAX_PAGE, limit - len(found))})
        found += page["tasks"]
        noted = noted or note_scan(page)
        more = page.get("cursor")
        if not more or len(found) >= limit:
            return found, more


def address_of(task_id: str | None, key: str | None) -> str:
    """The path of the task that an id or an idempotency key names. UsageError."""
    return path_of("/v1/tasks", task_id, key)


def path_of(under: str, task_id: str | None, key: str | None, *, call: str = "", flags: Sequence[str] = ()) -> str:
    """The path of a call on the task that an id or an idempotency key names, with these flags set. UsageError."""
    if (task_id is None) == (key is None):
        raise UsageError("give the id of a task, or --key with its idempotency key; one of them")
    query = {"key": key} if key is not None else {}
    query |= dict.fromkeys(flags, "true")
    where = "by-key" if task_id is None else segment(task_id)
    return f"{under}/{where}{call}" + (f"?{urlencode(query)}" if query else "")


def by_key(key: str, done: str, *, as_json: bool) -> None:
    """Tells what became of the task that an idempotency key names."""
    return messages.out_json({"key": key, "ok": True}) if as_json else messages.out(f"{texts.line(key)}  {done}")


def each(task_ids: Sequence[str], act: Callable[[str], object], done: str, *, as_json: bool) -> None:
    """Acts on each task and prints the outcome of each. Ends with the error's exit code; 1 when some went well or
    errors differ."""
    results: list[dict[str, Any]] = []
    codes: set[Exit] = set()
    for task_id in dict.fromkeys(task_ids):
        try:
            act(task_id)
        except NodeRefused as error:
            # It would only be the same for the others.
            if error.exit in (Exit.NOT_ALLOWED, Exit.NO_SERVER) or error.code.startswith("http_"):
                raise
            codes.add(error.exit)
            results.append({"id": task_id, "ok": False, "error": {"code": error.code, "detail": error.detail}})
            if not as_json:
                messages.error(str(error))
        else:
            codes.add(Exit.DONE)
            results.append({"id": task_id, "ok": True})
            if not as_json:
                messages.out(f"{texts.line(task_id)}  {done}")
    if as_json:
        messages.out_json({"results": results})
    raise typer.Exit(codes.pop() if len(codes) == 1 else Exit.FAILED)


def show_changed(answer: dict[str, Any], done: str, *, dry_run: bool, as_json: bool) -> None:
    """What became of the tasks that a filter matched."""
    if as_json:
        return messages.out_json(answer)
    note_scan(answer)
    if dry_run:
        sample = "".join(f"\n  {task_id}" for task_id in answer.get("sample_ids", ()))
        return messages.out(f"{answer['matched']:,} match; nothing was changed{sample}")
    skipped = f", {answer['skipped']:,} had begun or ended before" if answer.get("skipped") else ""
    return messages.out(f"{answer.get('changed', 0):,} {done}{skipped}")
