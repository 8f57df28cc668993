"""The prelude that sandboxes run: the source in `repl_prelude.py`, and a line that sets it up for one node."""

from __future__ import annotations

import ast
import importlib.resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCE = (importlib.resources.files("rlm_server.engine") / "repl_prelude.py").read_text(encoding="utf-8")


def _exported_names() -> frozenset[str]:
    for statement in ast.parse(_SOURCE).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    raise ValueError("repl_prelude.py has no __all__")


REPL_NAMES = _exported_names()
"""The names that the REPL provides itself."""


def prelude_source(context_names: Sequence[str]) -> str:
    """Returns the prelude of a node.

    Args:
        context_names: the variables that the parts of its context are.
    """
    return f"{_SOURCE}\n\n_configure({list(context_names)!r})\n"
