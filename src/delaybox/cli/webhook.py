"""`delaybox webhook listen/send/hosts`: a receiver for development, a request as a node would send it, and the hosts
to which a node sends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delaybox.cli.options import DEFAULT_SERVER, AsJson, Server, Token

app = typer.Typer(
    help="Webhooks: receive them while developing, send one by hand, see what hosts answer.", no_args_is_help=True
)

Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        envvar="DELAYBOX_WEBHOOKS_SECRET",
        metavar="whsec_…",
        show_default=False,
        help="As in webhooks.secret; repeatable. In the environment it stays off the list of processes.",
    ),
]


@app.command()
def listen(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0: any free one.")] = 8099,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    secret: Secrets = None,
    status: Annotated[int, typer.Option(min=200, max=599, help="What is answered to a request that is true.")] = 204,
    retry_after: Annotated[str | None, typer.Option(metavar="SECONDS", help="Answer with this Retry-After.")] = None,
    count: Annotated[int, typer.Option(min=0, help="End after this many requests; 0: go on.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print each webhook that arrives, and check its signature: 401 where no secret fits."""
    # Late, for the other commands and --help do without what it needs.
    from delaybox.cli import webhook_tools

    webhook_tools.listen(port, host, secret, status, retry_after, count, as_json)


@app.command()
def send(
    url: Annotated[str, typer.Argument(metavar="URL", help="What is called.")],
    payload: Annotated[str | None, typer.Option(metavar="TEXT", help="The body as text.")] = None,
    payload_json: Annotated[str | None, typer.Option(metavar="JSON", help="The body as JSON.")] = None,
    payload_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The body from a file.")] = None,
    method: Annotated[str, typer.Option(metavar="METHOD", help="Method.")] = "POST",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="KEY=VALUE", help="A header; repeatable.")
    ] = None,
    cloudevents: Annotated[
        str | None, typer.Option(metavar="FORM", help="As a CloudEvent: binary or structured.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the request, byte for byte.")] = False,
    secret: Secrets = None,
    timeout: Annotated[str, typer.Option(metavar="SPAN", help="Longest time for the whole answer.")] = "10s",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Send a webhook from this machine now, signed as a node would sign it; or only show it (--dry-run)."""
    from delaybox.cli import webhook_tools

    body = (payload, payload_json, payload_file)
    webhook_tools.send(url, body, method, header, cloudevents, dry_run, secret, timeout, as_json)


@app.command()
def hosts(server: Server = DEFAULT_SERVER, token: Token = "", as_json: AsJson = False) -> None:
    """Show what each host has answered to the webhooks of one node, how long it took, and how late they were."""
    from dataclasses import asdict

    from delaybox.cli import messages, options, webhook_hosts

    found = webhook_hosts.read(options.connect(server, token, as_json))
    if as_json:
        return messages.out_json({"hosts": [asdict(one) for one in found]})
    if not found:
        return messages.out("this node has sent no webhook since it was started")
    return messages.table(webhook_hosts.table(found, messages.width()))
