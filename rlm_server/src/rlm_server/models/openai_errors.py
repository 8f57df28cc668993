"""What the errors of the `openai` package, and of endpoints, mean to the engine."""

from __future__ import annotations

import email.utils
import math
import time
from typing import TYPE_CHECKING

import aiohttp
import openai

from rlm_server.engine.ports import ModelError, ModelErrorKind
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_MESSAGE_CHARS = 500

_KIND_BY_CODE = {
    "context_length_exceeded": ModelErrorKind.CONTEXT_TOO_LONG,
    "string_above_max_length": ModelErrorKind.CONTEXT_TOO_LONG,
    "content_filter": ModelErrorKind.CONTENT_FILTER,
    "content_policy_violation": ModelErrorKind.CONTENT_FILTER,
    "insufficient_quota": ModelErrorKind.QUOTA,
    "billing_hard_limit_reached": ModelErrorKind.QUOTA,
    "invalid_api_key": ModelErrorKind.AUTH,
    "rate_limit_exceeded": ModelErrorKind.OVERLOADED,
}

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

_TOO_LONG_PHRASES = ("context length", "context window", "maximum context", "prompt is too long", "too many tokens")

_REMEDIES = {
    ModelErrorKind.AUTH: "check the server's API key",
    ModelErrorKind.QUOTA: "the account behind the API key has no quota left",
    ModelErrorKind.OVERLOADED: "the endpoint is overloaded or limits the rate; try again later",
    ModelErrorKind.CONTEXT_TOO_LONG: "the messages are longer than the model takes",
    ModelErrorKind.CONTENT_FILTER: "the endpoint's content filter refused it",
    ModelErrorKind.BAD_REQUEST: "check the model's name and the sampling options",
    ModelErrorKind.UNREACHABLE: "check the server's base URL and that the endpoint runs",
    ModelErrorKind.TIMEOUT: "the endpoint took too long",
}

_PASSING = frozenset({ModelErrorKind.OVERLOADED, ModelErrorKind.UNREACHABLE, ModelErrorKind.TIMEOUT})
"""Failures that may be over soon."""


class EndpointError(ModelError):
    """A call to an endpoint that failed.

    Args:
        kind: why.
        message: what happened and how to mend it, for people.
        retry_after_seconds: how long the endpoint asks to wait before it is called again.
        may_pass: whether it is worth trying again soon.
    """

    def __init__(
        self,
        kind: ModelErrorKind,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        may_pass: bool | None = None,
    ) -> None:
        super().__init__(kind, message)
        self.retry_after_seconds = retry_after_seconds
        self.may_pass = kind in _PASSING if may_pass is None else may_pass


def model_error(
    kind: ModelErrorKind,
    model: str,
    what: str,
    *,
    retry_after_seconds: float | None = None,
    may_pass: bool | None = None,
) -> EndpointError:
    """Returns an error whose message names the model, what happened and the remedy."""
    message = f"{model}: {preview(clean(what), _MAX_MESSAGE_CHARS)} ({_REMEDIES[kind]})"
    return EndpointError(kind, message, retry_after_seconds=retry_after_seconds, may_pass=may_pass)


def from_sdk(error: openai.OpenAIError, model: str) -> EndpointError:
    """Returns the engine's error for one of the `openai` package."""
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        return model_error(
            _kind(error.status_code, error.code, error.message),
            model,
            error.message,
            retry_after_seconds=retry_after_seconds(headers),
            may_pass={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
        )
    return model_error(ModelErrorKind.BAD_REQUEST, model, str(error))


def from_connection(error: TimeoutError | aiohttp.ClientError, model: str, *, reply_has_begun: bool) -> EndpointError:
    """Returns the engine's error for a connection that cannot be had, breaks, or is too slow."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return model_error(ModelErrorKind.TIMEOUT, model, "there was no connection to the endpoint in time")
    if isinstance(error, aiohttp.ServerTimeoutError):
        when = "in the middle of its reply" if reply_has_begun else "after it was asked"
        return model_error(ModelErrorKind.TIMEOUT, model, f"the endpoint fell silent {when}")
    if isinstance(error, TimeoutError):
        return model_error(ModelErrorKind.TIMEOUT, model, "the reply was not complete in time")
    what = f"the endpoint broke its reply off: {error}" if reply_has_begun else str(error)
    return model_error(ModelErrorKind.UNREACHABLE, model, what)


def from_stream(body: object, model: str) -> EndpointError:
    """Returns the engine's error for the `error` object that an endpoint sent in the middle of a stream."""
    code, message = None, str(body)
    if isinstance(body, dict):
        code, message = body.get("code") or body.get("type"), str(body.get("message") or body)
    status = code if isinstance(code, int) else 500
    return model_error(_kind(status, str(code), message), model, message)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns how long the headers of a response ask to wait, or None if they do not."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _kind(status: int, code: str | None, message: str) -> ModelErrorKind:
    if code in _KIND_BY_CODE:
        return _KIND_BY_CODE[code]
    if status in _KIND_BY_STATUS:
        return _KIND_BY_STATUS[status]
    if status >= 500:
        return ModelErrorKind.OVERLOADED
    if any(phrase in message.lower() for phrase in _TOO_LONG_PHRASES):
        return ModelErrorKind.CONTEXT_TOO_LONG
    return ModelErrorKind.BAD_REQUEST
