"""What the errors of the `openai` package, and of endpoints, mean to the engine."""

from __future__ import annotations

import email.utils
import math
import time
from typing import TYPE_CHECKING

import aiohttp
import openai

from rlm_server.engine.ports.models import ModelError, ModelErrorKind
from rlm_server.engine.text import clean, preview
from rlm_server.models.refusals import RefusedReply, kind_of, refused_reply, status_in, wait_seconds, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_MESSAGE_CHARS = 500

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
        refused_reply: what there is room for, if the call was refused as it allowed a longer reply.
    """

    def __init__(
        self,
        kind: ModelErrorKind,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        may_pass: bool | None = None,
        refused_reply: RefusedReply | None = None,
    ) -> None:
        super().__init__(kind, message)
        self.retry_after_seconds = retry_after_seconds
        self.may_pass = kind in _PASSING if may_pass is None else may_pass
        self.refused_reply = refused_reply
        self.reply_had_begun = False
        """Whether some of a reply had come before."""


_NOT_FOUND_REMEDY = "check the base URL, which usually ends in /v1, and the model's name"


def model_error(
    kind: ModelErrorKind,
    model: str,
    what: str,
    *,
    retry_after_seconds: float | None = None,
    may_pass: bool | None = None,
    refused_reply: RefusedReply | None = None,
    remedy: str = "",
) -> EndpointError:
    """Returns an error whose message names the model, what happened and the remedy."""
    message = f"{model}: {preview(clean(what), _MAX_MESSAGE_CHARS)} ({remedy or _REMEDIES[kind]})"
    return EndpointError(
        kind, message, retry_after_seconds=retry_after_seconds, may_pass=may_pass, refused_reply=refused_reply
    )


def from_sdk(error: openai.OpenAIError, model: str) -> EndpointError:
    """Returns the engine's error for one of the `openai` package."""
    if isinstance(error, openai.APIStatusError):
        headers, words = error.response.headers, words_of(error.body)
        asked_seconds = retry_after_seconds(headers)
        if 300 <= error.status_code < 400:
            words = f"it has moved to {headers.get('location', 'another address')}; set its base URL accordingly"
        return model_error(
            kind_of(error.status_code, error.body),
            model,
            f"the endpoint answered with {error.status_code}" + (f": {words}" if words else ""),
            retry_after_seconds=wait_seconds(error.body) if asked_seconds is None else asked_seconds,
            may_pass={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
            refused_reply=refused_reply(words),
            remedy=_NOT_FOUND_REMEDY if error.status_code in (301, 302, 303, 307, 308, 404, 405) else "",
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
    """Returns the engine's error for the `error` that an endpoint sent after a good status, as in a stream."""
    words = words_of(body)
    return model_error(kind_of(status_in(body), body), model, words, refused_reply=refused_reply(words))


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
