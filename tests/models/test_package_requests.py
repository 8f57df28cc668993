"""Requests that are made like those of the `openai` package are the same, and so are the errors."""

from __future__ import annotations

import httpx2
import openai
import pytest
from rlm_server.models.package_requests import PackageRequests

BODY = {"model": "some-model", "stream": True, "messages": [{"role": "user", "content": "héllo"}]}


class Endpoint(httpx2.AsyncBaseTransport):
    def __init__(self, response: httpx2.Response | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._response = response or httpx2.Response(200, json={})

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.requests.append(request)
        return self._response


def make_client(kind: str, http_client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    headers = {"X-Extra": "1"}
    if kind == "azure":
        return openai.AsyncAzureOpenAI(
            azure_endpoint="https://resource.example",
            api_version="2026-01-01",
            api_key="secret",
            http_client=http_client,
            default_headers=headers,
            max_retries=0,
        )
    return openai.AsyncOpenAI(
        base_url="https://host.example/v1",
        api_key="secret",
        http_client=http_client,
        default_headers=headers,
        max_retries=0,
    )


@pytest.mark.parametrize("kind", ["openai", "azure"])
async def test_a_request_is_the_one_that_the_package_would_send(kind: str) -> None:
    endpoint = Endpoint()
    async with httpx2.AsyncClient(transport=endpoint) as http_client:
        client = make_client(kind, http_client)
        requests = PackageRequests(client, http_client)
        for _ in range(2):
            await (await requests.send("/chat/completions", "some-model", BODY)).aclose()
        await client.post("/chat/completions", cast_to=object, body=BODY)
    first, second, own = endpoint.requests
    for made in (first, second):
        assert (made.method, made.url, made.content) == (own.method, own.url, own.content)
        assert dict(made.headers) == dict(own.headers)
        assert made.extensions == own.extensions


async def test_models_of_azure_have_addresses_of_their_own() -> None:
    endpoint = Endpoint()
    async with httpx2.AsyncClient(transport=endpoint) as http_client:
        requests = PackageRequests(make_client("azure", http_client), http_client)
        for model in ("one", "two", "one"):
            await (await requests.send("/chat/completions", model, {"model": model})).aclose()
    paths = [request.url.path for request in endpoint.requests]
    assert paths == [f"/openai/deployments/{model}/chat/completions" for model in ("one", "two", "one")]


async def test_a_refusal_is_the_error_of_the_package() -> None:
    body = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    endpoint = Endpoint(httpx2.Response(429, json=body, headers={"Retry-After": "7"}))
    async with httpx2.AsyncClient(transport=endpoint) as http_client:
        requests = PackageRequests(make_client("openai", http_client), http_client)
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            await requests.send("/chat/completions", "some-model", BODY)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(endpoint.requests) == 1


async def test_a_redirection_that_leads_nowhere_is_an_error() -> None:
    endpoint = Endpoint(httpx2.Response(304))
    async with httpx2.AsyncClient(transport=endpoint) as http_client:
        requests = PackageRequests(make_client("openai", http_client), http_client)
        with pytest.raises(openai.OpenAIError):
            await requests.send("/chat/completions", "some-model", BODY)
