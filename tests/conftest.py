"""The order of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent

_LONGEST_FIRST = (
    "durability/test_crashes.py",
    "sandbox_server/test_packages.py",
    "durability/test_cluster.py",
    "cli/test_complete_with_server.py",
    "bench/test_bench.py",
    "sandbox_server/test_leaks.py",
    "sandbox_server/test_image.py",
    "cli/test_chat.py",
    "cli/test_complete_alone.py",
    "sandbox_server/test_cli.py",
)
"""The files that take over twenty seconds each, most of it waiting in some, computing in others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first: of several processes none is left with one when the others have finished.

    Each process runs whole files (`--dist loadfile`), as tests of a file share servers.
    """
    for name in _LONGEST_FIRST:
        if not (_TESTS / name).exists():
            raise pytest.UsageError(f"tests/conftest.py names {name}, which is not there")
    places = {_TESTS / name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
