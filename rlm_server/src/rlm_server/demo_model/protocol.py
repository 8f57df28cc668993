"""The shapes of OpenAI's interfaces, as far as the demo model speaks them."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = dict[str, Any]
"""One message of a request: `role` and `content`."""

CHARS_PER_TOKEN = 4


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: what is wrong, for people.
        code: the `code` of OpenAI's error object.
        param: the field that is wrong, if one is.
        headers: headers of the answer.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": _error_type(status), "param": param, "code": code}}
        self.headers = headers or {}


@dataclass(frozen=True)
class ChatRequest:
    """What the demo model heeds of a chat completion request; it ignores the rest, as temperature."""

    model: str
    messages: Sequence[Message]
    stream: bool
    include_usage: bool
    max_tokens: int | None


@dataclass(frozen=True)
class Reply:
    """A reply with its usage.

    The token rule: a token is 4 characters, rounded up; the prompt is the text of all messages together.
    """

    completion_id: str
    created: int
    model: str
    text: str
    stop_reason: str
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The `usage` object."""
        completion_tokens = count_tokens(self.text)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }

    def body(self) -> dict[str, Any]:
        """Returns the answer to a request that does not stream."""
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.stop_reason, "logprobs": None}
        return self._object("chat.completion", [choice]) | {"usage": self.usage}

    def chunk(self, delta: dict[str, str], stop_reason: str | None = None) -> str:
        """Returns a part of a streamed reply, as a server-sent event."""
        choice = {"index": 0, "delta": delta, "finish_reason": stop_reason}
        return server_sent_event(self._object("chat.completion.chunk", [choice]))

    def usage_chunk(self) -> str:
        """Returns the part of a streamed reply that carries the usage and no choices."""
        return server_sent_event(self._object("chat.completion.chunk", []) | {"usage": self.usage})

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def count_tokens(text: str) -> int:
    """Returns the number of tokens of a text by the demo model's rule: a quarter of its characters, rounded up."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def text_of(message: Message) -> str:
    """Returns the text of a message, whose content is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part, dict) and part.get("text"))


def images_of(message: Message) -> list[tuple[str, bytes]]:
    """Returns the pictures of a message that come as data URLs: the media type and the bytes of each.

    Raises:
        ApiError: one comes otherwise.
    """
    content = message.get("content")
    found = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") == "image_url":
            url = (part.get("image_url") or {}).get("url", "")
            matched = re.fullmatch(r"data:(image/\w+);base64,([A-Za-z0-9+/=]*)", url)
            if matched is None:
                raise ApiError(400, "images must be data URLs in base64", "invalid_value", param="messages")
            found.append((matched[1], base64.b64decode(matched[2])))
    return found


def server_sent_event(value: dict[str, Any]) -> str:
    """Returns a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def parse_request(body: bytes) -> ChatRequest:
    """Reads a chat completion request.

    Raises:
        ApiError: it is no JSON object, or a field is missing or has the wrong type.
    """
    value = _object(body)
    options = value.get("stream_options") or {}
    return ChatRequest(
        model=_model(value),
        messages=_messages(value, "messages"),
        stream=bool(value.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        max_tokens=_limit(value, "max_completion_tokens", "max_tokens"),
    )


def parse_response_request(body: bytes) -> ChatRequest:
    """Reads a request of the newer interface, responses; its input must be a list of messages.

    Raises:
        ApiError: it is no JSON object, or a field is missing or has the wrong type.
    """
    value = _object(body)
    return ChatRequest(
        model=_model(value),
        messages=[_as_chat_message(one) for one in _messages(value, "input")],
        stream=bool(value.get("stream")),
        include_usage=True,
        max_tokens=_limit(value, "max_output_tokens"),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        raise ApiError(400, "the body is not JSON", "invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", "invalid_type")
    return value


def _model(value: dict[str, Any]) -> str:
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model must be a non-empty string", "invalid_type", param="model")
    return model


def _messages(value: dict[str, Any], field: str) -> list[Message]:
    messages = value.get(field)
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ApiError(400, f"{field} must be a non-empty list of objects", "invalid_type", param=field)
    return messages


def _limit(value: dict[str, Any], *fields: str) -> int | None:
    limit = next((value[field] for field in fields if value.get(field)), None)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ApiError(400, f"{fields[0]} must be a positive integer", "invalid_value", param=fields[-1])
    return limit


def _as_chat_message(message: Message) -> Message:
    """Returns a message of the newer interface in the form of the older one."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [
        {"type": "image_url", "image_url": {"url": part.get("image_url")}}
        if isinstance(part, dict) and part.get("type") == "input_image"
        else part
        for part in content
    ]
    return {**message, "content": parts}


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
