"""One endpoint with OpenAI's interface, or Azure's, through the `openai` package: one call, once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import openai

from rlm_server.engine.ports import ModelErrorKind, ReplyEnd, TextPart
from rlm_server.models import chat_completions, responses
from rlm_server.models.http_session import HttpSession
from rlm_server.models.interface import ReplyReader
from rlm_server.models.openai_errors import from_connection, from_sdk, model_error
from rlm_server.models.package_requests import PackageRequests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from rlm_server.engine.ports import ModelRequest

# Of prompts over a megabyte. They are in memory anyhow, and asyncio sends what the connection takes.
warnings.filterwarnings("ignore", message="Sending a large body directly", category=ResourceWarning)

_CONNECT_TIMEOUT_SECONDS = 10.0
_NO_KEY = "none"


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is reached.

    Args:
        base_url: as `http://127.0.0.1:8000/v1`; None means OpenAI's. For Azure the resource's.
        api_key: None means that it needs none.
        azure_api_version: makes it one of Azure.
        silence_timeout_seconds: how long it may be silent.
        use_responses: whether the newer interface is used.
        stream: whether replies are streamed.
        extra_body: fields that are added to each body.
        extra_headers: headers that are added to each call.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
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
        key = options.api_key or _NO_KEY
        headers = dict(options.extra_headers)
        timeout = openai.Timeout(options.silence_timeout_seconds, connect=_CONNECT_TIMEOUT_SECONDS)
        if options.azure_api_version:
            self._client: openai.AsyncOpenAI = openai.AsyncAzureOpenAI(
                azure_endpoint=options.base_url or "",
                api_version=options.azure_api_version,
                api_key=key,
                timeout=timeout,
                max_retries=0,
                default_headers=headers,
            )
        else:
            self._client = openai.AsyncOpenAI(
                base_url=options.base_url,
                api_key=key,
                timeout=timeout,
                max_retries=0,
                default_headers=headers,
            )
        self._session = HttpSession(
            connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS, silence_timeout_seconds=options.silence_timeout_seconds
        )
        self._requests = PackageRequests(self._client, self._session)
        self._interface = responses if options.use_responses else chat_completions

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
            if self._options.stream:
                self._check_stream(response.headers.get("content-type", ""), name)
                while data := await response.content.readany():
                    for part in reader.feed(data):
                        yield part
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
        if chunks.stop_reason == "content_filter" and not reader.has_text:
            raise model_error(ModelErrorKind.CONTENT_FILTER, name, "the reply was withheld")
        yield ReplyEnd(chunks.stop_reason, chunks.tokens)

    async def _send(self, request: ModelRequest, deadline_seconds: float | None) -> aiohttp.ClientResponse:
        body = self._interface.body(request.model, request.sampling, stream=self._options.stream)
        body |= self._interface.messages_field(request.messages) | dict(self._options.extra_body)
        return await self._requests.send(self._interface.PATH, request.model, body, deadline_seconds=deadline_seconds)

    def _check_stream(self, content_type: str, name: str) -> None:
        if not content_type.startswith("text/event-stream"):
            raise model_error(
                ModelErrorKind.BAD_REQUEST,
                name,
                f"the endpoint answered with {content_type or 'no content type'} and not with a stream of events: its "
                "base URL usually ends in /v1; if it cannot stream, set stream = false in the model's profile",
            )
