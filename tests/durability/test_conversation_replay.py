"""What a REPL has that is made again, or brought up to date: the same as the one at hand, whatever its blocks did."""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.ports.host_calls import HostCall
from rlm_server.journal.host_calls import ReplayedCalls

from tests.durability.test_conversations import refused, seconds, two_servers
from tests.rlm_server.test_conversations import begin, close, go_on, text, variables
from tests.rlm_server.test_tools import ADD, DOUBLE, Client, adding
from tests.support.pictures import png
from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages, ScriptedModel

_SETUP = "import random, asyncio, uuid, collections\nx = {'n': 0}\nlog = []\nmade = collections.Counter()"
BLOCKS = [
    "x['n'] += 1\nlog.append(x['n'])",
    "log.append(random.random())",
    "log.append(str(uuid.uuid4()))",
    "log.append(llm_query(f'ask {len(log)}'))",
    "made.update(llm_query_batched(['a', 'b', f'c{len(log)}']))",
    "log += await asyncio.gather(llm_query_async('one'), llm_query_async('two'))",
    "late = llm_query_async('nobody waits')\nlog.append('went on')",
    "gen = (n * n for n in range(100))\nlog.append(next(gen))",
    "log.append(next(gen)) if 'gen' in globals() else None",
    "log.append('before')\nraise ValueError('after what it did')",
    "log.append('never seen')\nwhile True: pass",
    "print('x' * 70_000)",
    "log.append([context[:5], sorted(name for name in globals() if name.startswith(('context', 'history')))])",
    "class Thing:\n    made = 0\n    def __init__(self): Thing.made += 1; self.n = Thing.made\nthing = Thing()",
    "log.append(len(str(history))) if 'history' in globals() else None",
    "context = 'overwritten'",
]
"""Each does something to the REPL that could be lost or done twice. The block that never ends is killed."""


async def seen(stack: Stack, kept: str) -> dict[str, str]:
    """Returns the beginnings of all variables, without addresses of objects."""
    listed = await variables(stack, kept)
    return {name: re.sub("0x[0-9a-f]+", "0x", one.preview) for name, one in listed.items()}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
async def test_a_repl_that_is_made_again_is_the_same(
    model: ScriptedModel, tmp_path: Path, sandbox_address: str, seed: int
) -> None:
    chance = random.Random(seed)
    database = f"sqlite:///{tmp_path}/journal.db"
    limits = limits_pb2.Limits(cell=limits_pb2.CellLimits(wall_time=seconds(0.5)))
    asked: list[str] = []

    def reply_of(blocks: list[str]) -> Any:
        def reply(messages: Messages) -> str:
            if messages[0]["role"] == "user":
                asked.append(messages[0]["content"])
                return f"{messages[0]['content']} {len(asked)}"
            turn = sum(message["role"] == "assistant" for message in messages)
            return f"```repl\n{blocks[turn]}\n```" if turn < len(blocks) else "FINAL('done')"

        return reply

    async with two_servers(model, database, tmp_path, sandbox=sandbox_address) as (live, other):
        kept = ""
        for number in range(4):
            blocks = ([_SETUP] if not number else []) + chance.choices(BLOCKS, k=3)
            fields: dict[str, Any] = {
                "contexts": [text(f"text {number}")] if number in (0, 2) else [],
                "limits": limits,
            }
            fields |= {"conversation_id": kept} if kept else {"keep_conversation": True}
            events = await live.play(reply_of(blocks), **fields)
            assert events.answer == "done", blocks
            kept = kept or events.all[0].started.conversation_id
            assert not events.of("sandbox_restored") or any("while True" in block for block in blocks)
            asked_before = len(asked)
            assert await seen(live, kept) == await seen(other, kept), blocks
            assert len(asked) == asked_before
        code = "FINAL([log, sorted(made.items()), x])"
        answers = [(await go_on(stack, kept, f"```repl\n{code}\n```")).answer for stack in (live, other)]
        assert answers[0] == answers[1]
        at_hand = await seen(live, kept)
    async with running_stack(model, data_dir=tmp_path, database=database, sandbox=sandbox_address) as fresh:
        assert await seen(fresh, kept) == at_hand  # made of all completions at once


async def test_a_call_that_came_too_late_to_be_recorded_is_no_other_one() -> None:
    calls = ReplayedCalls([])
    answering = asyncio.create_task(calls.answer(HostCall("llm_query", [], {})))
    await asyncio.sleep(0)
    answering.cancel()  # as the block that made it is over
    await asyncio.wait({answering})
    assert not calls.diverged


async def test_a_tool_that_the_client_served_is_not_called_again(model: ScriptedModel, tmp_path: Path) -> None:
    async with running_stack(model, data_dir=tmp_path) as stack:
        client = Client(stack, "total = add(1, b=2)", ADD, DOUBLE, serve=adding, keep_conversation=True)
        events = await client.run()
        assert len(client.calls) == 1
    async with running_stack(model, data_dir=tmp_path) as stack:
        kept = events.all[0].started.conversation_id
        after = await go_on(stack, kept, "```repl\nFINAL([total, double(total)])\n```")
        assert (after.answer, after.of("tool_call")) == ("[3, 6]", [])


async def test_pictures_and_documents_are_there_again(model: ScriptedModel, tmp_path: Path) -> None:
    picture = pb.ContextPart(name="picture", image=pb.Image(data=png(7, 5), media_type="image/png"))
    documents = pb.Documents(documents=[pb.Document(id="a", text="first"), pb.Document(id="b", text="second")])
    async with running_stack(model, data_dir=tmp_path) as stack:
        kept = await begin(stack, "FINAL('x')", contexts=[pb.ContextPart(name="papers", documents=documents)])
        await go_on(stack, kept, "FINAL('x')", contexts=[picture])
    async with running_stack(model, data_dir=tmp_path) as stack:
        code = "FINAL([papers[1]['text'], picture.width, len(picture.data) > 20, sorted(history_1[0])])"
        events = await go_on(stack, kept, f"```repl\n{code}\n```")
        assert events.answer == '["second", 7, true, ["content", "role"]]'


async def test_a_place_is_free_once_another_server_has_used_or_closed_the_conversation(
    model: ScriptedModel, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/journal.db"
    async with two_servers(model, database, tmp_path, max_conversations=1) as (one, other):
        first = await begin(one, "FINAL('x')")
        await refused(begin(one, "FINAL('x')"), grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CONVERSATIONS")
        await go_on(other, first, "FINAL('x')")
        second = await begin(one, "FINAL('x')")
        await refused(go_on(one, first, "FINAL('x')"), grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CONVERSATIONS")
        await close(other, second)
        assert (await go_on(one, first, "FINAL('there again')")).answer == "there again"
