"""The prelude that sandboxes run: the source in `repl_prelude.py`, and a line that sets it up for one node."""

from __future__ import annotations

import ast
import importlib.resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.tools import Tool

_SOURCE = (importlib.resources.files("rlm_server.engine") / "repl_prelude.py").read_text(encoding="utf-8")


def _exported_names() -> frozenset[str]:
    for statement in ast.parse(_SOURCE).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    raise ValueError("repl_prelude.py has no __all__")


REPL_NAMES = _exported_names()
"""The names that the REPL provides itself."""


def prelude_source(
    context_names: Sequence[str],
    tools: Sequence[Tool],
    depth: int,
    *,
    typed: bool = False,
    in_order: bool = False,
) -> str:
    """Returns the prelude of a node.

    Args:
        context_names: the variables that the parts of its context are.
        tools: those of the request, in its order.
        depth: the node's, which tells what tools it has.
        typed: its answer must match a schema.
        in_order: code waits for each sub-call.
    """
    sources = list(dict.fromkeys(tool.python_source for tool in tools if tool.python_source is not None))
    lines = [
        _SOURCE,
        f"_configure({list(context_names)!r}, typed={typed}, in_order={in_order})",
        f"_sources = {sources!r}",
    ]
    # The tools of other nodes are compiled, too, so that what is wrong with them is known before anything runs.
    for index, tool in enumerate(tools):
        in_scope = tool.scope.has(depth)
        if tool.python_source is not None:
            source = f"_sources[{sources.index(tool.python_source)}]"
            lines.append(f"_add_tool_source({index}, {tool.name!r}, {source}, {in_scope})")
        elif in_scope:
            lines.append(f"_add_served_tool({tool.name!r}, {tool.description!r}, {tool.schema!r})")
    return "\n\n".join([*lines, "_link_tools()\n"])


def begin_code(context_names: Sequence[str], *, typed: bool = False) -> str:
    """Returns the code that makes the REPL of a conversation ready for the next completion.

    Args:
        context_names: the variables that the new parts of its context are.
        typed: its answer must match a schema.
    """
    return f"_begin_completion({list(context_names)!r}, typed={typed})"
