"""Requests that are made like those of the `openai` package are the same, and so are the errors."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
import pytest
from aiohttp import test_utils, web
from rlm_server.models.http_session import HttpSession
from rlm_server.models.package_requests import PackageRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY = {"model": "some-model", "stream": True, "messages": [{"role": "user", "content": "héllo"}]}

OF_THE_CONNECTION = {"host", "connection", "accept-encoding"}


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """Answers every request alike, and keeps them."""

    def __init__(self, **response: Any) -> None:
        self.requests: list[Received] = []
        self.url = ""
        self._response = response or {"text": "{}", "content_type": "application/json"}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with test_utils.TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Received(request.method, request.path_qs, headers, await request.read()))
        return web.Response(**self._response)


@contextlib.asynccontextmanager
async def making_requests(kind: str, url: str) -> AsyncIterator[tuple[PackageRequests, openai.AsyncOpenAI]]:
    options: dict[str, Any] = {"api_key": "secret", "default_headers": {"X-Extra": "1"}, "max_retries": 0}
    client: openai.AsyncOpenAI
    if kind == "azure":
        client = openai.AsyncAzureOpenAI(azure_endpoint=url, api_version="2026-01-01", **options)
    else:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", **options)
    session = HttpSession(connect_timeout_seconds=5, silence_timeout_seconds=5)
    async with client, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(session.close)
        yield PackageRequests(client, session), client


@pytest.mark.parametrize("kind", ["openai", "azure"])
async def test_a_request_is_the_one_that_the_package_would_send(kind: str) -> None:
    async with Endpoint().serving() as endpoint, making_requests(kind, endpoint.url) as (requests, client):
        for _ in range(2):
            (await requests.send("/chat/completions", "some-model", BODY)).close()
        await client.post("/chat/completions", cast_to=object, body=BODY)
    first, second, own = endpoint.requests
    for made in (first, second):
        assert (made.method, made.path, made.body) == (own.method, own.path, own.body)
        assert _without(made.headers, OF_THE_CONNECTION) == _without(own.headers, OF_THE_CONNECTION)


def _without(headers: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


async def test_models_of_azure_have_addresses_of_their_own() -> None:
    async with Endpoint().serving() as endpoint, making_requests("azure", endpoint.url) as (requests, _):
        for model in ("one", "two", "one"):
            (await requests.send("/chat/completions", model, {"model": model})).close()
    paths = [request.path.partition("?")[0] for request in endpoint.requests]
    assert paths == [f"/openai/deployments/{model}/chat/completions" for model in ("one", "two", "one")]


async def test_a_refusal_is_the_error_of_the_package() -> None:
    body = '{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    refusing = Endpoint(status=429, text=body, content_type="application/json", headers={"Retry-After": "7"})
    async with refusing.serving() as endpoint, making_requests("openai", endpoint.url) as (requests, _):
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            await requests.send("/chat/completions", "some-model", BODY)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(endpoint.requests) == 1


async def test_a_redirection_that_leads_nowhere_is_an_error() -> None:
    async with Endpoint(status=304).serving() as endpoint, making_requests("openai", endpoint.url) as (requests, _):
        with pytest.raises(openai.OpenAIError):
            await requests.send("/chat/completions", "some-model", BODY)


async def test_a_proxy_of_the_environment_gets_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Endpoint().serving() as proxy:
        for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with making_requests("openai", "http://nowhere.example") as (requests, _):
            (await requests.send("/chat/completions", "some-model", BODY)).close()
    assert proxy.requests[0].headers["host"] == "nowhere.example"


async def test_an_address_that_needs_no_proxy_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with Endpoint().serving() as endpoint, making_requests("openai", endpoint.url) as (requests, _):
        (await requests.send("/chat/completions", "some-model", BODY)).close()
    assert len(endpoint.requests) == 1
