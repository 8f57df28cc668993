"""The crash matrix: whatever is killed, and whenever, the answer is the same and nothing paid for is repeated."""

from __future__ import annotations

import asyncio
import collections
import math
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.durability.cluster import Cluster
from tests.durability.load import Completions, Load, Reader
from tests.durability.test_recovery import ALL, ANSWER, Script, assert_told_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from tests.durability.postgres import PostgresServer
    from tests.support.rlm_stack import Events
    from tests.support.scripted_model import ScriptedModel

pytestmark = pytest.mark.timeout(300)

STEPS = [name for name in ALL if name not in ("two", "three")]  # which are answered while `one` is held back


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlm-") as path:  # pytest's are too long for a Unix socket
        yield Path(path)


@pytest.fixture
async def cluster(directory: Path, model: ScriptedModel) -> AsyncIterator[Cluster]:
    async with Cluster(directory, model) as running:
        yield running


async def begin(cluster: Cluster, script: Script, model: ScriptedModel) -> tuple[Reader, str]:
    model.follow(script)
    reader = Reader(await cluster.client.stream("abc", "What is it?"))  # type: ignore[arg-type]
    await asyncio.wait_for(reader.has_begun.wait(), 30)
    return reader, reader.events[0].completion_id


SANDBOXES = 2
"""Of a completion: the root's and its child's."""


class Kills:
    """What was on its way from the model whenever the server that had asked for it was killed."""

    def __init__(self) -> None:
        self.count = 0
        self.again: collections.Counter[str] = collections.Counter()
        """How often each reply was on its way: as often it is asked for again."""
        self.maybe_again: collections.Counter[str] = collections.Counter()
        """How often it may have been, or have been recorded already."""

    def note(self, name: str) -> None:
        """Takes note of a kill while the model held back the reply of that name."""
        self.count += 1
        self.again[name] += 1
        if name == "one":
            self.maybe_again.update(["two", "three"])  # which are asked for together with it, and not held back


def check(events: Events, script: Script, kills: Kills | None = None) -> None:
    """Asserts that nothing was lost, repeated or changed.

    Args:
        events: all.
        script: counts what the model was asked.
        kills: of RLM servers. On a busy machine a server may lose its lease besides, which is like a kill.
    """
    kills = kills or Kills()
    assert events.answer == ANSWER
    check_so_far(events.all, script, kills, losses=len(events.of("resumed")) - kills.count)
    assert_told_once(events)
    for name in ALL:
        assert script.asked[name] >= 1 + kills.again[name], (name, script.asked)


def check_so_far(
    events: Sequence[event_pb2.Event], script: Script, kills: Kills | None = None, *, losses: int = 0
) -> None:
    """Asserts that what was told so far has no gap, and that only what was on its way was asked for again."""
    kills = kills or Kills()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for name, count in script.asked.items():
        assert count <= 1 + kills.again[name] + kills.maybe_again[name] + losses, (name, script.asked)


async def test_an_rlm_server_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, completion_id = await begin(cluster, script, model)
    await kill_owners(cluster, script, reader, completion_id)
    assert reader.stream.resume_count >= 1
    await cluster.assert_nothing_left()


async def kill_owners(cluster: Cluster, script: Script, reader: Reader, completion_id: str) -> None:
    """Kills the server that runs a completion at every step, and asserts that all is well each time and in the end."""
    restarting: set[asyncio.Task[None]] = set()
    kills = Kills()
    for name, next_name in zip(STEPS, [*STEPS[1:], ""], strict=True):
        await asyncio.wait_for(script.reached.wait(), 30)
        victim = await cluster.owner_of(completion_id)
        await asyncio.gather(*restarting)
        await cluster.assert_no_more_than(SANDBOXES)
        check_so_far(reader.events, script, kills, losses=cluster.losses_of(completion_id, kills.count))
        await victim.kill()
        kills.note(name)
        script.hold_at(next_name)
        restarting = {asyncio.create_task(victim.start())}
    events = await reader.end()
    await asyncio.gather(*restarting)
    check(events, script, kills)
    assert len(events.of("resumed")) >= len(STEPS)


async def test_the_sandbox_server_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, completion_id = await begin(cluster, script, model)
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        await cluster.sandbox.kill()
        script.let_go(STEPS[index + 1] if index + 1 < len(STEPS) else "")
        await cluster.sandbox.start()
        await cluster.assert_no_more_than(SANDBOXES)
        check_so_far(reader.events, script, losses=cluster.losses_of(completion_id))
    events = await reader.end()
    check(events, script)
    assert events.of("sandbox_restored")
    await cluster.assert_nothing_left()


async def test_the_sandbox_worker_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, completion_id = await begin(cluster, script, model)
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        cluster.kill_worker()
        script.let_go(STEPS[index + 1] if index + 1 < len(STEPS) else "")
        await cluster.assert_no_more_than(SANDBOXES)
        check_so_far(reader.events, script, losses=cluster.losses_of(completion_id))
    events = await reader.end()
    check(events, script)
    assert events.of("sandbox_restored")
    await cluster.assert_nothing_left()


KILLS = 12
"""Of each of the tests below. `make test` has one for SQLite, `make test-slow` as many as `SEEDS`."""

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 17))]


@pytest.mark.parametrize("seed", SEEDS)
async def test_anything_is_killed_at_any_time(cluster: Cluster, model: ScriptedModel, seed: int) -> None:
    await kill_at_random(cluster, model, random.Random(seed), ["rlm", "rlm", "sandbox", "worker", "connection"])


async def kill_at_random(
    cluster: Cluster,
    model: ScriptedModel,
    chance: random.Random,
    victims: list[str],
    postgres: PostgresServer | None = None,
) -> None:
    """Runs three completions, kills something of the cluster again and again, and asserts that all is well."""
    load = Load()
    model.follow(load)
    completions = Completions(cluster, load)
    await completions.begin(cluster.client, 3)
    for _ in range(KILLS):
        load.let(3 * len(ALL) / KILLS)
        await asyncio.sleep(chance.uniform(0.0, 0.4))
        victim = chance.choice(victims)
        if victim == "worker":
            cluster.kill_worker(chance.randrange(len(cluster.sandboxes)))
        elif victim == "connection":
            chance.choice(cluster.proxies).cut()
        elif victim == "database" and postgres is not None:
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.start)
        elif victim == "sandbox":
            sandbox = chance.choice(cluster.sandboxes)
            await sandbox.kill()
            await sandbox.start()
        else:
            server = chance.choice(cluster.servers)
            await completions.kill(server)
            await server.start()
        await asyncio.to_thread(completions.check_so_far)
        await cluster.assert_no_more_than(SANDBOXES * completions.count)
    load.let(math.inf)
    await completions.check()
    await cluster.assert_nothing_left()
