"""Whose the environment variables are that begin with `RLM_`, which both servers may find in one environment."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SANDBOX_PREFIX = "RLM_SANDBOX_"
"""What the names of the sandbox server's variables begin with; some of the RLM server's do, too."""

SANDBOX_VARIABLES = frozenset(
    SANDBOX_PREFIX + name
    for name in (
        "BLOB_CACHE_MIB",
        "CACHE",
        "DEFAULT_LIMITS",
        "GRACE",
        "LISTEN",
        "LOG_LEVEL",
        "MAX_CLIENT_BLOB_MIB",
        "MAX_CLIENT_MEMORY_MIB",
        "MAX_CLIENT_SESSIONS",
        "MAX_LIMITS",
        "MAX_MEMORY_MIB",
        "MAX_SESSIONS",
        "MEMORY_RESERVE_MIB",
        "WORKERS",
    )
)
"""The sandbox server's variables."""

RLM_SERVER_VARIABLES = frozenset(
    SANDBOX_PREFIX + name for name in ("IMAGE", "PATIENCE_SECONDS", "START_TIMEOUT_SECONDS")
)
"""The variables of the RLM server that begin as the sandbox server's do."""

_SERVICE_LINK = re.compile(r"RLM_\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def is_service_link(name: str) -> bool:
    """Tells whether a variable is one that Kubernetes sets for services whose names begin with `rlm-`."""
    return _SERVICE_LINK.fullmatch(name) is not None


def unknown_sandbox_variables(names: Iterable[str]) -> list[str]:
    """Returns what is wrong with the variables among these that begin as the sandbox server's do and are nobody's."""
    known = sorted(SANDBOX_VARIABLES | RLM_SERVER_VARIABLES)
    problems = []
    for name in sorted(names):
        if not name.startswith(SANDBOX_PREFIX) or name in known or is_service_link(name):
            continue
        near = difflib.get_close_matches(name, known, 1)
        problems.append(f"there is no variable {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return problems
