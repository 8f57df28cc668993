"""Both clients against a fake server, over real gRPC. Every test runs twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import grpc
import pytest
import rlm_client
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2
from rlm_common.errors import InvalidRequestError as ServerInvalidRequestError
from rlm_common.errors import ServiceError, Violations, invalid_field

from tests.support.fake_completion_service import FakeCompletionService, ending_with, finished
from tests.support.pictures import png

MIB = 1024 * 1024


async def test_a_completion_gives_the_answer_and_what_it_took(client):
    completion = await client.completion("text", "?")
    assert completion.answer == "42"
    assert completion.finish_reason is rlm_client.FinishReason.ANSWERED
    assert completion.completion_id == "c-1"
    assert completion.event_count == 11
    assert completion.iterations == 1
    assert not completion.partial


async def test_a_completion_that_ends_at_a_limit_is_returned_with_its_partial_answer(client, service):
    service.events = ending_with(finished("so far", event_pb2.FINISH_REASON_WALL_TIME, partial=True))
    completion = await client.completion("text", "?")
    assert completion.finish_reason is rlm_client.FinishReason.WALL_TIME
    assert completion.answer == "so far"
    assert completion.partial


async def test_a_completion_whose_model_fails_is_returned_with_the_error(client, service):
    service.events = ending_with(finished("", event_pb2.FINISH_REASON_MODEL_ERROR, error="no key"))
    completion = await client.completion("text", "?")
    assert completion.finish_reason is rlm_client.FinishReason.MODEL_ERROR
    assert completion.error == "no key"


async def test_a_finish_reason_of_a_newer_server_is_unspecified(client, service):
    service.events = ending_with(finished("x", 99))
    assert (await client.completion("text", "?")).finish_reason is rlm_client.FinishReason.UNSPECIFIED


async def test_a_stream_gives_events_in_order_and_then_the_result(client):
    async with await client.stream("text", "?") as stream:
        events = [event async for event in stream]
        completion = await stream.result()
    assert [event.sequence for event in events] == list(range(1, 12))
    assert completion.answer == "42"


async def test_the_result_of_a_stream_can_be_had_without_taking_its_events(client):
    async with await client.stream("text", "?") as stream:
        assert (await anext(aiter(stream))).WhichOneof("kind") == "started"
        assert (await stream.result()).event_count == 11


async def test_cancelling_a_stream_tells_the_server(client, service):
    service.hold_after = 1
    stream = await client.stream("text", "?")
    await anext(aiter(stream))
    stream.cancel()
    with pytest.raises(rlm_client.CallCancelledError):
        await anext(aiter(stream))
    assert service.caller_is_gone.wait(10)


async def test_leaving_a_stream_early_tells_the_server(client, service):
    service.hold_after = 1
    async with await client.stream("text", "?") as stream:
        await anext(aiter(stream))
    assert service.caller_is_gone.wait(10)


async def test_a_stream_that_ends_without_its_last_event_is_an_error(client, service):
    service.events = service.events[:3]
    with pytest.raises(rlm_client.StreamEndedError, match="after event 3") as caught:
        await client.completion("text", "?")
    assert caught.value.completion_id == "c-1"
    assert caught.value.last_sequence == 3


async def test_a_stream_without_any_event_is_an_error(client, service):
    service.events = []
    with pytest.raises(rlm_client.StreamEndedError, match="after event 0"):
        await client.completion("text", "?")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_call_that_breaks_before_its_first_event_is_made_again(client, service, code):
    service.breaks = [code, code]  # a server that shuts down cancels calls that have just come in
    assert (await client.completion("text", "Why?")).answer == "42"
    first, second, third = service.requests
    assert first == second == third  # with the same `request_id`
    assert first.request_id


async def test_a_call_that_breaks_again_and_again_is_an_error_soon(client, service):
    service.breaks = [grpc.StatusCode.UNAVAILABLE] * 10
    with pytest.raises(rlm_client.UnavailableError):
        await client.completion("text", "Why?")
    assert len(service.requests) == 4


async def test_what_the_caller_gives_is_in_the_request(client, service):
    await client.completion(
        "text",
        "how many?",
        model="big",
        sub_model="small",
        limits=rlm_client.Limits(max_depth=0, wall_time_seconds=1.5, cell_fuel=7),
        sampling=rlm_client.Sampling(temperature=0.0, max_output_tokens=5, reasoning_effort="low"),
        sub_sampling=rlm_client.Sampling(top_p=0.5),
    )
    request = service.requests[0]
    assert (request.query, request.model, request.sub_model) == ("how many?", "big", "small")
    assert request.limits.HasField("max_depth")
    assert request.limits.max_depth == 0
    assert request.limits.wall_time == duration_pb2.Duration(seconds=1, nanos=500_000_000)
    assert request.limits.cell.fuel == 7
    assert not request.limits.HasField("max_iterations")
    assert request.sampling.HasField("temperature")
    assert request.sampling.reasoning_effort == "low"
    assert request.sub_sampling == pb.Sampling(top_p=0.5)


async def test_what_the_caller_does_not_give_is_absent(client, service):
    await client.completion("text", "?")
    request = service.requests[0]
    assert request.model == request.sub_model == ""
    assert not request.HasField("limits")
    assert not request.HasField("sampling")
    assert not request.HasField("sub_sampling")


@pytest.mark.parametrize(
    ("context", "part"),
    [
        ("grüße", pb.ContextPart(text="grüße")),
        ("grüße".encode(), pb.ContextPart(text="grüße")),
        ({"a": [1, None, "ü"]}, pb.ContextPart(json='{"a": [1, null, "ü"]}')),
        ([1, 2], pb.ContextPart(json="[1, 2]")),
        ([{"id": "a", "text": "b"}], pb.ContextPart(json='[{"id": "a", "text": "b"}]')),
    ],
    ids=["str", "bytes", "dict", "list", "documents"],
)
async def test_a_small_context_travels_in_the_request(client, service, context, part):
    await client.completion(context, "?")
    assert list(service.requests[0].contexts) == [part]
    assert not service.uploads


async def test_named_parts_keep_names_and_descriptions(client, service):
    await client.completion([rlm_client.Part("book", "text", "a novel"), rlm_client.Part("facts", {"a": 1})], "?")
    assert list(service.requests[0].contexts) == [
        pb.ContextPart(name="book", description="a novel", text="text"),
        pb.ContextPart(name="facts", json='{"a": 1}'),
    ]


async def test_a_large_text_is_uploaded_in_chunks_with_its_digest_first(client, service):
    text = "ä" * MIB
    await client.completion(text, "?")
    context_id = service.requests[0].contexts[0].context_id
    assert service.uploads[context_id].decode() == text
    assert max(service.upload_chunk_sizes) <= MIB
    assert len(service.upload_chunk_sizes) == 4
    assert service.upload_metadata[0].size_bytes == 2 * MIB
    assert len(service.upload_metadata[0].sha256) == 64
    assert service.upload_metadata[0].format == pb.CONTEXT_FORMAT_TEXT


async def test_a_large_json_value_is_uploaded_as_json(client, service):
    value = {"rows": ["x" * 100] * 20_000}
    await client.completion(value, "?")
    assert service.upload_metadata[0].format == pb.CONTEXT_FORMAT_JSON
    assert json.loads(next(iter(service.uploads.values()))) == value


async def test_parts_that_are_small_each_but_large_together_are_uploaded(client, service):
    await client.completion([rlm_client.Part(name, name * 900_000) for name in "ab"], "?")
    assert [part.name for part in service.requests[0].contexts] == ["a", "b"]
    assert sorted(map(len, service.uploads.values())) == [900_000, 900_000]


async def test_a_file_is_sent_as_text(client, service, tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"Zeile\r\n" * 10)
    await client.completion(path, "?")
    assert service.requests[0].contexts[0].text == "Zeile\r\n" * 10


async def test_a_large_file_is_uploaded(client, service, tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes("é".encode() * MIB)
    await client.completion(path, "?")
    assert next(iter(service.uploads.values())) == path.read_bytes()


async def test_a_directory_is_sent_as_documents_and_what_was_left_out_is_told(client, service, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("two")
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "picture.png").write_bytes(png())
    (tmp_path / "program").write_bytes(b"\x7fELF\0")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    completion = await client.completion(tmp_path, "?")
    documents = json.loads(service.requests[0].contexts[0].json)
    assert [(one["id"], one["text"]) for one in documents] == [("b/two.txt", "two"), ("one.txt", "one")]
    assert {(skipped.path.name, skipped.reason) for skipped in completion.skipped_files} == {
        ("picture.png", "a picture, which must be a context of its own"),
        ("program", "binary"),
        ("latin.txt", "not utf-8 at byte 3"),
    }


async def test_pictures_go_with_their_type(client, service, tmp_path):
    path = tmp_path / "flag.png"
    path.write_bytes(png())
    parts = [rlm_client.Part("a", path), rlm_client.Part("b", rlm_client.Image(b"x", "image/gif"))]
    await client.completion(parts, "?")
    sent = [(part.image.data, part.image.media_type) for part in service.requests[0].contexts]
    assert sent == [(png(), "image/png"), (b"x", "image/gif")]


async def test_a_large_picture_is_uploaded(client, service):
    large = png(padding=2 * MIB)
    await client.completion(rlm_client.Image(large), "?")
    (metadata,) = service.upload_metadata
    assert (metadata.format, metadata.size_bytes) == (pb.CONTEXT_FORMAT_IMAGE, len(large))
    assert list(service.uploads.values()) == [large]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [(rlm_client.Image(b"text"), "it is no PNG"), (Path("/nowhere/a.png"), "cannot be read")],
)
async def test_what_is_no_picture_is_told(client, value, complaint):
    with pytest.raises(rlm_client.ContextError, match=complaint):
        await client.completion(value, "?")


async def test_bytes_and_files_in_another_charset_go_as_they_are_with_its_name(client, service, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    parts = [rlm_client.Part("a", path, charset="latin-1"), rlm_client.Part("b", b"\xe4", charset="latin-1")]
    await client.completion(parts, "?")
    sent = [(part.encoded.data, part.encoded.charset) for part in service.requests[0].contexts]
    assert sent == [(b"caf\xe9", "latin-1"), (b"\xe4", "latin-1")]


async def test_a_large_file_in_another_charset_is_uploaded_with_its_name(client, service, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\xe9" * 2 * MIB)
    await client.completion([rlm_client.Part("a", path, charset="latin-1")], "?")
    (metadata,) = service.upload_metadata
    assert (metadata.charset, metadata.size_bytes) == ("latin-1", 2 * MIB)


@pytest.mark.parametrize(
    ("value", "charset", "complaint"),
    [
        (b"a\xe9", "ascii", "not ascii at byte 1"),
        (b"abc", "klingon", "Python knows no character set 'klingon'"),
        (b"abc", "rot13", "Python knows no character set 'rot13'"),
    ],
)
async def test_bytes_that_are_not_in_their_charset_are_told(client, value, charset, complaint):
    with pytest.raises(rlm_client.ContextError, match=complaint):
        await client.completion([rlm_client.Part("a", value, charset=charset)], "?")


async def test_a_byte_order_mark_is_no_part_of_a_text(client, service, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbfid,name")
    await client.completion([rlm_client.Part("a", path), rlm_client.Part("b", b"\xef\xbb\xbfb")], "?")
    sent = [(part.encoded.data, part.encoded.charset) for part in service.requests[0].contexts]
    assert sent == [(b"\xef\xbb\xbfid,name", "utf-8-sig"), (b"\xef\xbb\xbfb", "utf-8-sig")]


async def test_a_byte_order_mark_is_no_part_of_json(client, service, tmp_path):
    path = tmp_path / "orders.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    parts = [rlm_client.Part("a", path, is_json=True), rlm_client.Part("b", b"\xef\xbb\xbf[2]", is_json=True)]
    await client.completion(parts, "?")
    assert [part.json for part in service.requests[0].contexts] == ["[1]", "[2]"]


async def test_a_pipe_is_read_once(client, service, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("piped",))
    writer.start()
    await client.completion(path, "?")
    writer.join()
    assert service.requests[0].contexts[0].text == "piped"


async def test_half_of_a_surrogate_pair_in_a_json_value_arrives(client, service):
    await client.completion({"a": "\ud800ü"}, "?")
    assert json.loads(service.requests[0].contexts[0].json) == {"a": "\ud800ü"}


async def test_bytes_and_files_can_hold_json_values(client, service, tmp_path):
    path = tmp_path / "orders.txt"
    path.write_text('{"a": "ü"}')
    await client.completion([rlm_client.Part("a", path, is_json=True), rlm_client.Part("b", b"[1]", is_json=True)], "?")
    assert [part.json for part in service.requests[0].contexts] == ['{"a": "ü"}', "[1]"]
    with pytest.raises(rlm_client.ContextError, match="JSON is in UTF-8, not in latin-1; convert it"):
        await client.completion([rlm_client.Part("a", path, charset="latin-1", is_json=True)], "?")


async def test_a_large_json_file_is_uploaded_as_it_is(client, service, tmp_path):
    path = tmp_path / "large.json"
    path.write_text("[" + "1," * MIB + "1]")
    await client.completion([rlm_client.Part("a", path, is_json=True)], "?")
    (metadata,) = service.upload_metadata
    assert metadata.format == pb.CONTEXT_FORMAT_JSON


async def test_a_list_of_parts_and_other_values_is_told_as_such(client, service):
    with pytest.raises(TypeError, match="make each value a Part"):
        await client.completion([rlm_client.Part("a", "x"), "y"], "?")
    assert not service.requests


async def test_a_prepared_context_serves_several_queries(client, service, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("once upon a time")
    prepared = rlm_client.prepare([rlm_client.Part("book", path)])
    await client.completion(prepared, "first?")
    await client.completion(prepared, "second?")
    assert [request.contexts[0].text for request in service.requests] == ["once upon a time"] * 2


async def test_bytes_that_are_no_utf8_are_refused_with_the_offset_before_any_call(client, service):
    data = b"x" * 600_000 + b"\xff" + b"y"
    with pytest.raises(rlm_client.ContextError, match="not UTF-8 at byte 600000") as caught:
        await client.completion(data, "?")
    assert caught.value.byte_offset == 600_000
    assert not service.requests


async def test_a_character_cut_off_at_the_end_is_no_utf8(client, tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("aé".encode()[:-1])
    with pytest.raises(rlm_client.ContextError, match="byte 1") as caught:
        await client.completion(path, "?")
    assert caught.value.source == str(path)


async def test_a_character_across_two_chunks_is_utf8(client, service):
    data = b"x" * (512 * 1024 - 1) + "é".encode() * MIB
    await client.completion(data, "?")
    assert next(iter(service.uploads.values())) == data


@pytest.mark.parametrize("context", ["", b""], ids=["str", "bytes"])
async def test_an_empty_context_is_refused(client, context):
    with pytest.raises(rlm_client.ContextError, match="empty"):
        await client.completion(context, "?")


async def test_a_file_that_is_not_there_is_refused(client, tmp_path):
    with pytest.raises(rlm_client.ContextError, match="No such file"):
        await client.completion(tmp_path / "none", "?")


async def test_a_value_that_is_no_json_is_refused(client):
    with pytest.raises(rlm_client.ContextError, match="not a JSON value"):
        await client.completion({"a": {1, 2}}, "?")


async def test_a_context_of_another_type_is_refused(client):
    with pytest.raises(TypeError, match="must be str"):
        await client.completion(42, "?")


async def test_models_are_listed(client):
    models = await client.models()
    assert [(model.name, model.stand_in) for model in models.models] == [("m", False), ("demo-model", True)]
    assert models.default_model == "m"
    assert not models.any_model_allowed


async def test_a_unary_call_is_tried_again_when_the_server_is_unavailable(client, service):
    service.unavailable_count = 2
    assert (await client.models()).models
    assert service.unary_call_count == 3


ERRORS = [
    (grpc.StatusCode.NOT_FOUND, rlm_client.NotFoundError),
    (grpc.StatusCode.ALREADY_EXISTS, rlm_client.AlreadyExistsError),
    (grpc.StatusCode.FAILED_PRECONDITION, rlm_client.WrongStateError),
    (grpc.StatusCode.OUT_OF_RANGE, rlm_client.SequenceOutOfRangeError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, rlm_client.OverloadedError),
    (grpc.StatusCode.UNAVAILABLE, rlm_client.UnavailableError),
    (grpc.StatusCode.UNIMPLEMENTED, rlm_client.NotImplementedByServerError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, rlm_client.CallDeadlineError),
    (grpc.StatusCode.CANCELLED, rlm_client.CallCancelledError),
    (grpc.StatusCode.UNAUTHENTICATED, rlm_client.AccessError),
    (grpc.StatusCode.PERMISSION_DENIED, rlm_client.AccessError),
    (grpc.StatusCode.INTERNAL, rlm_client.ServerFailedError),
    (grpc.StatusCode.DATA_LOSS, rlm_client.ServerFailedError),
]


@pytest.mark.parametrize(("code", "error_type"), ERRORS, ids=[code.name for code, _ in ERRORS])
async def test_a_status_becomes_a_typed_error_with_reason_and_metadata(client, service, code, error_type):
    service.error = ServiceError(code, "SOME_REASON", "what happened", metadata={"a": "b"}, retry_delay_seconds=1.5)
    with pytest.raises(error_type, match="what happened") as caught:
        await client.completion("text", "?")
    assert type(caught.value) is error_type
    assert caught.value.code is code
    assert caught.value.reason == "SOME_REASON"
    assert caught.value.metadata == {"a": "b"}
    assert caught.value.retry_delay_seconds == 1.5


async def test_an_invalid_request_names_the_fields(client, service):
    violations = Violations()
    violations.add("query", "is empty")
    violations.add("limits.max_depth", "is negative")
    service.error = ServerInvalidRequestError(violations.found)
    with pytest.raises(rlm_client.InvalidRequestError) as caught:
        await client.completion("text", "")
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.field_violations == (
        rlm_client.FieldViolation("query", "is empty"),
        rlm_client.FieldViolation("limits.max_depth", "is negative"),
    )


async def test_an_error_of_a_unary_call_is_typed_too(client, service):
    service.error = invalid_field("x", "is wrong")
    with pytest.raises(rlm_client.InvalidRequestError):
        await client.models()


async def test_a_deadline_ends_the_call(client, service):
    service.hold_after = 1
    with pytest.raises(rlm_client.CallDeadlineError):
        await client.completion("text", "?", timeout_seconds=0.1)
    assert service.caller_is_gone.wait(10)


async def test_a_server_that_is_not_there_is_unavailable(connect, tmp_path):
    async with connect(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(rlm_client.UnavailableError) as caught:
            await client.completion("text", "?")
    assert caught.value.reason == ""


def test_the_fake_serves_every_rpc_that_the_clients_call():
    assert {"Complete", "UploadContext", "ListModels"} <= set(vars(FakeCompletionService))


async def test_compaction_is_passed_on(client, service):
    await client.completion("text", "?", compaction=rlm_client.Compaction(threshold=0.5, context_window_tokens=8000))
    compaction = service.requests[-1].compaction
    assert (compaction.threshold, compaction.context_window_tokens, compaction.disabled) == (0.5, 8000, False)


async def test_prompts_select_a_set_and_replace_texts(client, service):
    await client.completion("text", "?", prompts=rlm_client.Prompts("mine", {"turn": "[$iteration]"}))
    assert service.requests[0].prompts == pb.Prompts(name="mine", overrides={"turn": "[$iteration]"})


async def test_the_sets_of_texts_of_a_server_can_be_listed(client):
    found = await client.prompts()
    assert [one.name for one in found.sets] == ["v1", "mine"]
    assert found.default_name == "v1"
    assert found.model_notes[0].family == "gpt-5"


async def test_a_direct_answer_can_be_allowed(client, service):
    await client.completion("text", "?", direct_answer_allowed=True)
    await client.completion("text", "?")
    assert [request.direct_answer_allowed for request in service.requests] == [True, False]
