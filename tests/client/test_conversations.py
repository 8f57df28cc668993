"""Conversations through both clients, with a real server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import rlm_client

from tests.support.rlm_stack import Stack, running_stack
from tests.support.scripted_model import ScriptedModels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SET = "```repl\nx = len(context)\nFINAL('set')\n```"
GET = "```repl\nFINAL(x)\n```"


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with ScriptedModels() as models, running_stack(models.new_model()) as running:
        yield running


@pytest.fixture
def address(stack: Stack) -> str:
    return stack.server.addresses[0]


async def ask_with_the_synchronous_client(address: str) -> list[Any]:
    def ask() -> list[Any]:
        with rlm_client.Client(address) as client:
            with client.conversation(time_to_live_seconds=60) as talk:
                assert talk.conversation_id == ""
                first = talk.ask("How long is it?", "abcd")
                second = talk.ask("And?")
                third = talk.ask("And now?", "new")
                found = talk.variables()
                (listed,) = client.list_conversations()
                assert listed.time_to_live_seconds == 60
                with client.conversation(talk.conversation_id) as again:
                    fourth = again.ask("Still there?")
                assert [one.conversation_id for one in client.list_conversations()] == [talk.conversation_id]
            return [first, second, third, fourth, found, listed, client.list_conversations()]

    return await asyncio.to_thread(ask)


async def ask_with_the_asyncio_client(address: str) -> list[Any]:
    async with rlm_client.AsyncClient(address) as client:
        async with client.conversation(time_to_live_seconds=60) as talk:
            assert talk.conversation_id == ""
            first = await talk.ask("How long is it?", "abcd")
            second = await talk.ask("And?")
            third = await talk.ask("And now?", "new")
            found = await talk.variables()
            (listed,) = await client.list_conversations()
            assert listed.time_to_live_seconds == 60
            async with client.conversation(talk.conversation_id) as again:
                fourth = await again.ask("Still there?")
            assert [one.conversation_id for one in await client.list_conversations()] == [talk.conversation_id]
        return [first, second, third, fourth, found, listed, await client.list_conversations()]


@pytest.mark.parametrize("ask", [ask_with_the_synchronous_client, ask_with_the_asyncio_client])
async def test_questions_go_on_one_with_the_other_and_the_end_of_the_block_closes(
    stack: Stack, address: str, ask: Any
) -> None:
    stack.model.follow([SET, GET, "```repl\nFINAL(context_1)\n```", GET])
    first, second, third, fourth, found, listed, left = await ask(address)
    assert [one.answer for one in (first, second, third, fourth)] == ["set", "4", "new", "4"]
    assert {one.conversation_id for one in (first, second, third, fourth)} == {listed.conversation_id}
    assert {one.name for one in found.variables} >= {"context", "context_0", "context_1", "x", "history"}
    assert (found.omitted_count, found.variables_lost, found.error) == (0, False, "")
    assert list(listed.completion_ids) == [one.completion_id for one in (first, second, third)]
    assert listed.query_preview == "How long is it?"
    assert listed.expire_time > listed.create_time
    assert left == []


async def test_without_a_conversation_a_completion_has_no_id_of_one(stack: Stack, address: str) -> None:
    stack.model.follow(["FINAL(x)"])
    async with rlm_client.AsyncClient(address) as client:
        assert (await client.completion("text", "?")).conversation_id == ""


async def test_what_is_closed_is_not_found(address: str) -> None:
    async with rlm_client.AsyncClient(address) as client:
        for attempt in (client.variables("gone"), client.close_conversation("gone")):
            with pytest.raises(rlm_client.NotFoundError) as failure:
                await attempt
            assert failure.value.reason == "CONVERSATION_NOT_FOUND"


async def test_an_error_in_the_block_closes_the_conversation_and_comes_through(stack: Stack, address: str) -> None:
    stack.model.follow([SET])
    async with rlm_client.AsyncClient(address) as client:
        with contextlib.suppress(ZeroDivisionError):
            async with client.conversation() as talk:
                await talk.ask("How long is it?", "abcd")
                raise ZeroDivisionError
        assert await client.list_conversations() == []


async def test_leaving_the_block_while_a_question_is_answered_cancels_it(stack: Stack, address: str) -> None:
    stack.model.follow([SET, GET])
    async with rlm_client.AsyncClient(address) as client, client.conversation() as talk:
        await talk.ask("How long is it?", "abcd")
        stream = await talk.stream("And?")
        async with stream:
            await anext(stream)
            await talk.close()
            assert await client.list_conversations() == []
