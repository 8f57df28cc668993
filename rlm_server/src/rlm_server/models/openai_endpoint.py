"""One endpoint with OpenAI's interface, or Azure's, through the `openai` package: one call, once."""

from __future__ import annotations

import asyncio
import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import openai

from rlm_server.engine.ports.models import ModelErrorKind, ReplyEnd, TextPart
from rlm_server.models import chat_completions, responses
from rlm_server.models.dialect import Dialect
from rlm_server.models.http_session import HttpSession, tls_context
from rlm_server.models.interface import ReplyReader
from rlm_server.models.openai_errors import from_connection, from_sdk, model_error
from rlm_server.models.package_requests import PackageRequests
from rlm_server.models.refusals import words_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from rlm_server.engine.ports.models import ModelRequest

# Of prompts over a megabyte. They are in memory anyhow, and asyncio sends what the connection takes.
warnings.filterwarnings("ignore", message="Sending a large body directly", category=ResourceWarning)

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_SECONDS = 10.0
_NO_KEY = "none"
_MAX_ADAPTATIONS = 3
"""How often one call is made anew as its endpoint has said what it takes."""
_REFUSED_KEY = (401, 402, 403)
"""Statuses that another key may change."""


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is reached.

    Args:
        base_url: as `http://127.0.0.1:8000/v1`; None means OpenAI's. For Azure the resource's.
        api_key: None means that it needs none.
        read_key: reads a key that may have changed, as it is in a file; returns None if it cannot be read. A thread
            calls it when the key is refused.
        azure_api_version: makes it one of Azure.
        silence_timeout_seconds: how long it may be silent.
        use_responses: whether the newer interface is used.
        stream: whether replies are streamed.
        extra_body: fields that are added to each body.
        extra_headers: headers that are added to each call.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    read_key: Callable[[], str | None] | None = None
    azure_api_version: str | None = None
    silence_timeout_seconds: float = 300.0
    use_responses: bool = False
    stream: bool = True
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class OpenAIEndpoint:
    """An endpoint.

    The `openai` package says what a request looks like, and tells errors apart. The stream that comes back is decoded
    here: the package builds some ten objects for each token, which costs more than all the rest of a turn.

    Args:
        options: how it is reached.
    """

    def __init__(self, options: EndpointOptions) -> None:
        self._options = options
        self._key = options.api_key or _NO_KEY
        self._session = HttpSession(
            connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS, silence_timeout_seconds=options.silence_timeout_seconds
        )
        self._client = self._make_client()
        self._requests = PackageRequests(self._client, self._session)
        self._interface = responses if options.use_responses else chat_completions
        self._expected = Dialect.expected_of(None if options.azure_api_version else options.base_url)
        self._dialects: dict[str, Dialect] = {}
        """What was learned of models."""

    def _make_client(self) -> openai.AsyncOpenAI:
        options, headers = self._options, dict(self._options.extra_headers)
        timeout = openai.Timeout(options.silence_timeout_seconds, connect=_CONNECT_TIMEOUT_SECONDS)
        http_client = openai.DefaultAsyncHttpxClient(verify=tls_context())
        if options.azure_api_version:
            return openai.AsyncAzureOpenAI(
                azure_endpoint=options.base_url or "",
                api_version=options.azure_api_version,
                api_key=self._key,
                timeout=timeout,
                max_retries=0,
                default_headers=headers,
                http_client=http_client,
            )
        return openai.AsyncOpenAI(
            base_url=options.base_url,
            api_key=self._key,
            timeout=timeout,
            max_retries=0,
            default_headers=headers,
            http_client=http_client,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()
        await self._client.close()

    async def model_names(self) -> list[str]:
        """Returns the models that the endpoint lists.

        Raises:
            openai.OpenAIError: it cannot be reached, refuses the key, or lists none.
        """
        return [model.id async for model in self._client.models.list()]

    async def stream(
        self, request: ModelRequest, name: str, *, deadline_seconds: float | None = None
    ) -> AsyncGenerator[TextPart | ReplyEnd, None]:
        """Yields a reply as it comes in, a `ReplyEnd` last. Cancelling it closes the HTTP stream at once.

        Args:
            request: the call; its `model` is what the endpoint calls it.
            name: what to call the model in errors.
            deadline_seconds: when the reply must be complete, by the event loop's clock.

        Raises:
            EndpointError: the call failed.
        """
        chunks = self._interface.Reader(name)
        reader = ReplyReader(name, chunks)
        response = None
        try:
            response = await self._send(request, deadline_seconds)
            if self._is_streamed(response, name):
                while data := await response.content.readany():
                    for part in reader.feed(data):
                        yield part
                    reader.check()
                parts = reader.finish()
            else:
                parts = reader.whole(await response.read())
            for part in parts:
                yield part
        except openai.OpenAIError as error:
            raise from_sdk(error, name) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise from_connection(error, name, reply_has_begun=response is not None) from error
        finally:
            if response is not None:
                response.close()  # which breaks off what has not come yet, and keeps the connection if all has
        if chunks.stop_reason.startswith("content_filter") and not reader.has_text:
            raise model_error(ModelErrorKind.CONTENT_FILTER, name, "the reply was withheld")
        yield ReplyEnd(chunks.stop_reason, chunks.tokens)

    async def _send(self, request: ModelRequest, deadline_seconds: float | None) -> aiohttp.ClientResponse:
        """Sends a request; once more where the endpoint says that it takes other fields, or the key has changed."""
        for adaptations_left in range(_MAX_ADAPTATIONS, -1, -1):
            body = self._interface.body(request.model, request.sampling, stream=self._options.stream)
            if self._interface is chat_completions:
                body = self._dialects.get(request.model, self._expected).put(body)
            body |= self._interface.messages_field(request.messages) | dict(self._options.extra_body)
            key = self._key
            try:
                return await self._requests.send(
                    self._interface.PATH, request.model, body, deadline_seconds=deadline_seconds
                )
            except openai.APIStatusError as error:
                can_do_better = self._learn(request.model, error) or await self._has_new_key(key, error.status_code)
                if not can_do_better or not adaptations_left:
                    raise
        raise AssertionError("the loop above returns or raises")

    def _learn(self, model: str, error: openai.APIStatusError) -> bool:
        """Takes note of what an endpoint says that it does not take; tells whether there was something new."""
        if error.status_code not in (400, 422):
            return False
        learned = self._dialects.get(model, self._expected).learn(words_of(error.body))
        if learned is None:
            return False
        _log.info("the endpoint of %s takes other fields: %s", model, learned)
        self._dialects[model] = learned
        return True

    async def _has_new_key(self, used: str, status: int) -> bool:
        """Tells whether there is another key than the one of a call that was refused."""
        if self._options.read_key is None or status not in _REFUSED_KEY:
            return False
        if self._key == used:
            found = await asyncio.to_thread(self._options.read_key)
            if self._key == used and found is not None and found != used:
                self._key = found
                before, self._client = self._client, self._make_client()
                self._requests = PackageRequests(self._client, self._session)
                await before.close()
        return self._key != used

    def _is_streamed(self, response: aiohttp.ClientResponse, name: str) -> bool:
        """Tells whether a reply comes as a stream of events, and not, as some endpoints send it all the same, whole.

        Raises:
            EndpointError: it is no reply at all.
        """
        content_type = response.headers.get("content-type", "")
        if not self._options.stream or content_type.startswith("application/json"):
            return False
        if not content_type.startswith("text/event-stream"):
            raise model_error(
                ModelErrorKind.BAD_REQUEST,
                name,
                f"the endpoint answered with {content_type or 'no content type'} and not with a stream of events: its "
                "base URL usually ends in /v1; if it cannot stream, set stream = false in the model's profile",
            )
        return True
