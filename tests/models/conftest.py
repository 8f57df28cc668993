"""Fixtures: scripted endpoints, and servers whose profiles name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.scripted_model import ScriptedModel, ScriptedModels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def models() -> AsyncIterator[ScriptedModels]:
    async with ScriptedModels() as running:
        yield running


@pytest.fixture
def model(models: ScriptedModels) -> ScriptedModel:
    return models.new_model()


@pytest.fixture
def other(models: ScriptedModels) -> ScriptedModel:
    return models.new_model()
