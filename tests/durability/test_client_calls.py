"""Kept completions from the Python clients and the command line, against a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rlm_client import (
    AsyncClient,
    CallCancelledError,
    Client,
    CompletionParkedError,
    CompletionState,
    NotFoundError,
    WrongStateError,
)

from tests.durability.proxy import Proxy
from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel


@pytest.fixture
async def stack(model: ScriptedModel) -> AsyncIterator[Stack]:
    async with running_stack(model, client_grace_seconds=60) as running:
        yield running


async def test_the_synchronous_client_follows_lists_describes_and_deletes(stack: Stack) -> None:
    stack.model.follow(["```repl\nprint(llm_query('x'))\n```", "sub", "FINAL(done)"])

    def use() -> None:
        with Client(stack.server.addresses[0]) as client:
            done = client.completion("text", "Why?", labels={"team": "a"})
            assert done.answer == "done"
            (listed,) = client.completions(labels={"team": "a"}, states=[CompletionState.SUCCEEDED])
            assert (listed.completion_id, listed.query) == (done.completion_id, "Why?")
            assert not list(client.completions(labels={"team": "b"}))
            described = client.get(done.completion_id)
            assert described.result is not None
            assert (described.state, described.result.answer) == (CompletionState.SUCCEEDED, "done")
            assert [node.node_id for node in described.nodes] == ["0", "0.1"]
            with client.watch(done.completion_id, after_sequence=3) as stream:
                assert next(stream).sequence == 4
                assert stream.result().answer == "done"
            assert client.cancel(done.completion_id).state is CompletionState.SUCCEEDED
            with pytest.raises(WrongStateError):
                client.resume(done.completion_id)
            client.delete(done.completion_id)
            with pytest.raises(NotFoundError):
                client.get(done.completion_id)

    await asyncio.to_thread(use)


async def test_the_asyncio_client_parks_resumes_and_cancels(stack: Stack) -> None:
    async with AsyncClient(stack.server.addresses[0]) as client:
        stack.model.follow(["```repl\nx = 1\n```", ScriptedReply(status=503)])
        with pytest.raises(CompletionParkedError) as parked:
            await client.completion("text", "Why?")
        stack.model.follow(["FINAL(after all)"])
        completion_id = parked.value.completion_id
        assert (await client.resume(completion_id)).state is CompletionState.RUNNING
        async with client.watch(completion_id) as stream:
            assert (await stream.result()).answer == "after all"
        stack.model.follow([ScriptedReply("late", release=asyncio.Event())])
        async with await client.stream("text", "Why?") as running:
            await anext(running)
            running.cancel()
            with pytest.raises(CallCancelledError):
                await running.result()
        assert (await client.get(running.completion_id)).state is CompletionState.CANCELLED
        states = [one.state async for one in client.completions()]
        assert states == [CompletionState.CANCELLED, CompletionState.SUCCEEDED]


async def test_a_detached_completion_is_left_alone_by_its_stream(stack: Stack) -> None:
    release = asyncio.Event()
    stack.model.follow([ScriptedReply("FINAL(x)", release=release)])
    async with AsyncClient(stack.server.addresses[0]) as client:
        async with await client.stream("text", "Why?", detached=True) as stream:
            await anext(stream)
        release.set()
        async with client.watch(stream.completion_id) as watched:
            assert (await watched.result()).answer == "x"


async def test_the_command_line_begins_lists_follows_and_deletes(stack: Stack) -> None:
    stack.model.follow(["FINAL(from afar)"])

    async def rlm(*arguments: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rlm_server.cli", *arguments, "--server", stack.server.addresses[0]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        out, err = await process.communicate(b"some text")
        assert process.returncode == code, err.decode()
        return out.decode()

    completion_id = (await rlm("complete", "--context", "-", "--detach", "--label", "team=a", "Why?")).strip()
    assert await rlm("completions", "watch", "--quiet", completion_id) == "from afar\n"
    listed = await rlm("completions", "list", "--label", "team=a", "--state", "SUCCEEDED")
    assert listed.startswith(completion_id)
    assert listed.rstrip().endswith("SUCCEEDED team=a Why?")
    await rlm("completions", "delete", completion_id)
    await rlm("completions", "get", completion_id, code=2)


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_an_upload_that_breaks_is_begun_again(stack: Stack, kind: str) -> None:
    stack.model.follow(["```repl\nFINAL(len(context))\n```"])
    text = "x" * 3_000_000
    async with Proxy(stack.server.addresses[0]) as proxy:
        target = f"127.0.0.1:{proxy.port}"
        proxy.delay_seconds = 0.02  # long enough to be cut in the middle

        def in_thread() -> str:
            with Client(target) as client:
                return client.completion(text, "Why?").answer

        async def in_task() -> str:
            async with AsyncClient(target) as client:
                return (await client.completion(text, "Why?")).answer

        using = asyncio.create_task(in_task() if kind == "asyncio" else asyncio.to_thread(in_thread))
        async with asyncio.timeout(20):
            while proxy.passed_bytes < 500_000:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
        proxy.cut()
        proxy.delay_seconds = 0.0
        assert await asyncio.wait_for(using, 30) == "3000000"
    assert proxy.cut_count
