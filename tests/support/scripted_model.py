"""An endpoint with OpenAI's interfaces, and with Azure's paths, that says what a test tells it to, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support import scripted_responses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from starlette.requests import Request

DEFAULT_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@dataclass
class ScriptedReply:
    """A reply.

    Args:
        text: what is said.
        reasoning: what is thought before.
        stop_reason: the `finish_reason`.
        usage: the tokens; None leaves them out.
        status: an HTTP status other than 200 fails the call with `error`.
        error: the error object of a failed call.
        error_in_stream: an error object that is sent after the text.
        raw: bytes that are sent in place of a stream of events, or of `error`, with `content_type`.
        content_type: of `raw`.
        break_off: ends the connection after the text.
        end_early: ends the stream after the text as if that were all.
        release: the text is sent only once this is set.
        headers: more headers.
        chunk_chars: how much text is sent at once; 0 makes some 40 parts of a long text.
    """

    text: str = ""
    reasoning: str = ""
    stop_reason: str = "stop"
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_USAGE))
    status: int = 200
    error: dict[str, Any] | None = None
    error_in_stream: dict[str, Any] | None = None
    raw: bytes | None = None
    content_type: str = "text/html"
    break_off: bool = False
    end_early: bool = False
    release: asyncio.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)
    chunk_chars: int = 0


Messages: TypeAlias = "list[dict[str, str]]"
Script: TypeAlias = "Sequence[str | ScriptedReply] | Callable[[Messages], str | ScriptedReply]"


class ScriptedModel:
    """Answers calls from a script: a list of replies, or a function of the messages.

    Args:
        base_url: where `ScriptedModels` serves it.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._script: Script = []
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests so far."""
        self.request_headers: list[dict[str, str]] = []
        self.request_paths: list[str] = []
        """Paths and queries of the requests, from below the model's own path."""
        self.waiting_count = 0
        """How many calls wait for their `release`."""
        self._waiting_changed = asyncio.Condition()
        self.disconnected = asyncio.Event()
        """Is set when a client has gone before its reply was complete."""
        self.concurrent = 0
        self.most_concurrent = 0
        self._said = 0

    def follow(self, script: Script) -> None:
        """Begins to answer from a script."""
        self._script = script
        self._said = 0

    @property
    def azure_url(self) -> str:
        """What Azure would call the resource's endpoint."""
        return self.base_url.removesuffix("/v1")

    @property
    def conversations(self) -> list[Messages]:
        """The messages of each request so far."""
        return [_messages(request) for request in self.requests]

    async def complete(self, request: Request) -> Response:
        """Answers a request."""
        body = json.loads(await request.body())
        self.requests.append(body)
        self.request_headers.append(dict(request.headers))
        query = f"?{request.url.query}" if request.url.query else ""
        self.request_paths.append(request.url.path.partition("/")[2].partition("/")[2] + query)
        reply = self._next_reply(_messages(body))
        if reply.raw is not None:
            return Response(reply.raw, reply.status, reply.headers, reply.content_type)
        if reply.status != 200:
            error = reply.error or {"message": "scripted failure"}
            return JSONResponse({"error": error}, reply.status, reply.headers)
        is_chat = request.url.path.endswith("/chat/completions")
        if not body.get("stream"):
            make = _chat_completion if is_chat else scripted_responses.whole
            return JSONResponse(make(reply, body["model"]))
        events = self._chat_events if is_chat else self._response_events
        return StreamingResponse(self._stream(reply, events(reply, body["model"])), media_type="text/event-stream")

    def _next_reply(self, messages: Messages) -> ScriptedReply:
        if callable(self._script):
            reply = self._script(messages)
        elif self._said < len(self._script):
            reply = self._script[self._said]
            self._said += 1
        else:
            reply = ScriptedReply(status=400, error={"message": "the test's script has come to its end"})
        return ScriptedReply(reply) if isinstance(reply, str) else reply

    async def until_waiting(self, count: int = 1) -> None:
        """Returns when that many calls wait for their `release`."""
        async with self._waiting_changed:
            await self._waiting_changed.wait_for(lambda: self.waiting_count >= count)

    async def _wait(self, release: asyncio.Event) -> None:
        self.waiting_count += 1
        try:
            async with self._waiting_changed:
                self._waiting_changed.notify_all()
            await release.wait()
        finally:
            self.waiting_count -= 1

    async def _stream(self, reply: ScriptedReply, events: Iterator[bytes]) -> AsyncIterator[bytes]:
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            if reply.release is not None:
                yield b": the reply will come\n\n"
                await self._wait(reply.release)
            for event in events:
                yield event
            if reply.break_off:
                raise ConnectionResetError
        except asyncio.CancelledError:
            self.disconnected.set()
            raise
        finally:
            self.concurrent -= 1

    def _chat_events(self, reply: ScriptedReply, model: str) -> Iterator[bytes]:
        if reply.reasoning:
            yield _event(model, {"delta": {"reasoning_content": reply.reasoning}})
        for text in _parts(reply):
            yield _event(model, {"delta": {"content": text}})
        if reply.break_off or reply.end_early:
            return
        if reply.error_in_stream is not None:
            yield f"data: {json.dumps({'error': reply.error_in_stream})}\n\n".encode()
            return
        yield _event(model, {"delta": {}, "finish_reason": reply.stop_reason})
        if reply.usage is not None:
            yield f"data: {json.dumps({'model': model, 'choices': [], 'usage': reply.usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def _response_events(self, reply: ScriptedReply, model: str) -> Iterator[bytes]:
        yield from scripted_responses.text_events(reply, _part_chars(reply))
        if not reply.break_off and not reply.end_early:
            yield scripted_responses.last_event(reply, model)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class ScriptedModels:
    """An HTTP server for any number of scripted models, each under a path of its own. Use it with `async with`."""

    def __init__(self) -> None:
        self._models: list[ScriptedModel] = []
        paths = (
            *("v1/chat/completions", "v1/responses"),
            *("openai/deployments/{deployment}/chat/completions", "openai/responses"),
        )
        app = Starlette(routes=[Route(f"/{{index:int}}/{path}", self._complete, methods=["POST"]) for path in paths])
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1, ws="none")
        self._server = _Server(config)
        self._url = ""

    async def __aenter__(self) -> Self:
        # With the protocol named, asyncio sets TCP_NODELAY; without it each reply would wait 40 ms for an ACK.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._task = asyncio.create_task(self._serve(listener))
        await self._server.listening.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        await self._task

    def new_model(self) -> ScriptedModel:
        """Returns a model that has said nothing yet."""
        model = ScriptedModel(f"{self._url}/{len(self._models)}/v1")
        self._models.append(model)
        return model

    async def _serve(self, listener: socket.socket) -> None:
        with contextlib.closing(listener):
            await self._server._serve(sockets=[listener])  # `serve` would take over the process's signals

    async def _complete(self, request: Request) -> Response:
        model = self._models[int(request.path_params["index"])]
        return await model.complete(request)


def _messages(body: dict[str, Any]) -> Messages:
    messages: Messages = body["messages"] if "messages" in body else body["input"]
    return messages


def _part_chars(reply: ScriptedReply) -> int:
    return reply.chunk_chars or max(7, len(reply.text) // 40)


def _parts(reply: ScriptedReply) -> Iterator[str]:
    size = _part_chars(reply)
    for start in range(0, len(reply.text), size):
        yield reply.text[start : start + size]


def _chat_completion(reply: ScriptedReply, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text, "reasoning_content": reply.reasoning or None}
    choice = {"index": 0, "message": message, "finish_reason": reply.stop_reason}
    return {"model": model, "choices": [choice], "usage": reply.usage}


def _event(model: str, choice: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'model': model, 'choices': [{'index': 0, **choice}]})}\n\n".encode()
