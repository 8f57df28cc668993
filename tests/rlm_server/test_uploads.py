"""`UploadContext`: good uploads, and every bad one."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_server.engine.repl.outlines import outline_json

from rlm_server import json_check
from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

TEXT = pb.CONTEXT_FORMAT_TEXT
JSON = pb.CONTEXT_FORMAT_JSON
DOCUMENTS = pb.CONTEXT_FORMAT_DOCUMENTS


def messages(*chunks: bytes, **metadata: Any) -> list[pb.UploadContextRequest]:
    head = pb.UploadContextRequest(metadata=pb.ContextMetadata(**metadata))
    return [head, *(pb.UploadContextRequest(chunk=chunk) for chunk in chunks)]


async def upload(stack: Stack, *chunks: bytes, **metadata: Any) -> pb.UploadContextResponse:
    return await stack.stub.UploadContext(iter(messages(*chunks, **metadata)))


async def refusal(stack: Stack, requests: list[pb.UploadContextRequest]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.stub.UploadContext(iter(requests))
    return failure.value


@pytest.mark.parametrize(
    ("chunks", "file_format"),
    [
        ([b"abc"], TEXT),
        ([b"a", b"", b"bc"], pb.CONTEXT_FORMAT_UNSPECIFIED),
        (["ä".encode()[:1], "ä".encode()[1:]], TEXT),
    ],
)
async def test_an_upload_is_named_by_its_format_and_digest(
    local_stack: Stack, chunks: list[bytes], file_format: pb.ContextFormat.ValueType
) -> None:
    response = await upload(local_stack, *chunks, format=file_format)
    digest = hashlib.sha256(b"".join(chunks)).hexdigest()
    assert (response.context_id, response.sha256) == (f"text-{digest}", digest)
    assert (response.size_bytes, response.already_present) == (len(b"".join(chunks)), False)


async def test_equal_bytes_have_equal_ids_and_the_second_time_is_told(local_stack: Stack) -> None:
    first, second = await upload(local_stack, b"abc"), await upload(local_stack, b"ab", b"c")
    assert first.context_id == second.context_id
    assert (first.already_present, second.already_present) == (False, True)


async def test_with_a_known_digest_no_bytes_are_needed(local_stack: Stack) -> None:
    first = await upload(local_stack, b"abc")
    second = await upload(local_stack, sha256=first.sha256)
    assert (second.context_id, second.already_present) == (first.context_id, True)


async def test_the_same_bytes_as_text_and_as_json_are_two_contexts(local_stack: Stack) -> None:
    as_text = await upload(local_stack, b"[1]")
    as_json = await upload(local_stack, b"[1]", format=JSON)
    assert as_text.context_id != as_json.context_id
    parts = [pb.ContextPart(context_id=one.context_id) for one in (as_text, as_json)]
    events = await local_stack.complete("```repl\nFINAL([context_0, context_1])\n```", contexts=parts)
    assert events.answer == '["[1]", [1]]'
    assert [one.type for one in events.all[0].started.contexts] == ["str", "list"]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "metadata"),
        ([pb.UploadContextRequest()], "metadata"),
        ([pb.UploadContextRequest(chunk=b"abc")], "metadata"),
        (messages(b"abc") + messages(), "metadata"),
        (messages(), "chunk"),
        (messages(b""), "chunk"),
        (messages(b"x" * (2**20 + 1)), "chunk"),
        (messages(b"abc", sha256="0" * 64), "metadata.sha256"),
        (messages(b"abc", sha256="xyz"), "metadata.sha256"),
        (messages(b"abc", sha256="A" * 64), "metadata.sha256"),
        (messages(b"abc", size_bytes=-1), "metadata.size_bytes"),
        (messages(b"abc", size_bytes=4), "metadata.size_bytes"),
        (messages(b"abc", format=99), "metadata.format"),
        (messages(b"ab\xff"), "chunk"),
        (messages("ä".encode()[:1]), "chunk"),
        (messages(b"{]", format=JSON), "chunk"),
        (messages(b"\xef\xbb\xbf[]", format=JSON), "chunk"),
        (messages(b"[" * 200_000, format=JSON), "chunk"),
        (messages(b"\xe4", charset="utf-16-le"), "chunk"),
        (messages(b"+2AA-", charset="utf-7"), "chunk"),
        (messages(b"\xff\xfe", charset="utf-16"), "chunk"),
        (messages(b"abc", charset="klingon"), "metadata.charset"),
        (messages(b"abc", charset="rot13"), "metadata.charset"),
        (messages(b"abc", charset="utf-16-le", sha256="0" * 64), "metadata.sha256"),
        (messages(b"{}", format=DOCUMENTS), "chunk"),
        (messages(b"[]", format=DOCUMENTS), "chunk"),
        (messages(b"[", format=DOCUMENTS), "chunk"),
    ],
)
async def test_a_bad_upload_is_refused_with_the_field(
    local_stack: Stack, requests: list[pb.UploadContextRequest], field: str
) -> None:
    error = await refusal(local_stack, requests)
    assert_status(error, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(error) == [field]


async def test_a_wrong_digest_is_told_with_the_right_one(local_stack: Stack) -> None:
    error = await refusal(local_stack, messages(b"abc", sha256="0" * 64))
    assert hashlib.sha256(b"abc").hexdigest() in str(error.details())


async def test_invalid_utf8_is_told_with_its_place(local_stack: Stack) -> None:
    error = await refusal(local_stack, messages(b"x" * 1000, b"y" * 23 + b"\xff"))
    assert "byte 1,023" in str(error.details())


@pytest.mark.parametrize("requests", [messages(b"x" * 60, b"y" * 60), messages(b"x", size_bytes=101)])
async def test_a_context_that_is_too_large_is_refused(
    model: ScriptedModel, requests: list[pb.UploadContextRequest]
) -> None:
    async with running_stack(model, max_context_bytes=100) as stack:
        error = await refusal(stack, requests)
        assert_status(error, grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_STORE_FULL", limit_bytes="100")
        assert (await upload(stack, b"z" * 100)).size_bytes == 100


async def test_the_least_recently_used_context_makes_room(model: ScriptedModel) -> None:
    async with running_stack(model, context_store_bytes=100) as stack:
        first, second = await upload(stack, b"1" * 50), await upload(stack, b"2" * 50)
        assert (await upload(stack, sha256=first.sha256)).already_present
        await upload(stack, b"3" * 50)
        part = pb.ContextPart(context_id=first.context_id)
        assert (await stack.complete("FINAL(x)", contexts=[part])).answer == "x"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.complete("FINAL(x)", contexts=[pb.ContextPart(context_id=second.context_id)])
        assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "CONTEXT_NOT_FOUND", context_id=second.context_id)


async def test_a_context_in_use_is_not_evicted(model: ScriptedModel) -> None:
    async with running_stack(model, context_store_bytes=100) as stack:
        used = await upload(stack, b"1" * 80)
        release = asyncio.Event()
        call = stack.start(
            [ScriptedReply("FINAL(x)", release=release)], contexts=[pb.ContextPart(context_id=used.context_id)]
        )
        responses = aiter(call)
        await anext(responses)
        error = await refusal(stack, messages(b"2" * 80))
        assert_status(error, grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_STORE_FULL")
        release.set()
        async for _ in responses:
            pass
        assert (await upload(stack, b"2" * 80)).size_bytes == 80


async def test_uploads_that_fail_leave_no_room_taken(model: ScriptedModel, tmp_path: Any) -> None:
    async with running_stack(model, context_store_bytes=100, data_dir=tmp_path / "data") as stack:
        for _ in range(3):
            await refusal(stack, messages(b"x" * 80 + b"\xff"))
        assert (await upload(stack, b"x" * 100)).size_bytes == 100
        assert [path.stat().st_size for path in (tmp_path / "data" / "blobs").glob("??/*")] == [100]
    assert not list((tmp_path / "data").glob("*uploads-*"))


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-16", "utf-8", "UTF8"])
async def test_text_in_another_charset_is_kept_as_utf8(local_stack: Stack, charset: str) -> None:
    data = "Käse für 3 €"[: 10 if charset == "iso-8859-1" else None].encode(charset)
    sent = hashlib.sha256(data).hexdigest()
    response = await upload(local_stack, data[:3], data[3:], charset=charset, sha256=sent, size_bytes=len(data))
    text = data.decode(charset)
    assert response.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert response.context_id == f"text-{response.sha256}"
    assert response.size_bytes == len(text.encode())
    part = pb.ContextPart(context_id=response.context_id)
    assert (await local_stack.complete("```repl\nFINAL(context)\n```", contexts=[part])).answer == text


async def test_documents_are_checked_and_become_a_list_of_dicts(local_stack: Stack) -> None:
    data = b'[{"id": "a", "text": "A", "metadata": {"text": 1}}, {"id": "b", "text": ""}]'
    response = await upload(local_stack, data, format=DOCUMENTS)
    part = pb.ContextPart(context_id=response.context_id)
    events = await local_stack.complete("```repl\nFINAL(context)\n```", contexts=[part])
    assert events.answer == data.decode()
    assert "`context`: list, 2 dicts, 76 characters as JSON" in local_stack.model.conversations[0][1]["content"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'["a"]', "document [0] is no object"),
        (b'[{"id": "a", "text": "A"}, {"id": 1, "text": ""}]', "document [1] lacks an `id` or a `text`"),
        (b'[{"id": "a"}]', "document [0] lacks an `id` or a `text`"),
        (b'[{"id": "a", "text": "A"}, {"id": "a", "text": ""}]', "document [1] has the id 'a' of an earlier one"),
        (b'[{"id": "a", "text": "A", "metadata": "m"}]', "document [0] has a `metadata` that is no object"),
        (b'[{"id": "a", "text": "A", "date": "d"}]', "document [0] has 'date'"),
    ],
)
async def test_what_is_no_list_of_documents_is_told_with_its_place(
    local_stack: Stack, data: bytes, complaint: str
) -> None:
    assert complaint in str((await refusal(local_stack, messages(data, format=DOCUMENTS))).details())


# --- documents that are read in a process of their own


@pytest.fixture
def always_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_check, "LARGE_BYTES", 0)


@pytest.mark.usefixtures("always_apart")
@pytest.mark.parametrize(("file_format", "data"), [(JSON, b'{"a": [1]}'), (DOCUMENTS, b'[{"id": "a", "text": "A"}]')])
async def test_a_large_document_has_the_same_outline(
    local_stack: Stack, file_format: pb.ContextFormat.ValueType, data: bytes
) -> None:
    response = await upload(local_stack, data, format=file_format)
    await local_stack.complete("FINAL(x)", contexts=[pb.ContextPart(context_id=response.context_id)])
    outline = outline_json(data.decode())
    told = local_stack.model.conversations[0][1]["content"]
    assert f"- `context`: {outline.type_name}, {outline.size}\n" in told
    assert all(f"  {line}\n" in told for line in outline.details.splitlines())


@pytest.mark.usefixtures("always_apart")
@pytest.mark.parametrize(
    ("data", "file_format", "complaint"),
    [
        (b"{]", JSON, "it is not JSON: "),
        (b"[1]", DOCUMENTS, "document [0] is no object"),
        (b"[" + b"[]," * 2_000_000 + b"[]]", JSON, "it takes more than 80,000,000 bytes of memory to read as JSON"),
    ],
)
async def test_what_is_wrong_with_a_large_document_is_told(
    local_stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    file_format: pb.ContextFormat.ValueType,
    complaint: str,
) -> None:
    monkeypatch.setattr(json_check, "_LEAST_MEMORY_BYTES", 80_000_000)
    chunks = [data[start : start + 2**20] for start in range(0, len(data), 2**20)]
    error = await refusal(local_stack, messages(*chunks, format=file_format))
    assert violated_fields(error) == ["chunk"]
    assert complaint in str(error.details())
