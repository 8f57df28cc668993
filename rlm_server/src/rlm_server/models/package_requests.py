"""Requests as the `openai` package makes them, without having it make each anew.

A call by the package builds a dozen objects and goes through three layers that look at each of them, which costs as
much as all the rest of a sub-call. What differs from call to call is the body alone. So the package makes one request
for each model, which goes nowhere; the others are like it. It also says what is wrong when an endpoint refuses one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
import httpx2
import multidict
import openai
import pydantic_core
import yarl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.models.http_session import HttpSession

_OF_THE_BODY = frozenset({"content-length", "content-encoding", "transfer-encoding"})
_OF_THE_CONNECTION = frozenset({"host", "connection", "accept-encoding"})
"""What the session that sends a request says itself."""


@dataclass(frozen=True)
class _Pattern:
    """What all requests to one path for one model have in common."""

    url: yarl.URL
    headers: multidict.CIMultiDict[str]


class _NoNetwork(httpx2.AsyncBaseTransport):
    """Answers a request with a response that is known."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.request: httpx2.Request | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Keeps the request and returns the response."""
        self.request = request
        return self._response


class PackageRequests:
    """Sends requests like those of a client of the package.

    Args:
        client: the client.
        session: sends them.
    """

    def __init__(self, client: openai.AsyncOpenAI, session: HttpSession) -> None:
        self._client = client
        self._session = session
        self._patterns: dict[tuple[str, str], _Pattern] = {}

    async def send(
        self, path: str, model: str, body: Mapping[str, Any], *, deadline_seconds: float | None = None
    ) -> aiohttp.ClientResponse:
        """Posts a body; returns the response, whose own body is to be read, and which is to be closed.

        Args:
            path: below the base URL.
            model: the one that is asked, which Azure has in the address.
            body: is sent as JSON.
            deadline_seconds: when the response must have been read, by the event loop's clock.

        Raises:
            openai.OpenAIError: the endpoint refuses it, as the package says that.
            TimeoutError: the endpoint, or the whole, takes too long.
            aiohttp.ClientError: the endpoint cannot be reached, or breaks the connection off.
        """
        pattern = self._patterns.get((path, model))
        if pattern is None:
            pattern = self._patterns[path, model] = await self._make_pattern(path, model)
        data = pydantic_core.to_json(body)  # a conversation of some turns takes five times as long with `json`
        response = await self._session.post(pattern.url, pattern.headers, data, deadline_seconds=deadline_seconds)
        if not 200 <= response.status < 300:
            await self._raise_refusal(path, model, response)
        return response

    async def _make_pattern(self, path: str, model: str) -> _Pattern:
        request = await self._ask_package(path, model, httpx2.Response(200, json={}))
        left_out = _OF_THE_BODY | _OF_THE_CONNECTION
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in left_out]
        return _Pattern(yarl.URL(str(request.url), encoded=True), multidict.CIMultiDict(headers))

    async def _raise_refusal(self, path: str, model: str, response: aiohttp.ClientResponse) -> NoReturn:
        content = b""
        with contextlib.closing(response), contextlib.suppress(aiohttp.ClientError):  # the status says enough
            content = await response.read()
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _OF_THE_BODY]
        await self._ask_package(path, model, httpx2.Response(response.status, headers=headers, content=content))
        raise openai.OpenAIError(f"the endpoint answered with status {response.status}")

    async def _ask_package(self, path: str, model: str, response: httpx2.Response) -> httpx2.Request:
        """Has the package make a call to which it gets this response; returns its request, or raises its error."""
        transport = _NoNetwork(response)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as http_client:
            client = self._client.with_options(http_client=http_client)
            await client.post(path, cast_to=object, body={"model": model})
        if transport.request is None:
            raise openai.OpenAIError("the package made no request")
        return transport.request
