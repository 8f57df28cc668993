"""Fixtures: servers that share a journal, and a model that says what the test tells it to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from rlm_server.executors.child_process import SandboxProcess
from rlm_server.journal.blobs import BlobStore, DirectoryBlobs, ObjectBlobs
from rlm_server.journal.database import sqlite_url

from tests.durability.postgres import PostgresServer, running_postgres
from tests.support.scripted_model import ScriptedModel, ScriptedModels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(params=["directory", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """An empty blob store, of either kind."""
    if request.param == "directory":
        return DirectoryBlobs(tmp_path / "blobs")
    (tmp_path / "bucket").mkdir()
    return ObjectBlobs(f"file://{tmp_path}/bucket", tmp_path / "cache")  # by the same package as S3


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox_address() -> AsyncIterator[str]:
    process = SandboxProcess(start_timeout_seconds=300)
    try:
        await process.start()
        yield process.address
    finally:
        await process.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def models() -> AsyncIterator[ScriptedModels]:
    async with ScriptedModels() as running:
        yield running


@pytest.fixture
def model(models: ScriptedModels) -> ScriptedModel:
    return models.new_model()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty journal: each test that uses it is run with both databases."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "journal.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
