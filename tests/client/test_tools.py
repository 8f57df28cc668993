"""Both clients serve tools to a real server."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from rlm_client import Tool

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedModels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.rlm_stack import Stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    async with ScriptedModels() as models, running_stack(models.new_model()) as running:
        yield running


@pytest.fixture
async def run(connect: Any, stack: Stack) -> Any:
    """Runs code as a completion whose answer is what the code gives to FINAL, with tools."""

    async def run_code(code: str, *tools: Any, **options: Any) -> str:
        stack.model.follow([f"```repl\n{code}\n```", "FINAL(done)"])
        async with connect(stack.server.addresses[0]) as client:
            completion = await asyncio.wait_for(client.completion("text", "Why?", tools=tools, **options), 30)
            return str(completion.answer)

    return run_code


def add(a: int, b: int = 10) -> int:
    """Adds."""
    return a + b


async def add_slowly(a: int, b: int = 10) -> int:
    await asyncio.sleep(0)
    return a + b


@pytest.mark.parametrize("tool", [add, Tool.served(add_slowly, name="add")])
async def test_a_function_is_called_by_code_in_the_sandbox(run: Any, tool: Any) -> None:
    assert await run("FINAL([add(1), add(1, b=2)])", tool) == "[11, 3]"


async def test_what_a_function_raises_is_raised_in_the_sandbox(run: Any) -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    assert (
        await run("try:\n    fail()\nexcept ToolError as e:\n    FINAL(str(e))", fail) == "LookupError: nothing there"
    )


async def test_a_function_that_exits_ends_its_call_and_nothing_else(run: Any) -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert await run("try:\n    leave()\nexcept ToolError as e:\n    FINAL(str(e))", leave) == "SystemExit: 3"


async def test_a_value_that_json_cannot_express_is_an_error(run: Any) -> None:
    answer = await run("try:\n    f()\nexcept ToolError as e:\n    FINAL(str(e))", Tool.served(object, name="f"))
    assert answer.startswith("TypeError: what the tool returned is not what JSON can express")


async def test_functions_run_at_once(run: Any, stack: Stack) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(who: str) -> int:
        return both.wait() >= 0

    root = "FINAL(rlm_query_batched(['a', 'b']))"

    def reply(messages: list[dict[str, str]]) -> str:
        return f"```repl\n{root if 'Why?' in messages[1]['content'] else 'FINAL(meet(context))'}\n```"

    async def play() -> str:
        task = asyncio.create_task(run("", meet))
        await asyncio.sleep(0)
        stack.model.follow(reply)
        return await task

    assert await play() == '["True", "True"]'


async def test_tools_in_the_sandbox_need_no_stream_of_results(run: Any) -> None:
    source = "def shout(text):\n    return text.upper()"
    assert await run("FINAL(shout('hey'))", Tool.in_sandbox(source)) == "HEY"


async def test_a_source_can_call_the_other_tools(run: Any) -> None:
    source = "def twice(x):\n    return add(x, x)"
    assert await run("FINAL(twice(2))", Tool.in_sandbox(source), add) == "4"


async def test_leaving_the_stream_ends_the_serving_of_tools(connect: Any, stack: Stack) -> None:
    started = threading.Event()
    release = threading.Event()

    def wait() -> None:
        started.set()
        release.wait(20)

    stack.model.follow(["```repl\nwait()\n```"])
    async with connect(stack.server.addresses[0]) as client:
        stream = await client.stream("text", "Why?", tools=[wait])
        async with stream:
            async for event in stream:
                if event.WhichOneof("kind") == "tool_call":
                    break
            assert await asyncio.to_thread(started.wait, 10)
    release.set()
