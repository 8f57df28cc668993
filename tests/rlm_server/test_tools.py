"""Functions that requests add to the REPL: sources that run in the sandbox, and tools that clients serve."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2

from tests.support.rlm_stack import Events
from tests.support.statuses import assert_status, violations

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.rlm_stack import Stack

ADD_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 10}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
ADD = pb.Tool(name="add", description="Adds two numbers.", parameters_schema=ADD_SCHEMA, client_served=True)
ANY = pb.Tool(name="look_up", client_served=True)
DOUBLE = pb.Tool(name="double", python_source='def double(x: int = 1) -> int:\n    """Doubles."""\n    return 2 * x\n')


class Client:
    """A client that serves tools, on the generated stub alone.

    Args:
        stack: has the server.
        code: what the root's model runs first; then it answers `done`.
        tools: what the request has.
        serve: returns the answer to a call, or None to give none, or messages to send.
    """

    def __init__(self, stack: Stack, code: str, *tools: pb.Tool, serve: Callable[[Any], Any], **fields: Any) -> None:
        stack.model.follow([f"```repl\n{code}\n```", "FINAL(done)"])
        self.call = stack.stub.CompleteWithTools()
        self.calls: list[Any] = []
        self._serve = serve
        self._start = pb.CompleteRequest(
            query="What is it?", contexts=[pb.ContextPart(text="abc")], tools=tools, **fields
        )

    async def send(self, **message: Any) -> None:
        await self.call.write(pb.CompleteWithToolsRequest(**message))

    async def run(self) -> Events:
        """Serves the completion to its end."""
        return await self.finish(await self.begin())

    async def begin(self) -> list[Any]:
        """Starts the completion; returns its events up to the first call, which is not answered yet."""
        await self.send(start=self._start)
        events = []
        async for response in self.call:
            events.append(response.event)
            if response.event.WhichOneof("kind") == "tool_call":
                return events
        return events

    async def finish(self, events: list[Any]) -> Events:
        """Answers the last call and serves the rest."""
        await self._answer(events[-1])
        async for response in self.call:
            events.append(response.event)
            await self._answer(response.event)
        return Events(events)

    async def _answer(self, event: Any) -> None:
        if event.WhichOneof("kind") != "tool_call":
            return
        self.calls.append(event.tool_call)
        answer = self._serve(event.tool_call)
        for message in [answer] if isinstance(answer, pb.ToolResult) else answer or []:
            await self.send(**(message if isinstance(message, dict) else {"tool_result": message}))


def adding(call: Any) -> pb.ToolResult:
    arguments = json.loads(call.arguments_json)
    return pb.ToolResult(call_id=call.call_id, value_json=json.dumps(sum(arguments.values())))


async def test_a_source_defines_a_function_in_the_sandbox(stack: Stack) -> None:
    events = await stack.run_code("print(double(4), double())", tools=[DOUBLE])
    assert events.output == "8 2\n"


async def test_the_model_is_told_name_parameters_and_docstring(stack: Stack) -> None:
    client = Client(stack, "pass", DOUBLE, ADD, ANY, serve=adding)
    await client.run()
    system = stack.model.conversations[0][0]["content"]
    assert "- `double(x: int=1) -> int`: Doubles." in system
    assert "- `add(a: int, b: int = 10)`: Adds two numbers." in system
    assert "- `look_up(**arguments)`\n" in system


async def test_a_tool_can_call_what_the_repl_provides(stack: Stack) -> None:
    source = "def shout(text):\n    return llm_query(text).upper()"
    tool = pb.Tool(name="shout", python_source=source)
    events = await stack.complete("```repl\nFINAL(shout('hey'))\n```", "yes", tools=[tool])
    assert events.answer == "YES"


async def test_a_tool_sees_the_context_of_its_node(stack: Stack) -> None:
    tool = pb.Tool(name="size", python_source="def size():\n    return len(context)")
    child = "```repl\nFINAL(size())\n```"
    events = await stack.complete("```repl\nFINAL([size(), rlm_query('q', context='x' * 9)])\n```", child, tools=[tool])
    assert events.answer == '[3, "9"]'


async def test_names_of_a_source_win_over_those_of_the_context(stack: Stack) -> None:
    tool = pb.Tool(name="get", python_source="context = 'mine'\ndef get():\n    return context")
    assert (await stack.run_code("print(get(), context)", tools=[tool])).output == "mine abc\n"


async def test_a_source_can_define_a_coroutine_function_and_the_model_is_told(stack: Stack) -> None:
    tool = pb.Tool(name="ask", python_source="async def ask(x):\n    'Asks.'\n    return await llm_query_async(x)")
    events = await stack.complete("```repl\nFINAL(await ask('a'))\n```", "yes", tools=[tool])
    assert events.answer == "yes"
    assert "- `ask(x)`: Asks. (await what it returns)" in stack.model.conversations[0][0]["content"]


async def test_tools_of_one_source_share_its_globals(stack: Stack) -> None:
    source = "count = 0\ndef up():\n    global count\n    count += 1\ndef now():\n    return count"
    tools = [pb.Tool(name=name, python_source=source) for name in ("up", "now")]
    assert (await stack.run_code("up()\nup()\nprint(now())", tools=tools)).output == "2\n"


async def test_a_tool_that_code_rebinds_is_put_back(stack: Stack) -> None:
    replies = ["```repl\ndouble = None\n```", "```repl\nprint(double(1))\n```", "FINAL(x)"]
    assert (await stack.complete(*replies, tools=[DOUBLE])).output == "2\n"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def double(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def other(): pass", "defines no double"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("scope", [pb.TOOL_SCOPE_ROOT, pb.TOOL_SCOPE_UNSPECIFIED])
async def test_a_source_that_fails_is_a_bad_request(stack: Stack, source: str, problem: str, scope: Any) -> None:
    tools = [
        pb.Tool(name="fine", python_source="fine = len"),
        pb.Tool(name="double", python_source=source, scope=scope),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.run_code("pass", tools=tools)
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert problem in violations(failure.value)["tools[1].python_source"]


async def test_a_source_for_children_alone_is_compiled_before_anything_runs(stack: Stack) -> None:
    tool = pb.Tool(name="double", python_source="def double(:", scope=pb.TOOL_SCOPE_CHILDREN)
    with pytest.raises(grpc.aio.AioRpcError, match="SyntaxError"):
        await stack.run_code("pass", tools=[tool])


async def test_tools_can_be_for_the_root_or_for_children_alone(stack: Stack) -> None:
    tools = [
        pb.Tool(name="of_root", python_source="of_root = len", scope=pb.TOOL_SCOPE_ROOT),
        pb.Tool(name="of_children", python_source="of_children = len", scope=pb.TOOL_SCOPE_CHILDREN),
        pb.Tool(name="of_all", python_source="of_all = len"),
    ]
    code = "print([n for n in ('of_root', 'of_children', 'of_all') if n in globals()])"

    def reply(messages: list[dict[str, str]]) -> str:
        is_root = "What is it?" in messages[1]["content"]
        if len(messages) > 2:
            return "FINAL(done)"
        return f"```repl\n{code}\n{'rlm_query(1)' if is_root else ''}\n```"

    events = await stack.play(reply, tools=tools)
    assert {event.node_id: event.output.text for event in events.events_of("output") if "[" in event.output.text} == {
        "0": "['of_root', 'of_all']\n",
        "0.1": "['of_children', 'of_all']\n",
    }
    assert "of_children" not in stack.model.conversations[0][0]["content"]
    assert "of_root" not in stack.model.conversations[1][0]["content"]


async def test_a_client_served_tool_is_called_on_the_stream(stack: Stack) -> None:
    client = Client(stack, "print(add(1, 2), add(b=5, a=5), add(1))", ADD, serve=adding)
    events = await client.run()
    assert events.output == "3 10 11\n"
    assert events.answer == "done"
    assert [json.loads(call.arguments_json) for call in client.calls] == [
        {"a": 1, "b": 2},
        {"b": 5, "a": 5},
        {"a": 1, "b": 10},
    ]
    assert len({call.call_id for call in client.calls}) == 3
    assert client.calls[0].timeout.seconds == 60
    kinds = [kind for kind in events.kinds("0") if kind.startswith("tool_call")]
    assert kinds == ["tool_call", "tool_call_finished"] * 3
    finished = events.of("tool_call_finished")[0]
    assert (finished.call_id, finished.error, finished.result_chars) == (client.calls[0].call_id, "", 1)


async def test_a_tool_without_a_schema_takes_any_arguments_by_name(stack: Stack) -> None:
    client = Client(
        stack,
        "print(look_up(x=[1, None], y='ä'))\ntry:\n    look_up(1)\nexcept TypeError as e:\n    print(e)",
        ANY,
        serve=lambda call: pb.ToolResult(call_id=call.call_id, value_json=call.arguments_json),
    )
    events = await client.run()
    assert events.output == "{'x': [1, None], 'y': 'ä'}\nlook_up() takes its arguments by name\n"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("add('x')", 'TypeError: add(): arguments.a: "x" is not of type "integer"'),
        ("add()", "TypeError: add() missing a required argument: 'a'"),
        ("add(1, 2, 3)", "TypeError: add() too many positional arguments"),
        ("add(1, c=3)", "TypeError: add() got an unexpected keyword argument 'c'"),
        ("add(object())", "TypeError: add() takes only what JSON can express"),
    ],
)
async def test_wrong_arguments_raise_and_do_not_reach_the_client(stack: Stack, call: str, error: str) -> None:
    if "object" in call and stack.server._settings.sandbox == "local":
        pytest.skip("the local executor words this otherwise")
    client = Client(stack, call, ADD, serve=adding)
    await client.run()
    assert client.calls == []
    assert error in stack.shown_to_root(2)


async def test_an_error_of_the_tool_is_an_exception_in_the_sandbox(stack: Stack) -> None:
    client = Client(
        stack,
        "try:\n    add(1)\nexcept ToolError as e:\n    print(e.kind, e)",
        ADD,
        serve=lambda call: pb.ToolResult(call_id=call.call_id, error="no such table"),
    )
    events = await client.run()
    assert events.output == "tool_failed no such table\n"
    assert events.of("tool_call_finished")[0].error == "no such table"


async def test_a_call_that_is_not_answered_in_time_raises_and_its_late_answer_is_ignored(stack: Stack) -> None:
    tool = pb.Tool(name="slow", client_served=True, timeout=duration_pb2.Duration(nanos=50_000_000))
    code = "try:\n    slow(n=1)\nexcept ToolError as e:\n    print(e.kind, e)\nprint(slow(n=2))"
    first: list[str] = []

    def serve(call: Any) -> list[pb.ToolResult]:
        first.append(call.call_id)
        if len(first) == 1:
            return []
        late = pb.ToolResult(call_id=first[0], value_json='"late"')
        return [late, pb.ToolResult(call_id=call.call_id, value_json="2")]

    events = await Client(stack, code, tool, serve=serve).run()
    assert events.output == "timeout slow gave no answer within 0.05 s\n2\n"


async def test_several_calls_can_be_open_and_are_answered_in_any_order(stack: Stack) -> None:
    root = "print(rlm_query_batched(['a', 'b']))"

    def reply(messages: list[dict[str, str]]) -> str:
        is_root = "What is it?" in messages[1]["content"]
        code = root if is_root else "FINAL(look_up(of=context))"
        return f"```repl\n{code}\n```" if len(messages) == 2 else "FINAL(done)"

    open_calls: list[Any] = []

    def serve(call: Any) -> list[pb.ToolResult]:
        open_calls.append(call)
        if len(open_calls) < 2:
            return []
        return [
            pb.ToolResult(call_id=one.call_id, value_json=json.dumps(json.loads(one.arguments_json)["of"].upper()))
            for one in reversed(open_calls)
        ]

    client = Client(stack, "", ANY, serve=serve)
    stack.model.follow(reply)
    assert (await client.run()).output == "['A', 'B']\n"


async def test_a_client_that_closes_its_side_serves_tools_no_longer_and_the_completion_goes_on(stack: Stack) -> None:
    code = "for n in range(2):\n    try:\n        add(n)\n    except ToolError as e:\n        print(e.kind)"
    client = Client(stack, code, ADD, serve=lambda _: None)
    begun = await client.begin()
    await client.call.done_writing()
    events = await client.finish(begun)
    assert events.output == "client_gone\nclient_gone\n"
    assert events.answer == "done"
    assert len(events.of("tool_call")) == 1


async def test_a_client_that_goes_away_during_a_call_cancels_the_completion(stack: Stack) -> None:
    client = Client(stack, "add(1)", ADD, serve=lambda _: None)
    await client.begin()
    completions = [task for task in asyncio.all_tasks() if "Completion.run" in repr(task.get_coro())]
    assert completions
    client.call.cancel()
    await asyncio.wait_for(asyncio.wait(completions), 10)


async def test_a_block_that_is_killed_ends_its_calls(stack: Stack) -> None:
    limits = limits_pb2.Limits(cell={"wall_time": {"nanos": 300_000_000}})
    client = Client(stack, "look_up()", ANY, serve=lambda _: None, limits=limits)
    events = await client.run()
    assert events.outcomes == ["DEADLINE"]
    (finished,) = events.of("tool_call_finished")
    assert finished.error == "the block that made the call is over"


@pytest.mark.parametrize(
    ("results", "call_id"),
    [
        ([pb.ToolResult(call_id="no-such-call", value_json="1")], "no-such-call"),
        ([pb.ToolResult(call_id="0-1", value_json="1")] * 2, "0-1"),
    ],
)
async def test_a_result_that_nobody_waits_for_is_a_failed_precondition(
    stack: Stack, results: list[pb.ToolResult], call_id: str
) -> None:
    client = Client(stack, "add(1)\nadd(2)", ADD, serve=lambda _: results)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.run()
    assert_status(failure.value, grpc.StatusCode.FAILED_PRECONDITION, "TOOL_CALL_NOT_OPEN", call_id=call_id)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"start": pb.CompleteRequest()}, "tool_result"),
        ({}, "tool_result"),
        ({"tool_result": pb.ToolResult(call_id="0-1")}, "tool_result.result"),
        ({"tool_result": pb.ToolResult(call_id="0-1", value_json="{")}, "tool_result.value_json"),
        ({"tool_result": pb.ToolResult(call_id="0-1", value_json="[" * 100_000)}, "tool_result.value_json"),
    ],
)
async def test_a_wrong_message_after_the_start_is_a_bad_request(stack: Stack, message: Any, field: str) -> None:
    client = Client(stack, "add(1)", ADD, serve=lambda _: [message])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.run()
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert list(violations(failure.value)) == [field]


async def test_the_first_message_must_be_start(local_stack: Stack) -> None:
    call = local_stack.stub.CompleteWithTools(iter([pb.CompleteWithToolsRequest(tool_result=pb.ToolResult())]))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    assert list(violations(failure.value)) == ["start"]


@pytest.mark.parametrize(
    ("tools", "field", "words"),
    [
        ([pb.Tool(name="", python_source="x")], "tools[0].name", "identifier"),
        ([pb.Tool(name="two words", python_source="x")], "tools[0].name", "identifier"),
        ([pb.Tool(name="class", python_source="x")], "tools[0].name", "keyword"),
        ([pb.Tool(name="_f", python_source="x")], "tools[0].name", "underscore"),
        ([pb.Tool(name="f" * 101, python_source="x")], "tools[0].name", "100"),
        ([pb.Tool(name="llm_query", python_source="x")], "tools[0].name", "the REPL has it"),
        ([pb.Tool(name="cancel_subcall", client_served=True)], "tools[0].name", "the REPL has it"),
        ([pb.Tool(name="context", python_source="x")], "tools[0].name", "kept"),
        ([pb.Tool(name="history_1", python_source="x")], "tools[0].name", "kept"),
        ([DOUBLE, DOUBLE], "tools[1].name", "tools[0] has it"),
        ([pb.Tool(name="f")], "tools[0].implementation", "set python_source"),
        ([pb.Tool(name="f", client_served=False)], "tools[0].client_served", "must be true"),
        ([ADD], "tools[0].client_served", "needs CompleteWithTools"),
        ([pb.Tool(name="f", python_source=" ")], "tools[0].python_source", "empty"),
        ([pb.Tool(name="f", python_source="x" * 300_000)], "tools", "262,144 characters"),
        ([pb.Tool(name="f", python_source="x", parameters_schema="{}")], "tools[0].parameters_schema", "leave it out"),
        ([pb.Tool(name="f", python_source="x", description="d" * 10_001)], "tools[0].description", "10,001"),
        ([pb.Tool(name="f", client_served=True, parameters_schema="{")], "tools[0].parameters_schema", "not JSON"),
        ([pb.Tool(name="f", client_served=True, parameters_schema="[]")], "tools[0].parameters_schema", "of an object"),
        (
            [pb.Tool(name="f", client_served=True, parameters_schema='{"type": "string"}')],
            "tools[0].parameters_schema",
            "of an object",
        ),
        (
            [pb.Tool(name="f", client_served=True, parameters_schema='{"properties": 7}')],
            "tools[0].parameters_schema",
            "no JSON Schema",
        ),
        (
            [pb.Tool(name="f", client_served=True, parameters_schema='{"properties": {"a b": {}}}')],
            "tools[0].parameters_schema",
            "identifier",
        ),
        (
            [pb.Tool(name="f", client_served=True, parameters_schema=" " * 70_000)],
            "tools[0].parameters_schema",
            "65,536",
        ),
        ([pb.Tool(name="f", python_source="x", timeout={"seconds": 1})], "tools[0].timeout", "leave it out"),
        ([pb.Tool(name="f", client_served=True, timeout={"seconds": 0})], "tools[0].timeout", "more than 0"),
        ([pb.Tool(name="f", client_served=True, timeout={"seconds": 3601})], "tools[0].timeout", "at most 3600 s"),
        ([pb.Tool(name="f", python_source="x", scope=7)], "tools[0].scope", "no scope"),
        ([pb.Tool(name=f"f{n}", python_source="x") for n in range(51)], "tools", "at most 50"),
    ],
)
async def test_a_wrong_tool_is_a_bad_request_that_names_it(
    local_stack: Stack, tools: list[pb.Tool], field: str, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await local_stack.run_code("pass", tools=tools)
    assert words in violations(failure.value)[field]


async def test_a_tool_cannot_have_the_name_of_a_part_of_the_context(local_stack: Stack) -> None:
    parts = [pb.ContextPart(name="double", text="x")]
    with pytest.raises(grpc.aio.AioRpcError, match="a part of the context has it"):
        await local_stack.run_code("pass", tools=[DOUBLE], contexts=parts)
