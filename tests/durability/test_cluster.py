"""Several RLM servers on one PostgreSQL: crashes, pauses, restarts, and a database that goes away."""

from __future__ import annotations

import asyncio
import math
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.durability.cluster import LEASE_SECONDS, Cluster
from tests.durability.load import Completions, Load
from tests.durability.test_crashes import (
    SANDBOXES,
    STEPS,
    Kills,
    begin,
    check,
    check_so_far,
    directory,
    kill_at_random,
    kill_owners,
)
from tests.durability.test_recovery import ALL, Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.durability.postgres import PostgresServer
    from tests.support.scripted_model import ScriptedModel

__all__ = ["directory"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def cluster(directory: Path, model: ScriptedModel, postgres: PostgresServer) -> AsyncIterator[Cluster]:
    database = await asyncio.to_thread(postgres.new_database)
    async with Cluster(directory, model, database=database) as running:
        yield running


async def test_a_server_that_was_paused_does_no_harm_when_it_wakes_up(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold="one")
    reader, completion_id = await begin(cluster, script, model)
    await asyncio.wait_for(script.reached.wait(), 30)
    paused = await cluster.owner_of(completion_id)
    paused.send(signal.SIGSTOP)
    script.hold_at("root 3")
    await asyncio.wait_for(script.reached.wait(), 30)  # another server has taken it over, and got that far
    paused.send(signal.SIGCONT)
    await asyncio.sleep(2 * LEASE_SECONDS)
    script.let_go("")
    events = await reader.end()
    kills = Kills()
    kills.note("one")
    kills.maybe_again["root 3"] += 1  # if the server that took over loses its lease on a busy machine
    check(events, script, kills)
    assert events.of("resumed")
    assert any("runs on another server now" in line for line in paused.log)


@pytest.mark.parametrize("steps", [STEPS[1::3], pytest.param(STEPS, marks=pytest.mark.slow)], ids=["some", "every"])
async def test_the_database_is_killed_at_steps_of_a_completion(
    cluster: Cluster, model: ScriptedModel, postgres: PostgresServer, steps: list[str]
) -> None:
    script = Script(hold=steps[0])
    reader, completion_id = await begin(cluster, script, model)
    for next_step in [*steps[1:], ""]:
        await asyncio.wait_for(script.reached.wait(), 30)
        await asyncio.to_thread(postgres.kill)
        script.let_go(next_step)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.start)
        await cluster.assert_no_more_than(SANDBOXES)
        check_so_far(reader.events, script, losses=cluster.losses_of(completion_id))
    check(await reader.end(), script)
    await cluster.assert_nothing_left()


@pytest.mark.slow
async def test_an_rlm_server_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, completion_id = await begin(cluster, script, model)
    await kill_owners(cluster, script, reader, completion_id)
    await cluster.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_anything_is_killed_at_any_time(
    directory: Path, model: ScriptedModel, postgres: PostgresServer, seed: int
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Cluster(directory, model, count=3, sandbox_count=2, database=database) as cluster:
        victims = ["rlm", "rlm", "sandbox", "worker", "connection", "database"]
        await kill_at_random(cluster, model, random.Random(seed), victims, postgres)


async def test_rolling_restarts_under_load_lose_nothing(
    directory: Path, model: ScriptedModel, postgres: PostgresServer
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Cluster(directory, model, sandbox_count=2, database=database) as cluster:
        load = Load()
        model.follow(load)
        completions = Completions(cluster, load)
        await completions.begin(cluster.client, 6)
        for processes in zip(cluster.servers, cluster.sandboxes, strict=True):
            load.let(6 * len(ALL) / 3)
            await asyncio.gather(*(process.kill(signal.SIGTERM) for process in processes))
            await asyncio.gather(*(process.start() for process in processes))
        load.let(math.inf)
        await completions.check()
        await cluster.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_rolling_restarts_and_kills_under_steady_load_lose_nothing(
    directory: Path, model: ScriptedModel, postgres: PostgresServer
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Cluster(directory, model, count=3, sandbox_count=2, database=database) as cluster:
        load = Load()
        model.follow(load)
        completions = Completions(cluster, load)
        # Seven replies for each process and round, of the eleven that a completion takes: some always run.
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            for process in (*cluster.servers, *cluster.sandboxes):
                beginning = asyncio.create_task(completions.begin(cluster.client, 1, context_chars=300_000))
                load.let(7)
                await process.kill(number)
                await process.start()
                await beginning
        load.let(math.inf)
        await completions.check()
        assert completions.count == 20
        await cluster.assert_nothing_left()
