"""The demo model's HTTP interface."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
import uuid
from typing import TYPE_CHECKING

from aiohttp import web

from rlm_server.demo_model.policy import reply_to
from rlm_server.demo_model.protocol import (
    CHARS_PER_TOKEN,
    ApiError,
    ChatRequest,
    Reply,
    count_tokens,
    parse_request,
    parse_response_request,
    text_of,
)
from rlm_server.demo_model.settings import MODEL_IDS, Behaviour, DemoModelSettings, Fault
from rlm_server.demo_model.wire import ChatCompletions, Responses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rlm_server.demo_model.wire import Wire


_ERRORS = {
    Fault.SERVER_ERROR: (500, "server_error"),
    Fault.OVERLOADED: (503, "server_error"),
    Fault.UNAUTHORIZED: (401, "invalid_api_key"),
    Fault.PAYMENT_REQUIRED: (402, "billing_hard_limit_reached"),
    Fault.QUOTA: (429, "insufficient_quota"),
    Fault.CONTEXT_LENGTH: (400, "context_length_exceeded"),
}
"""Status and code of faults that are errors of HTTP."""


def create_app(settings: DemoModelSettings | None = None) -> web.Application:
    """Returns the demo model as an application of aiohttp. Its runner must cancel handlers whose callers leave.

    Args:
        settings: how it behaves. Default: at once, without faults, for any key.
    """
    model = _DemoModel(settings or DemoModelSettings())
    app = web.Application(client_max_size=0)  # which stands for any
    app.add_routes(
        [
            web.post("/v1/chat/completions", _answering_errors(model.chat_completions)),
            web.post("/v1/responses", _answering_errors(model.responses)),
            web.get("/v1/models", _answering_errors(model.models)),
            web.get("/v1/models/{name}", _answering_errors(model.one_model)),
            web.post("/openai/deployments/{deployment}/chat/completions", _answering_errors(model.chat_completions)),
            web.post("/openai/responses", _answering_errors(model.responses)),
            web.get("/openai/models", _answering_errors(model.models)),
        ]
    )
    return app


class _DemoModel:
    def __init__(self, settings: DemoModelSettings) -> None:
        self._settings = settings
        self._call_numbers = itertools.count(1)

    async def models(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        return web.json_response({"object": "list", "data": [_model_object(name) for name in MODEL_IDS]})

    async def one_model(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        return web.json_response(_model_object(_known_model(request.match_info["name"])))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        return await self._answer(request, parse_request(await request.read()), ChatCompletions())

    async def responses(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        return await self._answer(request, parse_response_request(await request.read()), Responses())

    async def _answer(self, request: web.Request, chat: ChatRequest, wire: Wire) -> web.StreamResponse:
        name = _known_model(chat.model)
        try:
            behaviour = self._settings.behaviour_of(chat.model, request.headers)
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_demo_setting", param="model") from None
        fault = behaviour.fault_of_call(next(self._call_numbers))
        await _pause(None if fault is Fault.HANG else behaviour.latency_seconds)
        if fault is Fault.RATE_LIMIT:
            headers = {"retry-after": f"{behaviour.retry_after_seconds:g}"}
            raise ApiError(429, "demo-model: asked to fail with 429", "rate_limit_exceeded", headers=headers)
        if fault in _ERRORS:
            status, code = _ERRORS[fault]
            raise ApiError(status, f"demo-model: asked to fail with {fault.value}", code)
        reply = _reply(chat, name, fault)
        broken = fault is Fault.BROKEN_STREAM
        if chat.stream:
            events = _events(reply, wire, chat, behaviour, broken=broken)
            return await _send(request, events, {"content-type": "text/event-stream"}, broken=broken)
        if broken:
            body = json.dumps(wire.body(reply)).encode()
            return await _send(request, _half(body), {"content-length": str(len(body))}, broken=True)
        return web.json_response(wire.body(reply))

    def _check_key(self, request: web.Request) -> None:
        is_azure = request.path.startswith("/openai/")
        if is_azure and "api-version" not in request.query:
            raise ApiError(404, "Azure's paths need the query api-version", "missing_api_version")
        if self._settings.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if is_azure:
            given = request.headers.get("api-key", "")
        if not secrets.compare_digest(given.encode(), self._settings.api_key.encode()):
            raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")


async def _pause(seconds: float | None) -> None:
    """Waits, for ever if no time is given; a caller that leaves cancels it."""
    if seconds is None:
        await asyncio.get_running_loop().create_future()
    elif seconds:
        await asyncio.sleep(seconds)


async def _send(
    request: web.Request, parts: AsyncIterator[bytes], headers: dict[str, str], *, broken: bool
) -> web.StreamResponse:
    """Sends a reply part by part, and then cuts the connection if the reply is to be broken."""
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    async for part in parts:
        await response.write(part)
    if broken and request.transport is not None:
        request.transport.close()
    return response


def _reply(chat: ChatRequest, model: str, fault: Fault) -> Reply:
    withheld = fault is Fault.CONTENT_FILTER
    text = "" if withheld or fault is Fault.EMPTY else reply_to(chat.messages)
    stop_reason = "content_filter" if withheld else "stop"
    if chat.max_tokens is not None and count_tokens(text) > chat.max_tokens:
        text, stop_reason = text[: chat.max_tokens * CHARS_PER_TOKEN], "length"
    return Reply(
        completion_id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        text=text,
        stop_reason=stop_reason,
        prompt_tokens=count_tokens("".join(text_of(message) for message in chat.messages)),
    )


async def _events(
    reply: Reply, wire: Wire, chat: ChatRequest, behaviour: Behaviour, *, broken: bool
) -> AsyncIterator[bytes]:
    parts = [
        reply.text[start : start + behaviour.chunk_chars] for start in range(0, len(reply.text), behaviour.chunk_chars)
    ]
    ready = wire.beginning(reply)  # what nothing is waited for goes out with what follows
    for number, part in enumerate(parts):
        if number:
            yield ready.encode()
            ready = ""
        if number and behaviour.chunk_seconds:
            await asyncio.sleep(behaviour.chunk_seconds)
        if broken and number >= len(parts) // 2:
            if ready:
                yield ready.encode()
            return
        ready += wire.part(reply, part)
    yield (ready + wire.end(reply, include_usage=chat.include_usage)).encode()


async def _half(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]


def _known_model(name: str) -> str:
    base = name.partition("?")[0]
    if base not in MODEL_IDS:
        available = ", ".join(MODEL_IDS)
        raise ApiError(404, f"no model {base!r} here; there are {available}", "model_not_found", param="model")
    return base


def _model_object(name: str) -> dict[str, str | int]:
    owner = "rlm-server: a fixed program that stands in for a language model"
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _answering_errors(
    endpoint: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await endpoint(request)
        except ApiError as error:
            return web.json_response(error.body, status=error.status, headers=error.headers)

    return answer
