"""Any OpenAI-compatible endpoint for chat completions, through the `openai` package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import openai

from rlm_server.engine.ports import ModelErrorKind, ModelRequest, ReplyEnd, TextPart, TokenCounts
from rlm_server.models.openai_errors import from_sdk, from_stream, model_error
from rlm_server.models.sse import EventDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_CONNECT_TIMEOUT_SECONDS = 10.0
_NO_KEY = "none"
_END_OF_STREAM = b"[DONE]"


class OpenAIEndpoint:
    """An endpoint, as a `ports.ModelClient`.

    The `openai` package makes the request, with its retries and errors. The stream that comes back is decoded here: the
    package builds some ten objects for each token, which costs more than all the rest of a turn.

    Args:
        base_url: as `http://127.0.0.1:8000/v1`; None means OpenAI's.
        api_key: None means that the endpoint needs none.
        timeout_seconds: how long the endpoint may be silent.
        max_retries: how often a call that fails before its reply begins is tried again.
    """

    def __init__(self, *, base_url: str | None, api_key: str | None, timeout_seconds: float, max_retries: int) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            timeout=httpx2.Timeout(timeout_seconds, connect=_CONNECT_TIMEOUT_SECONDS),
            max_retries=max_retries,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextPart | ReplyEnd, None]:
        """Yields a reply as it comes in, a `ReplyEnd` last. Cancelling it closes the HTTP stream at once.

        Raises:
            ModelError: the call failed for good.
        """
        reader = _ReplyReader(request.model)
        try:
            async with self._client.chat.completions.with_streaming_response.create(**_body(request)) as response:
                content_type = response.headers.get("content-type", "")
                if not content_type.startswith("text/event-stream"):
                    raise model_error(
                        ModelErrorKind.BAD_REQUEST,
                        request.model,
                        f"the endpoint answered with {content_type or 'no content type'} and not with a stream of "
                        "events: its base URL usually ends in /v1",
                    )
                async for received in response.iter_bytes():
                    for part in reader.feed(received):
                        yield part
                for part in reader.finish():
                    yield part
        except openai.OpenAIError as error:
            raise from_sdk(error, request.model) from error
        except httpx2.TimeoutException as error:
            raise model_error(
                ModelErrorKind.TIMEOUT, request.model, "the endpoint fell silent in the middle of its reply"
            ) from error
        except httpx2.HTTPError as error:
            raise model_error(
                ModelErrorKind.UNREACHABLE, request.model, f"the endpoint broke its reply off: {error}"
            ) from error
        if reader.stop_reason == "content_filter" and not reader.has_text:
            raise model_error(ModelErrorKind.CONTENT_FILTER, request.model, "the reply was withheld")
        yield ReplyEnd(reader.stop_reason, reader.tokens)


class _ReplyReader:
    """Reads one streamed reply. Text that arrives together is passed on together."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._decoder = EventDecoder()
        self.stop_reason = ""
        self.tokens: TokenCounts | None = None
        self.has_text = False

    def feed(self, received: bytes) -> list[TextPart]:
        return self._read(self._decoder.feed(received))

    def finish(self) -> list[TextPart]:
        return self._read(self._decoder.finish())

    def _read(self, events: list[bytes]) -> list[TextPart]:
        parts: list[TextPart] = []
        for data in events:
            if data == _END_OF_STREAM:
                continue
            for part in self._read_chunk(data):
                if parts and parts[-1].reasoning == part.reasoning:
                    parts[-1] = TextPart(parts[-1].text + part.text, part.reasoning)
                else:
                    parts.append(part)
        return parts

    def _read_chunk(self, data: bytes) -> list[TextPart]:
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise model_error(
                ModelErrorKind.BAD_REQUEST, self._model, "the endpoint's stream has an event that is no JSON object"
            )
        if chunk.get("error"):
            raise from_stream(chunk["error"], self._model)
        if isinstance(chunk.get("usage"), dict):
            self.tokens = _tokens(chunk["usage"])
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return []
        if isinstance(choices[0].get("finish_reason"), str):
            self.stop_reason = choices[0]["finish_reason"]
        delta = choices[0].get("delta")
        if not isinstance(delta, dict):
            return []
        parts = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            parts.append(TextPart(reasoning, reasoning=True))
        text = delta.get("content") or delta.get("refusal")
        if isinstance(text, str) and text:
            parts.append(TextPart(text))
            self.has_text = True
        return parts


def _body(request: ModelRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_tokens": sampling.max_output_tokens,
        "reasoning_effort": sampling.reasoning_effort,
    }
    body |= {name: value for name, value in options.items() if value is not None}
    # The package walks through all it is given by its type hints, 0.2 ms for each message; not through `extra_body`.
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    return body | {"extra_body": {"messages": messages}}


def _tokens(usage: Mapping[str, object]) -> TokenCounts | None:
    input_tokens, output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(input_tokens, int) or not isinstance(output_tokens, int):
        return None
    return TokenCounts(
        input_tokens=max(0, input_tokens),
        output_tokens=max(0, output_tokens),
        cached_input_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
    )


def _detail(usage: Mapping[str, object], group: str, name: str) -> int:
    details = usage.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return max(0, value) if isinstance(value, int) else 0
