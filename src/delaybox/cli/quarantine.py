"""`delaybox quarantine list/retry/discard`: records that could not be read, in the store itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from delaybox.cli import messages, render
from delaybox.cli.exits import Exit
from delaybox.cli.local import ConfigFile, DataDir, Redis, Settings, flags_of, run_to_end
from delaybox.core import ids
from delaybox.core.errors import ConfigError

if TYPE_CHECKING:
    from delaybox.store.store import Store

app = typer.Typer(
    help="Records that could not be read. List them, put them back once they can be, throw them away.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids; or give --all.")]
All = Annotated[bool, typer.Option("--all", help="All that lie there.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
_EVERYTHING = 1_000_000


@app.command("list")
def list_records(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")] = 100,
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    settings: Settings = None,
) -> None:
    """List quarantined records, oldest first, each with why it cannot be read."""

    async def work(store: Store) -> int:
        from delaybox.store.quarantine import listed

        found = await listed(store, limit)
        if as_json:
            messages.out_json(
                {
                    "records": [
                        {"id": ids.render(r.task_id), "since_ms": r.since_ms, "bytes": r.size, "problem": r.problem}
                        for r in found
                    ]
                }
            )
        elif found:
            rows = [
                [
                    ids.render(r.task_id),
                    render.moment(r.since_ms),
                    str(r.size),
                    r.problem or "none by now: retry",
                ]
                for r in found
            ]
            messages.table(render.table(["id", "since", "bytes", "problem"], rows, right=(2,), width=messages.width()))
        else:
            messages.out("no quarantined records")
        return Exit.DONE

    _in_store(config, redis, data_dir, settings, work)


@app.command()
def retry(
    task_ids: Ids = None,
    everything: All = False,
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    settings: Settings = None,
) -> None:
    """Put records back that this version can read: they are pending again, at their due time."""

    async def work(store: Store) -> int:
        from delaybox.store.quarantine import restore

        chosen = await _chosen(store, task_ids, everything)
        words = await restore(store, chosen)
        back = words.count("restored")
        if as_json:
            messages.out_json({"restored": back, "left": len(words) - back})
        else:
            messages.out(f"{back:,} put back")
            for task_id, word in zip(chosen, words, strict=True):
                if word != "restored":
                    messages.error(f"{ids.render(task_id)}: {_WHY[word]}")
        return Exit.DONE if back == len(words) else Exit.FAILED

    _in_store(config, redis, data_dir, settings, work)


@app.command()
def discard(
    task_ids: Ids = None,
    everything: All = False,
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    settings: Settings = None,
) -> None:
    """Delete quarantined records for good."""

    async def work(store: Store) -> int:
        from delaybox.store.quarantine import evict

        chosen = await _chosen(store, task_ids, everything)
        deleted = await evict(store, chosen)
        if as_json:
            messages.out_json({"discarded": deleted, "unknown": len(chosen) - deleted})
        else:
            messages.out(f"{deleted:,} discarded")
            if deleted < len(chosen):
                messages.error(
                    f"{len(chosen) - deleted:,} ids do not lie in quarantine; see `delaybox quarantine list`"
                )
        return Exit.DONE if deleted == len(chosen) else Exit.FAILED

    _in_store(config, redis, data_dir, settings, work)


_WHY = {
    "unreadable": "this version cannot read it either; try a newer one, or discard it",
    "newer": "a newer DelayBox wrote it; run the command of that version",
    "elsewhere": "the task stands elsewhere already, see `delaybox get`; discard this copy",
    "unknown": "it does not lie in quarantine; see `delaybox quarantine list`",
}


async def _chosen(store: Store, task_ids: list[str] | None, everything: bool) -> list[bytes]:
    from delaybox.store.quarantine import listed

    if bool(task_ids) == everything:
        raise ConfigError("give ids, or --all")
    if task_ids:
        return list(dict.fromkeys(ids.parse(one) for one in task_ids))
    return [record.task_id for record in await listed(store, _EVERYTHING)]


def _in_store(
    config: ConfigFile, redis: Redis, data_dir: DataDir, settings: Settings, work: Callable[[Store], Awaitable[int]]
) -> None:
    from delaybox.config import load

    chosen = load(path=config, flags=flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})).config

    async def run() -> int:
        from delaybox.cli.server import existing_store

        async with existing_store(chosen) as store:
            return await work(store)

    raise typer.Exit(run_to_end(run))
