"""A conversation in the crash matrix: whatever is killed within or between its completions, it goes on as it was."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import re
import signal
from typing import TYPE_CHECKING

import pytest
from rlm_client import UnavailableError

from tests.durability.cluster import Cluster
from tests.durability.load import Reader
from tests.durability.test_crashes import directory
from tests.durability.test_recovery import assert_told_once
from tests.support.held_script import HeldScript

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

    from rlm_client import AsyncConversation

    from tests.durability.cluster import Process
    from tests.support.rlm_stack import Events
    from tests.support.scripted_model import Messages, ScriptedModel, ScriptedReply

__all__ = ["directory"]

pytestmark = pytest.mark.timeout(300)

_TURNS = [
    "```repl\nimport random\nfound = globals().get('found', [])\nfound.append(llm_query('leaf QUESTION'))\n```",
    "```repl\ndraws = [*globals().get('draws', []), random.random()]\nprint('x' * 100_000)\n```",
    "```repl\nFINAL([found, draws, len(history_0) if 'history' in globals() else 0])\n```",
]
STEPS = ["turn 0", "leaf", "turn 1", "turn 2"]


class Script(HeldScript):
    """Plays the same completion for each question, and can hold any of its replies back."""

    def __init__(self) -> None:
        self.asked: collections.Counter[tuple[str, str]] = collections.Counter()
        super().__init__()

    def __call__(self, messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "user":
            name, question = messages[0]["content"].split()
            reply = f"LEAF {question}"
        else:
            question = re.findall(r"What is (\w+)\?", messages[1]["content"])[-1]
            turn = sum(message["role"] == "assistant" for message in messages)
            name, reply = f"turn {turn}", _TURNS[turn].replace("QUESTION", question)
        self.asked[question, name] += 1
        return self.reply(name, reply)


class Talk:
    """A conversation on a cluster, and what must be true of it whatever is killed."""

    def __init__(self, cluster: Cluster, model: ScriptedModel, talk: AsyncConversation) -> None:
        self._cluster = cluster
        self._talk = talk
        self._script = Script()
        self._answers: list[list[object]] = []
        model.follow(self._script)

    async def ask(
        self, kill: Callable[[str], Coroutine[object, object, None]] | None = None, steps: Sequence[str] = STEPS
    ) -> Events:
        """Asks the next question, and kills something at steps of its completion.

        Args:
            kill: gets the completion's id, kills something and brings it back. None kills nothing.
            steps: where.
        """
        question = f"q{len(self._answers)}"
        script = self._script
        await self._until_reachable()
        if kill is not None:
            script.hold_at(steps[0])
        reader = Reader(await self._talk.stream(f"What is {question}?", "abc"))
        await asyncio.wait_for(reader.has_begun.wait(), 30)
        for next_step in [*steps[1:], ""] if kill is not None else []:
            await asyncio.wait_for(script.reached.wait(), 30)
            held = script.held
            script.hold_at(next_step)
            await kill(reader.events[0].completion_id)  # type: ignore[misc]
            held.set()
        events = await reader.end()
        self._check(events, question)
        return events

    async def _until_reachable(self) -> None:
        """Waits until the client has a connection: it gives up early where nothing has begun."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(UnavailableError):
                    await self._cluster.client.list_conversations()
                    return
                await asyncio.sleep(0.1)

    def _check(self, events: Events, question: str) -> None:
        found, draws, messages = json.loads(events.answer)
        assert found == [f"LEAF q{number}" for number in range(len(self._answers) + 1)]
        for answer in self._answers:  # what was drawn before is the same still
            assert draws[: len(answer)] == answer
        assert len(draws) == len(found)
        assert messages == (6 if self._answers else 0)
        self._answers.append(draws)
        assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
        assert_told_once(events)
        assert "REPLAY_DIVERGED" not in events.warnings
        # One reply at a time is on its way, and only that is asked for again by the next server.
        asked = [self._script.asked[question, name] for name in STEPS]
        assert all(asked), self._script.asked
        assert sum(asked) <= len(STEPS) + len(events.of("resumed")), self._script.asked


SOME, ALL = STEPS[1:3], pytest.param(STEPS, marks=pytest.mark.slow)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def cluster(request: pytest.FixtureRequest, directory: Path, model: ScriptedModel) -> AsyncIterator[Cluster]:
    database = None
    if request.param == "postgresql":
        database = await asyncio.to_thread(request.getfixturevalue("postgres").new_database)
    async with Cluster(directory, model, database=database) as running:
        yield running


@pytest.mark.parametrize("steps", [SOME, ALL])
async def test_anything_is_killed_at_steps_of_later_completions_and_between_them(
    cluster: Cluster, model: ScriptedModel, steps: Sequence[str]
) -> None:
    restarting: list[asyncio.Task[None]] = []

    async def kill_server(completion_id: str) -> None:
        victim = await cluster.owner_of(completion_id)
        await asyncio.gather(*restarting)
        await victim.kill()
        restarting[:] = [asyncio.create_task(victim.start())]

    async def kill_sandbox(_: str) -> None:
        await cluster.sandbox.kill()
        await cluster.sandbox.start()

    async def kill_worker(_: str) -> None:
        cluster.kill_worker()

    async with cluster.client.conversation() as conversation:
        talk = Talk(cluster, model, conversation)
        await talk.ask()
        assert len((await talk.ask(kill_server, steps)).of("resumed")) == len(steps)
        await asyncio.gather(*restarting)
        assert (await talk.ask(kill_sandbox, steps)).of("sandbox_restored")
        assert (await talk.ask(kill_worker, steps)).of("sandbox_restored")
        await kill_sandbox("")
        assert (await talk.ask()).of("sandbox_restored")
        await asyncio.gather(*(server.kill() for server in cluster.servers))
        await asyncio.gather(*(server.start() for server in cluster.servers))
        assert (await talk.ask()).of("sandbox_restored")
        sizes = {one.name: one.size for one in (await conversation.variables()).variables}
        assert sizes["found"] == 6
    await cluster.assert_nothing_left()


@pytest.mark.slow
async def test_a_server_that_was_paused_goes_on_with_what_another_has_done(
    cluster: Cluster, model: ScriptedModel
) -> None:
    paused: list[Process] = []

    async def pause_or_wake(completion_id: str) -> None:
        if paused:
            paused[0].send(signal.SIGCONT)
        else:
            paused.append(await cluster.owner_of(completion_id))
            paused[0].send(signal.SIGSTOP)

    async with cluster.client.conversation() as conversation:
        talk = Talk(cluster, model, conversation)
        await talk.ask()
        events = await talk.ask(pause_or_wake, ["leaf", "turn 2"])
        assert len(events.of("resumed")) == 1
        for _ in range(2):
            await talk.ask()
    assert any("runs on another server now" in line for line in paused[0].log)
    await cluster.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_anything_is_killed_at_any_time_in_a_conversation(
    cluster: Cluster, model: ScriptedModel, seed: int
) -> None:
    chance = random.Random(seed)

    async def kill_something(_: str) -> None:
        victim = chance.choice(["rlm", "sandbox", "worker", "connection"])
        if victim == "worker":
            cluster.kill_worker()
        elif victim == "connection":
            chance.choice(cluster.proxies).cut()
        else:
            process = cluster.sandbox if victim == "sandbox" else chance.choice(cluster.servers)
            await process.kill()
            await process.start()

    async with cluster.client.conversation() as conversation:
        talk = Talk(cluster, model, conversation)
        for _ in range(4):
            await talk.ask(kill_something)
            await kill_something("")
    await cluster.assert_nothing_left()
