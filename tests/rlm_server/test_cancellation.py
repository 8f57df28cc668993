"""Cancelling the RPC, or its deadline, stops the model call and frees the sandbox at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from tests.support.rlm_stack import Stack, running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.fake_sandbox import FakeSandbox
    from tests.support.scripted_model import Messages, ScriptedModel

WAIT_SECONDS = 10


@pytest.fixture
async def watched(model: ScriptedModel, sandbox: FakeSandbox) -> AsyncIterator[Stack]:
    """A server whose sandbox can be watched."""
    async with running_stack(model, sandbox=sandbox.address, max_concurrent_completions=1) as stack:
        yield stack


def never() -> ScriptedReply:
    return ScriptedReply("too late", release=asyncio.Event())


def waits_in_a_subcall(messages: Messages) -> Any:
    return never() if messages[0]["role"] == "user" else "```repl\nllm_query('x')\n```"


def waits_in_a_grandchild(messages: Messages) -> Any:
    if messages[0]["role"] == "user":
        return never()
    is_root = "What is it?" in messages[1]["content"]
    return "```repl\nrlm_query('x')\n```" if is_root else "```repl\nllm_query('x')\n```"


async def until_the_model_waits(stack: Stack, call: Any) -> None:
    """Reads events until the model's reply is what is waited for."""

    async def read() -> None:
        async for _ in call:
            pass

    reading = asyncio.create_task(read())
    await asyncio.wait_for(stack.model.until_waiting(), WAIT_SECONDS)
    call.cancel()
    await asyncio.wait({reading})


@pytest.mark.parametrize(
    "script", [lambda _: never(), waits_in_a_subcall, waits_in_a_grandchild], ids=["root", "subcall", "grandchild"]
)
async def test_cancelling_closes_the_models_stream_and_every_session(
    watched: Stack, sandbox: FakeSandbox, script: Any
) -> None:
    await until_the_model_waits(watched, watched.start(script))
    await asyncio.wait_for(watched.model.disconnected.wait(), WAIT_SECONDS)
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_the_rpcs_deadline_does_the_same(watched: Stack, sandbox: FakeSandbox) -> None:
    watched.model.follow(lambda _: never())
    request = pb.CompleteRequest(query="q", contexts=[pb.ContextPart(text="abc")])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in watched.stub.Complete(request, timeout=0.3):
            pass
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(watched.model.disconnected.wait(), WAIT_SECONDS)
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_cancelling_stops_code_that_runs(watched: Stack, sandbox: FakeSandbox) -> None:
    call = watched.start(["```repl\nprint('running')\nwhile True: pass\n```"])
    async for response in call:
        if response.event.WhichOneof("kind") == "output":
            break
    call.cancel()
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_a_cancelled_completion_gives_its_place_back(watched: Stack) -> None:
    await until_the_model_waits(watched, watched.start(lambda _: never()))
    await asyncio.wait_for(watched.model.disconnected.wait(), WAIT_SECONDS)
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                events = await watched.complete("FINAL(next)")
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - until the end is recorded
    assert events.answer == "next"


async def test_a_client_that_does_not_read_can_still_be_cancelled(watched: Stack, sandbox: FakeSandbox) -> None:
    call = watched.start(["```repl\nwhile True:\n    print('x' * 10_000)\n```"])
    await call.read()
    call.cancel()
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_stopping_the_server_ends_what_runs_after_the_grace_time(watched: Stack, sandbox: FakeSandbox) -> None:
    call = watched.start(lambda _: never())

    async def read() -> grpc.StatusCode:
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    reading = asyncio.create_task(read())
    await asyncio.wait_for(watched.model.until_waiting(), WAIT_SECONDS)
    await watched.server.stop(0.1)
    assert await reading == grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(watched.model.disconnected.wait(), WAIT_SECONDS)
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_a_completion_may_finish_within_the_grace_time(watched: Stack) -> None:
    release = asyncio.Event()
    call = watched.start([ScriptedReply("FINAL(in time)", release=release)])

    async def read() -> str:
        return [response.event async for response in call][-1].finished.answer

    reading = asyncio.create_task(read())
    await asyncio.wait_for(watched.model.until_waiting(), WAIT_SECONDS)
    stopping = asyncio.create_task(watched.server.stop(WAIT_SECONDS))
    await asyncio.sleep(0)
    release.set()
    assert await reading == "in time"
    await stopping


async def test_no_task_outlives_its_completion(watched: Stack) -> None:
    before = asyncio.all_tasks()
    await watched.play(
        lambda messages: "sub" if messages[0]["role"] == "user" else "```repl\nFINAL(llm_query('x'))\n```"
    )
    await until_the_model_waits(watched, watched.start(waits_in_a_grandchild))
    await asyncio.wait_for(watched.model.disconnected.wait(), WAIT_SECONDS)
    leftover = {task for task in asyncio.all_tasks() - before if "rlm_server" in repr(task.get_coro())}
    await asyncio.wait_for(asyncio.gather(*leftover, return_exceptions=True), WAIT_SECONDS)
