"""Fixtures: a server whose models say what the test tells them to."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from rlm_server.executors.child_process import SandboxProcess

from tests.support.fake_sandbox import FakeSandbox, serving
from tests.support.rlm_stack import Stack, running_stack
from tests.support.scripted_model import ScriptedModel, ScriptedModels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox_address() -> AsyncIterator[str]:
    process = SandboxProcess(start_timeout_seconds=300)
    try:
        await process.start()
        yield process.address
    finally:
        await process.stop()


@pytest.fixture(params=["local", "sandbox"])
def executor(request: pytest.FixtureRequest) -> str:
    """What runs the code: each test that uses it is run with every executor."""
    return "local" if request.param == "local" else str(request.getfixturevalue("sandbox_address"))


@pytest.fixture
async def sandbox() -> AsyncIterator[FakeSandbox]:
    """A sandbox server that does what the test wants."""
    fake = FakeSandbox()
    async with serving(fake) as address:
        fake.address = address
        yield fake


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def models() -> AsyncIterator[ScriptedModels]:
    async with ScriptedModels() as running:
        yield running


@pytest.fixture
def model(models: ScriptedModels) -> ScriptedModel:
    return models.new_model()


@pytest.fixture
def serve(executor: str, model: ScriptedModel) -> Callable[..., AbstractAsyncContextManager[Stack]]:
    """Runs a server with settings of the test's own."""
    return functools.partial(running_stack, model, sandbox=executor)


@pytest.fixture
async def stack(serve: Callable[..., AbstractAsyncContextManager[Any]]) -> AsyncIterator[Stack]:
    async with serve() as running:
        yield running


@pytest.fixture
async def local_stack(model: ScriptedModel) -> AsyncIterator[Stack]:
    """A server for tests in which no code runs, or in which it does not matter what runs it."""
    async with running_stack(model) as running:
        yield running
