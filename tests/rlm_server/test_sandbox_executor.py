"""What the sandbox executor does with a sandbox server that fails, splits messages, or is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.support.fake_sandbox import FakeSandbox, serving
from tests.support.rlm_stack import Stack, running_stack
from tests.support.statuses import assert_status, violations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.scripted_model import Messages, ScriptedModel

MIB = 1024 * 1024


@pytest.fixture
async def sandbox() -> AsyncIterator[FakeSandbox]:
    fake = FakeSandbox(part_chars=1000)
    async with serving(fake) as address:
        fake.address = address
        yield fake


@pytest.fixture
async def stack(model: ScriptedModel, sandbox: FakeSandbox) -> AsyncIterator[Stack]:
    async with running_stack(model, sandbox=sandbox.address) as running:
        yield running


async def test_without_a_sandbox_or_patience_the_rpc_fails_before_anything_is_asked(
    model: ScriptedModel, unused_tcp_port: int
) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    async with running_stack(model, sandbox=address, sandbox_patience_seconds=0.0) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.complete("FINAL(x)")
    assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "SANDBOX_UNAVAILABLE", sandbox=address)
    assert model.requests == []


async def test_a_sandbox_that_refuses_more_sessions_is_unavailable(stack: Stack, sandbox: FakeSandbox) -> None:
    sandbox.refuse_open = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.complete("FINAL(x)")
    assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "SANDBOX_UNAVAILABLE")
    assert "RESOURCE_EXHAUSTED: refused by the test" in str(failure.value.details())


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"contexts": [pb.ContextPart(text="x" * 40 * MIB)]}, "limits.cell.memory_bytes", "bytes were used"),
        (
            {"contexts": [pb.ContextPart(json=f"[{','.join(['[]'] * 2_000_000)}]")]},
            "contexts",
            "does not fit into limits.cell.memory_bytes; raise that",
        ),
        ({"limits": {"cell": {"memory_bytes": 1000}}}, "limits.cell.memory_bytes", "must be at least 67108864"),
    ],
)
async def test_a_context_that_does_not_fit_into_a_sandbox_is_a_bad_request(
    model: ScriptedModel, sandbox_address: str, fields: dict[str, Any], field: str, problem: str
) -> None:
    limits = limits_pb2.Limits(cell=limits_pb2.CellLimits(memory_bytes=68 * MIB))
    async with running_stack(model, sandbox=sandbox_address, max_context_bytes=100 * MIB) as stack:
        if "contexts" in fields and fields["contexts"][0].text:
            fields = {"contexts": [pb.ContextPart(context_id=await upload(stack, fields["contexts"][0].text))]}
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.complete("FINAL(x)", **({"limits": limits} | fields))
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert problem in violations(failure.value)[field]
    assert model.requests == []


async def test_a_tools_source_that_does_not_end_is_a_bad_request(stack: Stack, sandbox: FakeSandbox) -> None:
    sandbox.refuse_open = grpc.StatusCode.INVALID_ARGUMENT
    sandbox.refusal = "open.limits: opening the sandbox failed: it took longer than 60 s"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.complete("FINAL(x)", tools=[pb.Tool(name="f", python_source="while True: pass")])
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "it took longer than 60 s" in violations(failure.value)["tools[0].python_source"]


async def upload(stack: Stack, text: str) -> str:
    metadata = pb.ContextMetadata(format=pb.CONTEXT_FORMAT_TEXT)
    chunks = [text[start : start + MIB].encode() for start in range(0, len(text), MIB)]
    messages = [pb.UploadContextRequest(metadata=metadata), *(pb.UploadContextRequest(chunk=one) for one in chunks)]
    return str((await stack.stub.UploadContext(iter(messages))).context_id)


async def test_a_sandbox_that_dies_ends_the_completion_with_the_partial_answer(
    stack: Stack, sandbox: FakeSandbox
) -> None:
    sandbox.break_on_code = "break here"
    events = await stack.complete("```repl\nanswer['content'] = 'draft'\n```", "```repl\n# break here\n```")
    assert (events.reason, events.finished.answer, events.finished.partial) == ("SANDBOX_ERROR", "draft", True)
    assert "the worker died" in events.finished.error
    assert sandbox.open_sessions == 0


async def test_a_block_that_is_cut_off_from_its_sandboxes_again_and_again_is_not_blamed(
    stack: Stack, sandbox: FakeSandbox
) -> None:
    sandbox.cut_on_code, sandbox.cuts_left = "# cut here", 5
    events = await stack.complete("```repl\nx = 1\n```", "```repl\n# cut here\nx += 1\nFINAL(x)\n```")
    assert events.answer == "2"
    assert len(events.of("sandbox_restored")) == 5


async def test_a_block_that_is_always_cut_off_from_its_sandboxes_is_given_up(
    stack: Stack, sandbox: FakeSandbox
) -> None:
    sandbox.cut_on_code, sandbox.cuts_left = "# cut here", 100
    events = await stack.complete("```repl\n# cut here\n```")
    assert events.reason == "SANDBOX_ERROR"
    assert "the block lost 20 sandboxes" in events.finished.error


async def test_a_childs_sandbox_that_dies_is_an_error_for_the_parent(stack: Stack, sandbox: FakeSandbox) -> None:
    sandbox.break_on_code = "break here"
    code = "try:\n    rlm_query('x')\nexcept SubcallError as e:\n    FINAL(e.kind)"
    events = await stack.complete(f"```repl\n{code}\n```", "```repl\n# break here\n```")
    assert events.answer == "sandbox_error"
    assert events.of("subcall_finished")[0].finish_reason == event_pb2.FINISH_REASON_SANDBOX_ERROR


async def test_a_child_that_gets_no_sandbox_is_an_error_for_the_parent(stack: Stack, sandbox: FakeSandbox) -> None:
    code = "try:\n    rlm_query('x')\nexcept SubcallError as e:\n    FINAL(e.kind)"

    def reply(messages: Messages) -> str:
        sandbox.refuse_open = grpc.StatusCode.RESOURCE_EXHAUSTED
        return f"```repl\n{code}\n```"

    events = await stack.play(reply)
    assert events.answer == "sandbox_error"


async def test_each_child_has_a_session_of_its_own_that_is_freed(stack: Stack, sandbox: FakeSandbox) -> None:
    def reply(messages: Messages) -> str:
        if "What is it?" in messages[1]["content"]:
            return "```repl\nFINAL(rlm_query_batched(['a', 'b', 'c']))\n```"
        return "```repl\nFINAL(context)\n```"

    assert (await stack.play(reply)).answer == '["a", "b", "c"]'
    assert len(sandbox.opened) == 4
    assert sandbox.open_sessions == 0


async def test_host_calls_that_come_in_parts_are_joined(stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        if messages[0]["role"] == "user":
            return str(len(messages[0]["content"]))
        return "```repl\nFINAL(llm_query_batched(['a' * 5000, 'b' * 2500]))\n```"

    assert (await stack.play(reply)).answer == '["5000", "2500"]'


async def test_answers_that_are_large_go_in_parts(stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        return "ä" * 700_000 if messages[0]["role"] == "user" else "```repl\nFINAL(len(llm_query('x')))\n```"

    assert (await stack.play(reply)).answer == "700000"


async def test_a_large_context_is_uploaded_once_however_many_sessions_use_it(
    stack: Stack, sandbox: FakeSandbox
) -> None:
    part = pb.ContextPart(text="x" * (3 * MIB))
    for _ in range(3):
        events = await stack.complete("```repl\nFINAL(len(context))\n```", contexts=[part])
        assert events.answer == str(3 * MIB)
    assert len(sandbox.uploads) == 1


async def test_code_runs_in_the_image_that_is_set(model: ScriptedModel, sandbox: FakeSandbox) -> None:
    async with running_stack(model, sandbox=sandbox.address, sandbox_image="maths") as stack:
        await stack.complete("FINAL(x)")
    assert sandbox.opened[0].image == "maths"


async def test_a_small_context_goes_inline(stack: Stack, sandbox: FakeSandbox) -> None:
    await stack.complete("FINAL(x)")
    assert sandbox.uploads == []
    assert sandbox.opened[0].inputs[0].text == "abc"


@pytest.mark.parametrize(
    ("size_mib", "asked", "expected"),
    [(1, 0, 260 * MIB), (32, 0, 256 * MIB + 4 * 32 * MIB), (32, 100 * MIB, 100 * MIB), (1, 100 * MIB, 100 * MIB)],
)
async def test_a_large_context_gets_more_memory_unless_the_request_says_how_much(
    stack: Stack, sandbox: FakeSandbox, size_mib: int, asked: int, expected: int
) -> None:
    data = b"x" * MIB
    requests: list[Any] = [pb.UploadContextRequest(metadata=pb.ContextMetadata())]
    requests += [pb.UploadContextRequest(chunk=data)] * size_mib
    uploaded = await stack.stub.UploadContext(iter(requests))
    limits = limits_pb2.Limits(cell=limits_pb2.CellLimits(memory_bytes=asked))
    await stack.complete("FINAL(x)", contexts=[pb.ContextPart(context_id=uploaded.context_id)], limits=limits)
    assert sandbox.opened[-1].limits.memory_bytes == expected


async def test_code_that_tampers_with_host_calls_gets_an_error_and_harms_nothing(stack: Stack) -> None:
    calls = [
        "h('llm_query', 1)",
        "h('llm_query', prompts='x')",
        "h('llm_query', prompts=[1])",
        "h('llm_query', prompts=['x'], model=3)",
        "h('llm_query', prompts=['x'], contexts=[])",
        "h('llm_query', prompts=['x'], contexts=['c'])",
        "h('llm_query', prompts=['x'], contexts=[{'format': 'pickle', 'text': 'x'}])",
        "h('open_sesame', prompts=['x'])",
    ]
    code = "h = llm_query.__globals__['host_call']\nkinds = []\n" + "".join(
        f"try:\n    {call}\nexcept Exception as e:\n    kinds.append(e.type)\n" for call in calls
    )
    events = await stack.complete(f"```repl\n{code}\nFINAL(kinds)\n```")
    assert events.answer == str(["bad_call"] * len(calls)).replace("'", '"')
    assert events.of("subcall_started") == []


async def test_code_that_tampers_with_the_report_harms_nothing(stack: Stack) -> None:
    tamper = "m = FINAL.__globals__\nm['after_cell'] = lambda: {'final': 7, 'draft': ['x']}"
    events = await stack.complete(f"```repl\n{tamper}\n```", "```repl\nx = 1\n```", "FINAL(A)")
    assert events.answer == "A"
