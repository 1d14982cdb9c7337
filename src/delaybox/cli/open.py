"""`delaybox open`: the dashboard in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from delaybox.cli import messages
from delaybox.cli.options import DEFAULT_SERVER, Server, connect
from delaybox.core.errors import ConfigError

PATH = "/dashboard"


def open_(
    server: Server = DEFAULT_SERVER,
    show: Annotated[bool, typer.Option("--print", help="Only print the address.")] = False,
) -> None:
    """Open the node's dashboard in the browser."""
    client = connect(server, "", False)
    if client.raw("GET", f"{client.root}{PATH}/login", None).status == 404:
        raise ConfigError(
            f"the node at {client.url} shows no dashboard there: it is switched off (dashboard.enabled), or has a port "
            "of its own (dashboard.port); give that address with --server"
        )
    messages.out(client.url + PATH)
    if not show:
        import webbrowser

        if not webbrowser.open(client.url + PATH):
            messages.note("no browser could be started here; open the address in one")
