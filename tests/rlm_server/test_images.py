"""Pictures: as contexts, in sub-calls, for child RLMs; the bytes arrive at the endpoint."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_client import AsyncClient, Part
from rlm_client import Image as ClientImage
from rlm_server.demo_model.server import running_demo_model
from rlm_server.engine.images import Image, ImageError, check_image
from rlm_server.engine.ports.models import Message
from rlm_server.models.content import responses_content
from rlm_server.models.profile import ModelProfile
from rlm_server.server import create_server
from rlm_server.settings import Settings

from tests.rlm_server.test_uploads import upload
from tests.support.pictures import GIF, JPEG, WEBP_EXTENDED, WEBP_LOSSLESS, WEBP_LOSSY, png
from tests.support.rlm_stack import running_stack
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

PNG = png()


def part(data: bytes = PNG, media_type: str = "image/png", **fields: Any) -> pb.ContextPart:
    return pb.ContextPart(image=pb.Image(data=data, media_type=media_type), **fields)


def shown(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """Returns a picture as chat completions have it."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def asked(stack: Stack) -> list[Any]:
    """Returns what each sub-model was asked."""
    return [one[0]["content"] for one in stack.model.conversations if one[0]["role"] == "user"]


# --- the bytes


@pytest.mark.parametrize(
    ("data", "media_type", "width", "height"),
    [
        (PNG, "image/png", 3, 2),
        (JPEG, "image/jpeg", 9, 7),
        (GIF, "image/gif", 4, 5),
        (WEBP_LOSSY, "image/webp", 6, 8),
        (WEBP_LOSSLESS, "image/webp", 11, 21),
        (WEBP_EXTENDED, "image/webp", 100, 50),
    ],
)
def test_type_and_size_are_read_off_the_bytes(data: bytes, media_type: str, width: int, height: int) -> None:
    for said in ("", media_type):
        info = check_image(data, said, 1000).info
        assert (info.media_type, info.width, info.height, info.size_bytes) == (media_type, width, height, len(data))


@pytest.mark.parametrize(
    ("data", "media_type", "complaint"),
    [
        (PNG, "image/jpeg", "its bytes are image/png and not image/jpeg"),
        (PNG, "image/tiff", "'image/tiff' is no type that models take; use one of image/png"),
        (b"<svg/>", "", "its bytes are none of image/png"),
        (PNG[:20], "", "it is no whole image/png"),
        (JPEG[:8], "", "it is no whole image/jpeg"),
        (JPEG[:4] + b"\0\2" + b"x" * 20, "", "it is no whole image/jpeg"),
        (png(padding=1000), "", "at most 1,000 are allowed: scale it down"),
    ],
)
def test_what_is_no_usable_picture_is_told_with_the_remedy(data: bytes, media_type: str, complaint: str) -> None:
    with pytest.raises(ImageError) as error:
        check_image(data, media_type, 1000)
    assert complaint in str(error.value)


def test_the_responses_api_has_a_form_of_its_own() -> None:
    image: Image = check_image(PNG, "", 1000)
    assert responses_content(Message("user", "a")) == "a"
    assert responses_content(Message.from_user(("a", image))) == [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": shown(PNG)["image_url"]["url"]},
    ]


# --- as contexts


async def test_a_picture_is_a_value_with_type_size_and_bytes(stack: Stack) -> None:
    code = (
        "FINAL([repr(context), context.media_type, context.width, context.height, context.size_bytes, "
        "context.data[:4] == b'\\x89PNG', isinstance(context, Image)])"
    )
    events = await stack.run_code(code, contexts=[part(description="a flag")])
    size = f"{len(PNG)} bytes"
    assert events.answer == (f'["<Image image/png, 3 x 2 pixels, {size}>", "image/png", 3, 2, {len(PNG)}, true, true]')
    assert f"- `context`: Image, image/png, 3 x 2 pixels, {size}: a flag\n" in stack.shown_to_root(1)
    (info,) = events.all[0].started.contexts
    assert (info.type, info.size_bytes) == ("Image", len(PNG))


async def test_the_model_is_told_how_to_use_pictures_where_there_are_some(local_stack: Stack) -> None:
    await local_stack.complete("FINAL(x)", contexts=[part()])
    await local_stack.complete("FINAL(x)")
    with_pictures, without = (one[0]["content"] for one in local_stack.model.conversations)
    assert '`llm_query(["What is in it?", image])`' in with_pictures
    assert "images=" not in without


async def test_pictures_are_named_parts_beside_others(stack: Stack) -> None:
    parts = [part(name="photo"), pb.ContextPart(name="notes", text="n"), part(GIF, "image/gif")]
    events = await stack.run_code("FINAL([type(one).__name__ for one in context.values()])", contexts=parts)
    assert events.answer == '["Image", "str", "Image"]'


async def test_an_uploaded_picture_is_one_as_well(stack: Stack) -> None:
    large = png(padding=300_000)
    response = await upload(stack, large[:100_000], large[100_000:], format=pb.CONTEXT_FORMAT_IMAGE)
    assert response.context_id.startswith("image-")
    code = "FINAL(llm_query(['see', context]))"
    contexts = [pb.ContextPart(context_id=response.context_id)]
    events = await stack.complete(f"```repl\n{code}\n```", "seen", contexts=contexts)
    assert events.answer == "seen"
    assert asked(stack) == [[text("see"), shown(large)]]


async def test_an_uploaded_picture_outlives_the_server(model: ScriptedModel, tmp_path: Path) -> None:
    async with running_stack(model, data_dir=tmp_path) as stack:
        response = await upload(stack, PNG, format=pb.CONTEXT_FORMAT_IMAGE)
    async with running_stack(model, data_dir=tmp_path) as stack:
        contexts = [pb.ContextPart(context_id=response.context_id)]
        events = await stack.run_code("FINAL([context.media_type, context.width])", contexts=contexts)
    assert events.answer == '["image/png", 3]'


@pytest.mark.parametrize(
    ("context", "field"),
    [
        (part(b""), "contexts[0].image.data"),
        (part(media_type=""), "contexts[0].image.media_type"),
        (part(media_type="image/svg+xml"), "contexts[0].image.media_type"),
        (part(media_type="image/gif"), "contexts[0].image.data"),
        (part(PNG[:10]), "contexts[0].image.data"),
        (part(png(padding=2000)), "contexts[0].image.data"),
        (part(name="Image"), "contexts[0].name"),
    ],
)
async def test_a_wrong_picture_is_refused_by_field(model: ScriptedModel, context: pb.ContextPart, field: str) -> None:
    async with running_stack(model, max_image_bytes=2000) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.complete("FINAL(x)", contexts=[context])
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == [field]


@pytest.mark.parametrize(
    ("chunk", "metadata", "field"),
    [(b"no picture", {}, "chunk"), (PNG, {"charset": "utf-8"}, "metadata.charset")],
)
async def test_a_wrong_picture_is_refused_as_an_upload(
    local_stack: Stack, chunk: bytes, metadata: dict[str, str], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await upload(local_stack, chunk, format=pb.CONTEXT_FORMAT_IMAGE, **metadata)
    assert violated_fields(failure.value) == [field]


async def test_an_upload_that_is_too_large_for_a_picture_is_refused(model: ScriptedModel) -> None:
    async with running_stack(model, max_image_bytes=100) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await upload(stack, png(padding=200), format=pb.CONTEXT_FORMAT_IMAGE)
        assert_status(failure.value, grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_STORE_FULL", limit_bytes="100")


# --- in sub-calls


@pytest.mark.parametrize(
    ("call", "content"),
    [
        ("llm_query(['What?', context, 'Say it.'])", [text("What?"), shown(PNG), text("Say it.")]),
        ("llm_query('What?', images=[context])", [text("What?"), shown(PNG)]),
        ("llm_query('What?', images=context)", [text("What?"), shown(PNG)]),
        ("llm_query(['A', context], images=[context])", [text("A"), shown(PNG), shown(PNG)]),
        ("llm_query(context)", [shown(PNG)]),
        ("llm_query(['a', 'b'], images=[])", '["a", "b"]'),
        ("llm_query('b', images=[Image(context.data, 'image/png')])", [text("b"), shown(PNG)]),
        ("(await llm_query_async('What?', images=[context]))", [text("What?"), shown(PNG)]),
    ],
)
async def test_the_bytes_of_a_picture_arrive_at_the_endpoint(stack: Stack, call: str, content: Any) -> None:
    events = await stack.complete(f"```repl\nFINAL({call})\n```", "a flag", contexts=[part()])
    assert events.answer == "a flag"
    assert asked(stack) == [content]


async def test_a_batch_has_pictures_for_some_of_its_prompts(stack: Stack) -> None:
    code = "FINAL(llm_query_batched(['a', 'b', ['c', context]], images=[context, None, []]))"

    def reply(messages: Any) -> str:
        if messages[0]["role"] == "system":
            return f"```repl\n{code}\n```"
        content = messages[0]["content"]
        return content if isinstance(content, str) else f"{content[0]['text']} with {len(content) - 1}"

    events = await stack.play(reply, contexts=[part()])
    assert events.answer == '["a with 1", "b", "c with 1"]'
    previews = [one.prompt_preview for one in events.of("subcall_started")]
    assert sorted(previews) == ["a\n\n[image/png]", "b", "c\n\n[image/png]"]


async def test_a_model_that_takes_no_images_is_not_asked(model: ScriptedModel) -> None:
    code = (
        "replies = llm_query_batched(['a', ['b', context]], model='blind')\n"
        "FINAL([replies[0], replies[1].kind, replies[1].message])"
    )
    async with running_stack(model, models={"blind": ModelProfile(images=False)}) as stack:
        events = await stack.complete(f"```repl\n{code}\n```", "seen", contexts=[part()])
        listed = await stack.stub.ListModels(pb.ListModelsRequest())
    assert events.answer == '["seen", "no_images", "blind takes no images; name a model that does"]'
    assert events.finished.usage.subcall_count == 1
    assert {one.name: one.images_refused for one in listed.models}["blind"]


async def test_a_picture_of_code_that_cannot_be_sent_fails_that_item_alone(stack: Stack) -> None:
    code = (
        "bad = Image(b'no picture', 'image/png')\n"
        "replies = llm_query_batched([['a', bad], ['b', context]])\n"
        "FINAL([replies[0].kind, replies[0].message, replies[1]])"
    )
    events = await stack.complete(f"```repl\n{code}\n```", "seen", contexts=[part()])
    assert events.answer == (
        '["bad_image", "an image cannot be sent: its bytes are none of image/png, image/jpeg, image/gif, image/webp", '
        '"seen"]'
    )
    assert len(events.of("subcall_started")) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("Image('text', 'image/png')", "TypeError: an image's data must be bytes, not str"),
        ("llm_query('a', images=['b'])", "TypeError: images must be Image objects"),
        ("llm_query_batched(['a', 'b'], images=[context])", "ValueError: there are 2 prompts but 1 images"),
        ("llm_query_batched(['a'], images=context)", "TypeError: images must be a list with one image for each"),
        ("rlm_query('a', context='c', images=[context])", "TypeError: give images to a child RLM in its context"),
        ("rlm_query('a', context={1, 2})", "TypeError: a context must be text, images, or what JSON can express"),
    ],
)
async def test_a_wrong_use_of_pictures_raises_with_the_remedy(local_stack: Stack, call: str, error: str) -> None:
    events = await local_stack.run_code(call, contexts=[part()])
    assert error in events.of("code_finished")[0].traceback
    assert not events.of("subcall_started")


@pytest.mark.parametrize(
    "arguments",
    [
        "prompts=[['a', 0]]",
        "prompts=[['a', True]], images=[{'media_type': 'image/png', 'data': ''}]",
        "prompts=[[None]]",
        "prompts=['a'], images='x'",
        "prompts=['a'], images=[{'media_type': 'image/png', 'data': '%%%'}]",
        "prompts=['a'], contexts=[{'format': 'json', 'text': '1', 'images': [0]}]",
    ],
)
async def test_forged_calls_are_refused(local_stack: Stack, arguments: str) -> None:
    code = (
        "h = llm_query.__globals__['host_call']\n"
        "try:\n"
        f"    h('rlm_query', {arguments})\n"
        "except Exception as error:\n"
        "    FINAL(error.type)"
    )
    assert (await local_stack.run_code(code, contexts=[part()])).answer == "bad_call"


# --- for child RLMs


@pytest.mark.parametrize(
    ("call", "told", "code"),
    [
        ("rlm_query('What?', images=[context])", "list, 1 dict", "context[0]"),
        ("rlm_query(['What?', context])", "list, 1 dict", "context[0]"),
        ("rlm_query('What?', context=context)", "dict, 1 key", "context"),
        ("rlm_query('What?', context={'photo': context, 'n': [1]})", "dict, 2 keys", "context['photo']"),
    ],
)
async def test_a_child_has_pictures_in_its_context(stack: Stack, call: str, told: str, code: str) -> None:
    replies = (f"```repl\nFINAL({call})\n```", f"```repl\nFINAL(llm_query(['see', {code}]))\n```", "seen")
    events = await stack.complete(*replies, contexts=[part()])
    assert events.answer == "seen"
    assert asked(stack) == [[text("see"), shown(PNG)]]
    child = stack.model.conversations[1][1]["content"]
    assert child.startswith("Question:\nWhat?\n")
    assert f"- `context`: {told}" in child
    assert f"n=0: image/png, 3 x 2 pixels, {len(PNG)} bytes" in child


async def test_beyond_the_greatest_depth_a_childs_pictures_go_with_the_prompt(local_stack: Stack) -> None:
    code = "FINAL(rlm_query('What?', context={'photo': context}))"
    events = await local_stack.complete(f"```repl\n{code}\n```", "seen", contexts=[part()], limits={"max_depth": 0})
    assert events.answer == "seen"
    prompt = 'What?\n\nContext:\n{"photo": {"__image__": 0}}'
    assert asked(local_stack) == [[text(prompt), text("Image 0:"), shown(PNG)]]


async def test_an_object_that_only_looks_like_a_picture_stays_what_it_is(local_stack: Stack) -> None:
    code = "FINAL(rlm_query('q', context=[context, {'__image__': 7}, {'__image__': 0, 'a': 1}]))"
    replies = (f"```repl\n{code}\n```", "```repl\nFINAL([type(one).__name__ for one in context])\n```")
    events = await local_stack.complete(*replies, contexts=[part()])
    assert events.answer == '["Image", "dict", "dict"]'


async def test_identical_calls_with_other_pictures_are_not_identical(local_stack: Stack) -> None:
    code = "FINAL([llm_query('a', images=[p]) for p in (context_0, context_0, context_1)])"
    contexts = [part(), part(GIF, "image/gif")]
    replies = (f"```repl\n{code}\n```", "one", "two")
    events = await local_stack.complete(*replies, contexts=contexts, cache_subcalls=True)
    assert events.answer == '["one", "one", "two"]'


# --- in conversations


async def test_a_picture_of_a_follow_up_is_one_as_well(stack: Stack) -> None:
    events = await stack.complete("FINAL(x)", keep_conversation=True)
    conversation_id = events.all[0].started.conversation_id
    code = "```repl\nFINAL([name for name, value in globals().items() if isinstance(value, Image)])\n```"
    events = await stack.complete(code, contexts=[part(name="photo")], conversation_id=conversation_id)
    assert events.answer == '["photo"]'


async def test_models_are_told_how_to_show_pictures_of_earlier_questions(local_stack: Stack) -> None:
    events = await local_stack.complete("FINAL(x)", contexts=[part()], keep_conversation=True)
    conversation_id = events.all[0].started.conversation_id
    await local_stack.complete("FINAL(x)", contexts=[], conversation_id=conversation_id)
    assert '`llm_query(["What is in it?", image])`' in local_stack.model.conversations[-1][0]["content"]


# --- with the demo model, from the Python client


async def test_the_demo_model_proves_that_the_bytes_arrive(executor: str, tmp_path: Path) -> None:
    picture = tmp_path / "flag.PNG"
    picture.write_bytes(PNG)
    digest = hashlib.sha256(PNG).hexdigest()
    async with running_demo_model() as model:
        settings = Settings(
            default_model="demo-model", listen=("127.0.0.1:0",), sandbox=executor, base_url=model.base_url
        )
        server = await create_server(settings)
        try:
            await server.start()
            async with AsyncClient(server.addresses[0]) as client:
                large = ClientImage(png(padding=2_000_000))
                parts = [Part("flag", picture), Part("large", large), Part("notes", "a text")]
                completion = await client.completion(parts, "What is `it`?")
        finally:
            await server.stop(0)
    lines = completion.answer.splitlines()
    assert any(line.startswith("Image flag:") and digest in line for line in lines), completion.answer
    assert any(line.startswith("Image large:") and f"of {len(large.read()[0])} bytes" in line for line in lines)
