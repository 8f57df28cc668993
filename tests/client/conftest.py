"""Fixtures: a fake server, and both clients seen through one face."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import rlm_client

from tests.support.fake_completion_service import FakeCompletionService, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Self


@pytest.fixture
def service() -> FakeCompletionService:
    return FakeCompletionService()


@pytest.fixture
def target(service: FakeCompletionService) -> Iterator[str]:
    with serving(service) as address:
        yield address


class SyncFace:
    """The synchronous client with the asyncio client's face: its calls run on threads."""

    def __init__(self, client: rlm_client.Client) -> None:
        self._client = client

    async def completion(self, *arguments: Any, **options: Any) -> rlm_client.Completion:
        return await asyncio.to_thread(self._client.completion, *arguments, **options)

    async def models(self) -> rlm_client.Models:
        return await asyncio.to_thread(self._client.models)

    async def prompts(self) -> rlm_client.PromptSets:
        return await asyncio.to_thread(self._client.prompts)

    async def stream(self, *arguments: Any, **options: Any) -> SyncStreamFace:
        return SyncStreamFace(await asyncio.to_thread(self._client.stream, *arguments, **options))


class SyncStreamFace:
    """A synchronous stream with the asyncio stream's face."""

    def __init__(self, stream: rlm_client.EventStream) -> None:
        self._stream = stream
        self.cancel = stream.cancel
        self.skipped_files = stream.skipped_files

    def __aiter__(self) -> AsyncIterator[rlm_client.Event]:
        return self

    async def __anext__(self) -> rlm_client.Event:
        event = await asyncio.to_thread(next, self._stream, None)
        if event is None:
            raise StopAsyncIteration
        return event

    async def result(self) -> rlm_client.Completion:
        return await asyncio.to_thread(self._stream.result)

    async def __aenter__(self) -> Self:
        self._stream.__enter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        self._stream.__exit__(*details)


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> Any:
    """A function that connects either client to an address."""

    @contextlib.asynccontextmanager
    async def connect_to(address: str) -> AsyncIterator[Any]:
        if request.param == "sync":
            with rlm_client.Client(address) as client:
                yield SyncFace(client)
        else:
            async with rlm_client.AsyncClient(address) as client:
                yield client

    return connect_to


@pytest.fixture
async def client(connect: Any, target: str) -> Any:
    """Either client, connected to the fake server."""
    async with connect(target) as connected:
        yield connected
