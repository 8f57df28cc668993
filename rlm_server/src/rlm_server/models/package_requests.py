"""Requests as the `openai` package makes them, without having it make each anew.

A call by the package builds a dozen objects and goes through three layers that look at each of them, which costs as
much as all the rest of a sub-call. What differs from call to call is the body alone. So the package makes one request
for each model, which goes nowhere; the others are like it. It also says what is wrong when an endpoint refuses one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import httpx2
import openai

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OF_THE_BODY = frozenset({"content-length", "content-encoding", "transfer-encoding"})


@dataclass(frozen=True)
class _Pattern:
    """What all requests to one path for one model have in common."""

    url: httpx2.URL
    headers: Sequence[tuple[str, str]]
    extensions: Mapping[str, Any]

    def request(self, body: bytes) -> httpx2.Request:
        """Returns one of them."""
        request = httpx2.Request("POST", self.url, headers=self.headers, content=body, extensions=dict(self.extensions))
        request.headers.encoding = "ascii"  # which it is; it would be found out anew for each header that is read
        return request


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
        http_client: sends them; the client's own.
    """

    def __init__(self, client: openai.AsyncOpenAI, http_client: httpx2.AsyncClient) -> None:
        self._client = client
        self._http_client = http_client
        self._patterns: dict[tuple[str, str], _Pattern] = {}

    async def send(self, path: str, model: str, body: Mapping[str, Any]) -> httpx2.Response:
        """Posts a body; returns the response, whose own body is to be read and closed.

        Args:
            path: below the base URL.
            model: the one that is asked, which Azure has in the address.
            body: is sent as JSON.

        Raises:
            openai.OpenAIError: the endpoint cannot be reached or refuses it, as the package says that.
        """
        pattern = self._patterns.get((path, model))
        if pattern is None:
            pattern = self._patterns[path, model] = await self._make_pattern(path, model)
        request = pattern.request(json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
        try:
            response = await self._http_client.send(request, stream=True)
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(request=request) from error
        except httpx2.HTTPError as error:
            raise openai.APIConnectionError(request=request) from error
        if not response.is_success:
            await self._raise_refusal(path, model, response)
        return response

    async def _make_pattern(self, path: str, model: str) -> _Pattern:
        request = await self._ask_package(path, model, httpx2.Response(200, json={}))
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in _OF_THE_BODY]
        return _Pattern(request.url, headers, request.extensions)

    async def _raise_refusal(self, path: str, model: str, response: httpx2.Response) -> NoReturn:
        try:
            content = await response.aread()
        except httpx2.HTTPError:
            content = b""  # the status says enough
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY]
        await self._ask_package(path, model, httpx2.Response(response.status_code, headers=headers, content=content))
        raise openai.OpenAIError(f"the endpoint answered with status {response.status_code}")

    async def _ask_package(self, path: str, model: str, response: httpx2.Response) -> httpx2.Request:
        """Has the package make a call to which it gets this response; returns its request, or raises its error."""
        transport = _NoNetwork(response)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as http_client:
            client = self._client.with_options(http_client=http_client)
            await client.post(path, cast_to=object, body={"model": model})
        if transport.request is None:
            raise openai.OpenAIError("the package made no request")
        return transport.request
