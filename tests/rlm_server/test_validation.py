"""Every wrong field is refused with a status that names it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

TEXT = pb.ContextPart(text="abc")


def documents(*ids: str) -> pb.ContextPart:
    return pb.ContextPart(documents=pb.Documents(documents=[pb.Document(id=one, text="t") for one in ids]))


def limits(**fields: Any) -> dict[str, Any]:
    return {"limits": limits_pb2.Limits(**fields)}


def cell(**fields: Any) -> dict[str, Any]:
    return limits(cell=limits_pb2.CellLimits(**fields))


def sampling(**fields: Any) -> dict[str, Any]:
    return {"sampling": pb.Sampling(**fields)}


def contexts(*parts: pb.ContextPart) -> dict[str, Any]:
    return {"contexts": parts}


async def refusal(stack: Stack, fields: dict[str, Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.complete("FINAL(never asked)", **fields)
    assert stack.model.requests == []
    return failure.value


WRONG_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("query", {"query": ""}),
    ("query", {"query": " \n"}),
    ("query", {"query": "x" * 100_001}),
    ("contexts", contexts()),
    ("contexts", contexts(*[TEXT] * 101)),
    ("contexts[0].value", contexts(pb.ContextPart())),
    ("contexts[0].text", contexts(pb.ContextPart(text=""))),
    ("contexts[0].json", contexts(pb.ContextPart(json=""))),
    ("contexts[0].json", contexts(pb.ContextPart(json="{'a': 1}"))),
    ("contexts[0].json", contexts(pb.ContextPart(json="[1] trailing"))),
    ("contexts[0].json", contexts(pb.ContextPart(json="[" * 200_000))),
    ("contexts[0].json", contexts(pb.ContextPart(json="9" * 5000))),
    ("contexts[0].documents", contexts(pb.ContextPart(documents=pb.Documents()))),
    ("contexts[0].documents.documents[1].id", contexts(documents("a", "a"))),
    ("contexts[0].context_id", contexts(pb.ContextPart(context_id=""))),
    ("contexts[0].encoded.data", contexts(pb.ContextPart(encoded=pb.EncodedText(charset="utf-8")))),
    ("contexts[0].encoded.data", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"\xff", charset="utf-8")))),
    ("contexts[0].encoded.data", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"+2AA-", charset="utf-7")))),
    ("contexts[0].encoded.data", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"\xff\xfe", charset="utf-16")))),
    ("contexts[0].encoded.charset", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"x")))),
    ("contexts[0].encoded.charset", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"x", charset="klingon")))),
    ("contexts[0].encoded.charset", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"x", charset="rot13")))),
    ("contexts[0].encoded.charset", contexts(pb.ContextPart(encoded=pb.EncodedText(data=b"x", charset="a\x00b")))),
    ("contexts[0].description", contexts(pb.ContextPart(text="t", description="x" * 1001))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="two words"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="1st"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="käse"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="class"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="_hidden"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="list"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="llm_query"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="answer"))),
    ("contexts[0].name", contexts(pb.ContextPart(text="t", name="x" * 101))),
    ("contexts[1].name", contexts(TEXT, pb.ContextPart(text="t", name="context"))),
    ("contexts[1].name", contexts(pb.ContextPart(text="t", name="a"), pb.ContextPart(text="t", name="a"))),
    ("contexts[1].name", contexts(pb.ContextPart(text="t", name="context_1"), TEXT)),
    ("limits.max_depth", limits(max_depth=-1)),
    ("limits.max_iterations", limits(max_iterations=0)),
    ("limits.max_iterations", limits(max_iterations=-5)),
    ("limits.wall_time", limits(wall_time=duration_pb2.Duration())),
    ("limits.wall_time", limits(wall_time=duration_pb2.Duration(seconds=-1))),
    ("limits.wall_time", limits(wall_time=duration_pb2.Duration(seconds=1, nanos=-1))),
    ("limits.wall_time", limits(wall_time=duration_pb2.Duration(seconds=2**62))),
    ("limits.max_input_tokens", limits(max_input_tokens=-1)),
    ("limits.max_output_tokens", limits(max_output_tokens=-1)),
    ("limits.max_subcalls", limits(max_subcalls=-1)),
    ("limits.max_concurrent_subcalls", limits(max_concurrent_subcalls=0)),
    ("limits.max_consecutive_errors", limits(max_consecutive_errors=0)),
    ("limits.max_concurrent_calls_per_model", limits(max_concurrent_calls_per_model=0)),
    ("limits.max_output_chars", limits(max_output_chars=99)),
    ("limits.cell.fuel", cell(fuel=-1)),
    ("limits.cell.memory_bytes", cell(memory_bytes=-1)),
    ("limits.cell.output_bytes", cell(output_bytes=-1)),
    ("limits.cell.wall_time", cell(wall_time=duration_pb2.Duration(nanos=-1))),
    ("sampling.temperature", sampling(temperature=-0.1)),
    ("sampling.temperature", sampling(temperature=2.1)),
    ("sampling.temperature", sampling(temperature=float("nan"))),
    ("sampling.top_p", sampling(top_p=0)),
    ("sampling.top_p", sampling(top_p=1.1)),
    ("sampling.max_output_tokens", sampling(max_output_tokens=0)),
    ("sampling.reasoning_effort", sampling(reasoning_effort="x" * 51)),
    ("sub_sampling.temperature", {"sub_sampling": pb.Sampling(temperature=3)}),
    ("sub_sampling.top_p", {"sub_sampling": pb.Sampling(top_p=0)}),
    ("sub_sampling.max_output_tokens", {"sub_sampling": pb.Sampling(max_output_tokens=-1)}),
    ("sub_sampling.reasoning_effort", {"sub_sampling": pb.Sampling(reasoning_effort="x" * 51)}),
    ("return_files.patterns", {"return_files": pb.ReturnFiles(patterns=["a"] * 21)}),
    ("return_files.patterns[1]", {"return_files": pb.ReturnFiles(patterns=["a", ""])}),
    ("return_files.patterns[0]", {"return_files": pb.ReturnFiles(patterns=["x" * 1001])}),
    ("return_files.max_bytes", {"return_files": pb.ReturnFiles(max_bytes=0)}),
    ("return_files.max_bytes", {"return_files": pb.ReturnFiles(max_bytes=-1)}),
    ("labels", {"labels": {str(n): "" for n in range(21)}}),
    ("labels[]", {"labels": {"": "x"}}),
    ("labels[k]", {"labels": {"k": "x" * 101}}),
]


@pytest.mark.parametrize(
    ("field", "request_fields"), WRONG_FIELDS, ids=[f"{n}-{field}" for n, (field, _) in enumerate(WRONG_FIELDS)]
)
async def test_a_wrong_field_is_named(local_stack: Stack, field: str, request_fields: dict[str, Any]) -> None:
    error = await refusal(local_stack, request_fields)
    assert_status(error, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(error) == [field]
    assert field in str(error.details())


async def test_all_wrong_fields_are_named_at_once(local_stack: Stack) -> None:
    error = await refusal(local_stack, {"query": "", **limits(max_iterations=0), **contexts(pb.ContextPart(text=""))})
    assert violated_fields(error) == ["query", "contexts[0].text", "limits.max_iterations"]


@pytest.mark.parametrize("field", ["model", "sub_model"])
async def test_an_unknown_model_is_named_with_those_that_there_are(model: ScriptedModel, field: str) -> None:
    async with running_stack(model, allowed_models=("root-model", "sub-model", "third")) as stack:
        error = await refusal(stack, {field: "gpt-x"})
        assert_status(
            error,
            grpc.StatusCode.INVALID_ARGUMENT,
            "UNKNOWN_MODEL",
            model="gpt-x",
            available="root-model,sub-model,third",
        )
        assert violated_fields(error) == [field]
        assert (await stack.complete("FINAL(x)", **{field: "third"})).answer == "x"


@pytest.mark.parametrize("name", ["x" * 201, "a\nb", " "])
async def test_a_name_that_no_model_can_have_is_refused(local_stack: Stack, name: str) -> None:
    error = await refusal(local_stack, {"model": name})
    assert_status(error, grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_MODEL")


async def test_the_models_of_a_request_are_used(local_stack: Stack) -> None:
    events = await local_stack.complete("```repl\nFINAL(llm_query('x'))\n```", "s", model="big", sub_model="small")
    assert events.answer == "s"
    assert [one["model"] for one in local_stack.model.requests] == ["big", "small"]


@pytest.mark.parametrize("context_id", ["nonsense", "text-" + "0" * 64, "../../etc/passwd"])
async def test_an_unknown_context_is_not_found(local_stack: Stack, context_id: str) -> None:
    error = await refusal(local_stack, contexts(pb.ContextPart(context_id=context_id)))
    assert_status(error, grpc.StatusCode.NOT_FOUND, "CONTEXT_NOT_FOUND", context_id=context_id)


async def test_more_completions_than_allowed_are_refused(model: ScriptedModel) -> None:
    async with running_stack(model, max_concurrent_completions=1) as stack:
        first = stack.start([ScriptedReply("FINAL(x)", release=asyncio.Event())])
        await first.read()
        await asyncio.wait_for(model.until_waiting(), 20)  # or the second's script would be the first's
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.complete("FINAL(y)")
        assert_status(failure.value, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_COMPLETIONS", limit="1")
        first.cancel()
