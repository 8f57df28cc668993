"""Connections that are cut: to the client, to the sandbox server, to the database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from rlm_client import AsyncClient

from tests.durability.load import Reader
from tests.durability.proxy import Proxy
from tests.durability.test_crashes import STEPS, check, check_so_far
from tests.durability.test_recovery import Script
from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.durability.postgres import PostgresServer
    from tests.support.scripted_model import ScriptedModel


async def go_through(model: ScriptedModel, proxy: Proxy, client: AsyncClient) -> Any:
    """Runs a completion, and cuts the proxy's connections at every step; returns the stream of its events."""
    script = Script(hold=STEPS[0])
    model.follow(script)
    reader = Reader(await client.stream("abc", "What is it?"))  # type: ignore[arg-type]
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        proxy.cut()
        check_so_far(reader.events, script)
        script.let_go(STEPS[index + 1] if index + 1 < len(STEPS) else "")
    events = await reader.end()
    check(events, script)
    assert proxy.cut_count >= len(STEPS)
    return reader.stream


async def test_the_client_is_cut_off_at_every_step(model: ScriptedModel) -> None:
    async with (
        running_stack(model, client_grace_seconds=20) as stack,
        Proxy(stack.server.addresses[0]) as proxy,
        AsyncClient(f"127.0.0.1:{proxy.port}") as client,
    ):
        stream = await go_through(model, proxy, client)
        assert stream.resume_count >= 1


async def test_the_sandbox_server_is_cut_off_at_every_step(model: ScriptedModel, sandbox_address: str) -> None:
    async with (
        Proxy(sandbox_address) as proxy,
        running_stack(model, sandbox=f"127.0.0.1:{proxy.port}") as stack,
        AsyncClient(stack.server.addresses[0]) as client,
    ):
        await go_through(model, proxy, client)


async def test_the_database_is_cut_off_at_every_step(
    model: ScriptedModel, postgres: PostgresServer, tmp_path: Path
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        url = database.replace(f":{postgres.port}/", f":{proxy.port}/")
        async with (
            running_stack(model, database=url, data_dir=tmp_path) as stack,
            AsyncClient(stack.server.addresses[0]) as client,
        ):
            await go_through(model, proxy, client)


pytestmark = pytest.mark.timeout(120)
