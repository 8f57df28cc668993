"""What endpoints mean by their refusals: each says it in its own way, by status, code, type or words alone.

The words are those of OpenAI, Azure, Anthropic, Google, Mistral, DeepSeek, Groq, OpenRouter, Together, LiteLLM, vLLM,
SGLang, llama.cpp, Ollama and text-generation-inference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlm_server.engine.ports.models import ModelErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIND_BY_NAME = {
    "context_length_exceeded": ModelErrorKind.CONTEXT_TOO_LONG,
    "exceed_context_size_error": ModelErrorKind.CONTEXT_TOO_LONG,
    "string_above_max_length": ModelErrorKind.CONTEXT_TOO_LONG,
    "request_too_large": ModelErrorKind.CONTEXT_TOO_LONG,
    "content_filter": ModelErrorKind.CONTENT_FILTER,
    "content_policy_violation": ModelErrorKind.CONTENT_FILTER,
    "data_inspection_failed": ModelErrorKind.CONTENT_FILTER,
    "responsibleaipolicyviolation": ModelErrorKind.CONTENT_FILTER,
    "insufficient_quota": ModelErrorKind.QUOTA,
    "billing_hard_limit_reached": ModelErrorKind.QUOTA,
    "billing_error": ModelErrorKind.QUOTA,
    "budget_exceeded": ModelErrorKind.QUOTA,
    "exceeded_current_quota_error": ModelErrorKind.QUOTA,
    "invalid_api_key": ModelErrorKind.AUTH,
    "api_key_invalid": ModelErrorKind.AUTH,
    "authentication_error": ModelErrorKind.AUTH,
    "permission_error": ModelErrorKind.AUTH,
}
"""By code or type of the error."""

_PASSING_NAMES = {"rate_limit_exceeded", "rate_limit_error", "overloaded_error", "server_error", "resource_exhausted"}
"""Codes and types of what may be over soon, unless the words say more."""

_KIND_BY_STATUS = {
    401: ModelErrorKind.AUTH,
    402: ModelErrorKind.QUOTA,
    403: ModelErrorKind.AUTH,
    408: ModelErrorKind.TIMEOUT,
    409: ModelErrorKind.OVERLOADED,
    413: ModelErrorKind.CONTEXT_TOO_LONG,
    429: ModelErrorKind.OVERLOADED,
    504: ModelErrorKind.TIMEOUT,
}

_TOO_LONG = re.compile(
    r"context (?:length|window|size)|contextwindowexceeded|maximum context|maximum prompt length"
    r"|(?:prompt|input) is too long|too many tokens|reduce the length|model token limit|longer than the model's"
    r"|(?:token count|input tokens?) .{0,60}exceeds? the (?:maximum|limit)|range of input length"
    r"|`inputs` (?:tokens \+|must have less)|max_tokens must be at least 1, got -"
    # Not a rate that was reached, but one that this call alone would exceed: waiting does not help, being shorter does.
    r"|request too large|tokens must be reduced",
    re.IGNORECASE | re.DOTALL,
)
_FILTERED = re.compile(
    r"content management policy|contentpolicyviolation|responsibleaipolicy|content exists risk|flagged|moderation",
    re.IGNORECASE,
)
_NO_QUOTA = re.compile(
    r"credit balance|budget has been exceeded|over budget|insufficient (?:balance|credits)", re.IGNORECASE
)
_BAD_KEY = re.compile(r"api key not valid|invalid api key|incorrect api key", re.IGNORECASE)

_GREATEST_REPLY = re.compile(
    r"supports at most ([\d,]+) (?:completion|output) tokens"
    r"|> ([\d,]+), which is the maximum allowed number of output tokens"
    r"|max_(?:completion_|output_)?tokens`? must be (?:less than or equal to|<=) `?([\d,]+)"
    r"|valid range of max_tokens is \[1, ?([\d,]+)\]",
    re.IGNORECASE,
)
"""How long a reply of the model may be at most."""

_WINDOW_AND_SENT = re.compile(
    r"maximum context length (?:is|of) ([\d,]+) tokens.{0,40}?your request has ([\d,]+) input tokens"
    r"|maximum context length (?:is|of) ([\d,]+) tokens.{0,120}?"
    r"\(([\d,]+) (?:in the messages|of text input|in your prompt)"
    r"|`max_new_tokens` must be <= ([\d,]+)\. Given: ([\d,]+) `inputs` tokens",
    re.IGNORECASE | re.DOTALL,
)
"""The window, and what of it the messages take: the reply that was asked for does not fit into the rest."""

_LEAST_REPLY_TOKENS = 16

_WAIT = re.compile(r"(?:try again|retry) in (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(m?s)\b)?", re.IGNORECASE)
"""How long to wait, as OpenAI, Google and Groq say it in words: `1m30s`, `7.66s`, `20ms`."""


def kind_of(status: int, body: object) -> ModelErrorKind:
    """Returns why an endpoint refused a call.

    Args:
        status: the HTTP status.
        body: the body of the response, or its `error`, as JSON, or as text if it was none.
    """
    message = str(body)
    names = {name.lower() for name in _names(body)}
    for name in names:
        if name in _KIND_BY_NAME:
            return _KIND_BY_NAME[name]
    if status == 402:
        return ModelErrorKind.QUOTA
    if status in (400, 403, 422) and _FILTERED.search(message):
        return ModelErrorKind.CONTENT_FILTER
    if status not in (401, 403) and _TOO_LONG.search(message):
        return ModelErrorKind.CONTEXT_TOO_LONG
    if _NO_QUOTA.search(message):
        return ModelErrorKind.QUOTA
    if status == 400 and _BAD_KEY.search(message):
        return ModelErrorKind.AUTH
    if names & _PASSING_NAMES:
        return ModelErrorKind.OVERLOADED
    if status in _KIND_BY_STATUS:
        return _KIND_BY_STATUS[status]
    return ModelErrorKind.OVERLOADED if status >= 500 else ModelErrorKind.BAD_REQUEST


@dataclass(frozen=True)
class RefusedReply:
    """Says that a call was refused as it allows a longer reply than there can be.

    Args:
        room_tokens: how many tokens the reply may have.
        is_of_model: whether that is the model's greatest, and not what the messages leave of its window.
    """

    room_tokens: int
    is_of_model: bool


def refused_reply(message: str) -> RefusedReply | None:
    """Returns what there is room for, if that is why an endpoint refuses a call.

    Args:
        message: what it says.
    """
    found = _GREATEST_REPLY.search(message)
    if found is not None:
        return RefusedReply(_number(next(filter(None, found.groups()))), is_of_model=True)
    found = _WINDOW_AND_SENT.search(message)
    if found is None:
        return None
    window, sent = (_number(one) for one in found.groups() if one is not None)
    return RefusedReply(window - sent, is_of_model=False) if window - sent >= _LEAST_REPLY_TOKENS else None


def wait_seconds(body: object) -> float | None:
    """Returns how long the body of a refusal asks to wait, or None if it does not.

    Google has a `google.rpc.RetryInfo` there, others say it in words.
    """
    for detail in _details(body):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"\d+(?:\.\d+)?s", delay):
            return float(delay[:-1])
    found = _WAIT.search(words_of(body))
    if found is None or not any(found.groups()):
        return None
    hours, minutes, number, unit = found.groups()
    seconds = float(number or 0) / (1000 if unit and unit.lower() == "ms" else 1)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds


def words_of(body: object) -> str:
    """Returns what an endpoint says to a refusal, for people."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return str(body or "")
    error = body.get("error", body)
    if not isinstance(error, dict):
        return str(error)
    message, metadata = error.get("message"), error.get("metadata")
    # Routers of models tell beside their own words what the model's provider said.
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    words = message if isinstance(message, str) and message else str(error)
    return f"{words}: {raw}" if raw else words


def status_in(body: object) -> int:
    """Returns the status that an error names which came with a good one; 500 if it names none."""
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _names(body: object) -> Iterator[str]:
    """Yields the codes, types and so on in an error, also where it is wrapped once more."""
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return
    for key in ("code", "type", "status", "reason"):
        if isinstance(body.get(key), str):
            yield body[key]
    for key in ("error", "innererror"):
        yield from _names(body.get(key))
    details = body.get("details")
    for detail in details if isinstance(details, list) else ():
        yield from _names(detail)


def _details(body: object) -> list[dict[str, Any]]:
    """Returns the details of an error of Google's."""
    if isinstance(body, list):
        body = body[0] if body else None
    error = body.get("error", body) if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def _number(text: str) -> int:
    return int(text.replace(",", ""))
