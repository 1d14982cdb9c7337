"""Sessions of the dashboard at several nodes of one store, which sign cookies with a secret that lies there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.core.scopes import Access, Token
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, kept
from tests.visitor import Visitor
from tests.waiting import until_async

TOKEN = "token-for-everything"


def node_of(server: RealServer, prefix: str) -> dict[str, Any]:
    """What starts a node without a secret of its own."""
    tokens = (Token.of(TOKEN, tuple(Access)),)
    return {
        "server": server.settings,
        "prefix": prefix,
        "partitions": 1,
        "tokens": tokens,
        "dashboard": DashboardSettings(),
    }


def test_pages_of_one_node_lead_to_the_next(server: RealServer) -> None:
    """As behind a proxy, where each request may come to another node; and after the restart of all."""
    settings = node_of(server, a_prefix())
    with kept(rest_process(**settings)) as one, kept(rest_process(**settings)) as other:
        visitor = Visitor(one.port)
        form = visitor.form_of("/dashboard/login")
        cookies = visitor.carried_to(other.port)
        given = {"form": form, "token": TOKEN, "next": "/dashboard/queues"}
        status, headers, _ = cookies.post("/dashboard/login", given)
        assert (status, headers["location"]) == (303, "/dashboard/queues")
        back = cookies.carried_to(one.port)
        form = back.form_of("/dashboard/schedule")
    with kept(rest_process(**settings)) as later:
        after = back.carried_to(later.port)
        status, headers, text = after.post("/dashboard/schedule", {"form": form, "type": "pub_sub", "payload": "x"})
        assert status == 303, (status, text)


async def test_nodes_take_another_secret_when_the_store_was_made_anew(server: RealServer, client: Redis) -> None:
    prefix = a_prefix()
    settings = node_of(server, prefix)
    async with rest_process(**settings) as old:
        entered = Visitor(old.port)
        assert (await asyncio.to_thread(entered.log_in, TOKEN))[0] == 303
        await client.delete(f"{prefix}:dashboard:secret")
        async with rest_process(**settings) as new:
            visitor = Visitor(new.port)
            assert (await asyncio.to_thread(visitor.log_in, TOKEN))[0] == 303
            there = visitor.carried_to(old.port)

            async def shown() -> bool:
                return (await asyncio.to_thread(there.get, "/dashboard/queues"))[0] == 200

            await until_async(shown)


async def test_who_is_logged_in_stays_so_where_the_store_goes_before_a_node_knows_the_secret(
    make_server: Callable[..., RealServer],
) -> None:
    """The node cannot know yet whether the cookie is good, and the form for a token would set another one."""
    own = make_server("--appendonly", "yes")
    settings = node_of(own, a_prefix())
    async with rest_process(**settings) as one:
        visitor = Visitor(one.port)
        assert (await asyncio.to_thread(visitor.log_in, TOKEN))[0] == 303
    async with rest_process(**settings) as other:
        own.kill()
        back = visitor.carried_to(other.port)
        status, _, text = await asyncio.to_thread(back.get, "/dashboard/queues")
        assert status == 503 and "tries again by itself" in text and not back.set, (status, back.set)
        own.start()

        async def shown() -> bool:
            return (await asyncio.to_thread(back.get, "/dashboard/queues"))[0] == 200

        await until_async(shown)
