"""The crash matrix: whatever is killed, and whenever, the answer is the same and nothing paid for is repeated."""

from __future__ import annotations

import asyncio
import collections
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.durability.cluster import Cluster
from tests.durability.test_recovery import ALL, ANSWER, Script, assert_told_once
from tests.support.rlm_stack import Events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from rlm_api.rlm.v1 import event_pb2
    from rlm_client import AsyncEventStream

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


class Reader:
    """Reads a stream to its end while other things happen."""

    def __init__(self, stream: AsyncEventStream[None]) -> None:
        self.stream = stream
        self.events: list[event_pb2.Event] = []
        self.has_begun = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.stream:
            self.events.append(event)
            self.has_begun.set()

    async def end(self) -> Events:
        await asyncio.wait_for(self._task, 60)
        return Events(self.events)


async def begin(cluster: Cluster, script: Script, model: ScriptedModel) -> tuple[Reader, str]:
    model.follow(script)
    reader = Reader(await cluster.client.stream("abc", "What is it?"))  # type: ignore[arg-type]
    await asyncio.wait_for(reader.has_begun.wait(), 30)
    return reader, reader.events[0].completion_id


def check(events: Events, script: Script, again: collections.Counter[str]) -> None:
    assert events.answer == ANSWER
    assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
    assert_told_once(events)
    for name in ALL:
        assert 1 <= script.asked[name] <= 1 + again[name], (name, script.asked)


async def test_an_rlm_server_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, completion_id = await begin(cluster, script, model)
    restarting: set[asyncio.Task[None]] = set()
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        victim = await cluster.owner_of(completion_id)
        await asyncio.gather(*restarting)
        await victim.kill()
        script.hold_at(STEPS[index + 1] if index + 1 < len(STEPS) else "")
        restarting = {asyncio.create_task(victim.start())}
    events = await reader.end()
    await asyncio.gather(*restarting)
    check(events, script, collections.Counter(ALL))  # `two` and `three` may be under way with `one`
    assert len(events.of("resumed")) == len(STEPS)
    assert reader.stream.resume_count >= 1


async def test_the_sandbox_server_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, _ = await begin(cluster, script, model)
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        await cluster.sandbox.kill()
        script.let_go(STEPS[index + 1] if index + 1 < len(STEPS) else "")
        await cluster.sandbox.start()
    events = await reader.end()
    check(events, script, collections.Counter())
    assert not events.of("resumed")
    assert events.of("sandbox_restored")


async def test_the_sandbox_worker_is_killed_at_every_step(cluster: Cluster, model: ScriptedModel) -> None:
    script = Script(hold=STEPS[0])
    reader, _ = await begin(cluster, script, model)
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        cluster.kill_worker()
        script.let_go(STEPS[index + 1] if index + 1 < len(STEPS) else "")
    events = await reader.end()
    check(events, script, collections.Counter())
    assert events.of("sandbox_restored")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 25))])
async def test_anything_is_killed_at_any_time(cluster: Cluster, model: ScriptedModel, seed: int) -> None:
    chance = random.Random(seed)
    script = Script()
    script.delay_seconds = 0.1
    readers = [await begin(cluster, script, model) for _ in range(3)]
    kills = 0
    while any(not reader.events[-1].HasField("finished") for reader, _ in readers) and kills < 12:
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        victim = chance.choice(["rlm", "rlm", "sandbox", "worker"])
        if victim == "worker":
            cluster.kill_worker()
        else:
            process = cluster.sandbox if victim == "sandbox" else chance.choice(cluster.servers)
            await process.kill()
            await process.start()
        kills += 1
    for reader, _ in readers:
        events = await reader.end()
        assert events.answer == ANSWER
        assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
        assert_told_once(events)
    calls = sum(script.asked.values())
    # A call that was under way when its server was killed is made once more: at most all of them, for each kill.
    assert 3 * len(ALL) <= calls <= 3 * len(ALL) + 3 * 3 * kills
    assert cluster.query("SELECT count(*) FROM completions WHERE state = 1") == [(0,)]
    assert not list((cluster.directory / "blobs").rglob("new-*"))
