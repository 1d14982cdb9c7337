"""The commands. Their exit codes are in exits.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.main import get_command_name

from delaybox import __version__
from delaybox.cli import changes, dead, messages, naming, quarantine, queues, tasks, usage, watch
from delaybox.cli import serve as serve_command
from delaybox.cli import webhook as webhook_command
from delaybox.cli import worker as worker_command
from delaybox.cli.client import NodeRefused
from delaybox.cli.exits import Exit, of_error
from delaybox.cli.local import ConfigFile, DataDir, Redis, Settings, assignments, flags_of, run_to_end
from delaybox.cli.options import DEFAULT_SERVER, AsJson, Server, Token, connect, disconnect
from delaybox.core.errors import ConfigError, DelayBoxError

if TYPE_CHECKING:
    from delaybox.config import Config

app = typer.Typer(
    name="delaybox",
    help="One-time tasks that fire on the millisecond, kept in Redis or Valkey.",
    # Boxes are for eyes: what is piped or logged is plain text.
    rich_markup_mode="rich" if sys.stdout is not None and sys.stdout.isatty() else None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Tasks")
store_app = typer.Typer(help="Which store lies on the server.", no_args_is_help=True)
app.add_typer(store_app, name="store")
tasks.register(app)
changes.register(app)
app.add_typer(dead.app, name="dead", rich_help_panel="Tasks")
watch.register(app)
app.add_typer(queues.app, name="queues", rich_help_panel="Watching")
app.add_typer(webhook_command.app, name="webhook")
app.command("worker")(worker_command.worker)
app.command("serve")(serve_command.serve)


def run() -> int:
    """Run the command that sys.argv names; its exit code."""
    usage.have_streams()
    try:
        ended = alone(sys.argv[1:])(standalone_mode=False)
        return ended if isinstance(ended, int) else Exit.DONE
    except usage.ClickError as error:
        return usage.report(error)
    except SystemExit as end:
        # typer ends so when a pipe is closed (`delaybox listen | head`), which is no failure.
        if isinstance(end.__context__, BrokenPipeError):
            return _unread()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        if error.errno not in usage.NO_ROOM:
            raise
        messages.error(f"the answer could not be written: {error.strerror}")
        _unread()
        return Exit.FAILED
    except DelayBoxError as error:
        facts = {"code": error.code, **({"status": error.status} if isinstance(error, NodeRefused) else {})}
        messages.error(_text(error), **facts)
        return of_error(error)
    finally:
        disconnect()


def _text(error: DelayBoxError) -> str:
    if not isinstance(error, NodeRefused):
        return str(error)
    words = sys.argv[1:]
    return naming.in_options(str(error), error.field, naming.options_of(alone(words), words))


def _unread() -> int:
    # Keeps Python's own flush at exit from failing as well.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.DONE


def alone(words: Sequence[str]) -> typer.Typer:
    """The app with nothing but the command or group that the first word names, or all of it: to make the parsers of
    all commands takes a tenth of a second."""
    first = words[0] if words else ""
    commands = [
        info
        for info in app.registered_commands
        if first == (info.name or get_command_name(info.callback.__name__ if info.callback else ""))
    ]
    groups = [info for info in app.registered_groups if info.name == first]
    if not commands and not groups:
        return app
    chosen = copy(app)
    chosen.registered_commands, chosen.registered_groups = commands, groups
    return chosen


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"delaybox {__version__}")
        raise typer.Exit


@app.command()
def listen(
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    channel: Annotated[
        str | None, typer.Option(help="Channel; default storage.taskExecutionChanel, TaskExecution.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="End after this many tasks; 0: go on.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print each task that arrives on the execution channel, with its lateness.

    The message holds the time that the task was created with: of one moved to later, the lateness is from that; of one
    moved to earlier or run at once it is not known.
    """
    from delaybox.cli.listen import listen as listening
    from delaybox.config import load

    chosen = load(path=config, flags={"storage.redisUrl": redis, "dataDir": data_dir}).config
    run_to_end(lambda: listening(chosen, channel=channel, count=count, as_json=as_json))


@app.command()
def fsck(
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    settings: Settings = None,
) -> None:
    """Prove a live store's invariants; exit code 1 when a problem was found."""
    from delaybox.cli.fsck import check
    from delaybox.config import load

    flags = flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})
    chosen = load(path=config, flags=flags).config
    raise typer.Exit(run_to_end(lambda: check(chosen, repair=repair, as_json=as_json)))


@store_app.command("accept")
def store_accept(
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    settings: Settings = None,
) -> None:
    """Say that what is on the server now is meant, empty or not, after nodes found their store gone."""
    from delaybox.cli.store import accept_store
    from delaybox.config import load

    flags = flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})
    chosen = load(path=config, flags=flags).config
    raise typer.Exit(run_to_end(lambda: accept_store(chosen, as_json=as_json)))


@app.command("import-legacy")
def import_original(
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The original's server; default: the store's own.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The original's sorted set; default storage.schedulerKeyName, scheduled_tasks.")
    ] = None,
    dedupe: Annotated[
        bool,
        typer.Option("--dedupe", help="Fold copies (equal header, payload and time) that several nodes stored."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    settings: Settings = None,
) -> None:
    """Take over the Go original's pending tasks; stop it first. Run again after a failure, it goes on."""
    from delaybox.cli.import_original import take_over
    from delaybox.config import load

    flags = flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})
    chosen = load(path=config, flags=flags).config
    raise typer.Exit(
        run_to_end(lambda: take_over(chosen, source=source, key=key, dedupe=dedupe, dry_run=dry_run, as_json=as_json))
    )


@app.command("export")
def export_store(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; - for stdout.")],
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a file whose export ended early.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    settings: Settings = None,
) -> None:
    """Write every task, dead letter and key of a store into a file, beside nodes that go on working."""
    from delaybox.cli.transfer import write
    from delaybox.config import load

    flags = flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})
    chosen = load(path=config, flags=flags).config
    raise typer.Exit(run_to_end(lambda: write(chosen, file, resume=resume, as_json=as_json)))


@app.command("import")
def import_store(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `delaybox export` wrote; - for stdin.")],
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    skip_past: Annotated[
        bool, typer.Option("--skip-past", help="Leave out tasks whose time is over; otherwise they run at once.")
    ] = False,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Go on behind a damaged line.")] = False,
    ids_file: Annotated[
        Path | None, typer.Option("--ids", metavar="FILE", help="Write old and new ids, where they differ.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    settings: Settings = None,
) -> None:
    """Store what `delaybox export` wrote. Run again after a failure, it goes on; nothing is stored twice."""
    from delaybox.cli.transfer import read
    from delaybox.config import load

    flags = flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})
    chosen = load(path=config, flags=flags).config
    raise typer.Exit(
        run_to_end(
            lambda: read(
                chosen, file, skip_past=skip_past, skip_damaged=skip_damaged, ids_file=ids_file, as_json=as_json
            )
        )
    )


@app.command(rich_help_panel="Watching")
def doctor(
    config: ConfigFile = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Look at a node, its server, persistence, clocks and versions, and say what to do; exit code 1 on a problem."""
    from delaybox.cli.doctor import run as examine

    def chosen() -> Config:
        from delaybox.config import load

        return load(path=config, flags=flags_of(settings, {"storage.redisUrl": redis, "dataDir": data_dir})).config

    raise typer.Exit(examine(connect(server, token, as_json), chosen, as_json=as_json))


@app.command()
def token(
    name: Annotated[str, typer.Option(help="Whose it is, for people.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="read, schedule, cancel, admin, worker or shell; repeatable. Default: all of them but shell."
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="Until when it is good: how long from now such as 90d, or RFC 3339. Default: for ever.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make a bearer token and the line of configuration that accepts it."""
    from delaybox.cli.token import make

    make(name=name, scopes=scope or (), expires=expires, as_json=as_json)


@config_app.command("check")
def config_check(config: ConfigFile = None, settings: Settings = None) -> None:
    """Check file and environment as `serve` would read them; unknown keys are errors here."""
    from delaybox.config import load

    loaded = load(path=config, flags=assignments(settings))
    if loaded.warnings:
        raise ConfigError("\n".join(loaded.warnings))
    typer.echo(f"{loaded.path or 'no configuration file'}: no mistakes")
