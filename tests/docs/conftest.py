"""Fixtures: both servers, as the documents have them run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.serving import both_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of an RLM server with the demo model, and of its sandbox server."""
    with both_servers() as addresses:
        yield addresses


@pytest.fixture
def at_real_addresses(servers: tuple[str, str]) -> Callable[[str], str]:
    """Puts the servers' addresses where a document has the usual ones."""

    def replace(text: str) -> str:
        return text.replace("localhost:50051", servers[0]).replace("localhost:50052", servers[1])

    return replace
