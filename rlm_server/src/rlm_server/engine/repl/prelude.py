"""The prelude that sandboxes run: the sources in `in_sandbox/`, and lines that set them up for one node."""

from __future__ import annotations

import ast
import importlib.resources
from typing import TYPE_CHECKING

from rlm_server.engine.ports.executors import Prelude

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.images import ImageInfo
    from rlm_server.engine.repl.context_parts import ContextPart
    from rlm_server.engine.repl.tools import Tool

_FUTURE = "from __future__ import annotations\n"


_FOLLOWING = ("errors.py", "changes.py", "images.py", "subcalls.py", "answers.py")


def _read(name: str) -> str:
    return (importlib.resources.files("rlm_server.engine.repl.in_sandbox") / name).read_text(encoding="utf-8")


def _read_following(name: str) -> str:
    return _read(name).replace(_FUTURE, "", 1)  # only the first line of a module may say this


_SOURCE = "\n\n".join([_read("prelude.py"), *map(_read_following, _FOLLOWING)])
_TOOLS_SOURCE = _read_following("tools.py")


def _exported_names() -> frozenset[str]:
    for statement in ast.parse(_SOURCE).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    raise ValueError("prelude.py has no __all__")


REPL_NAMES = _exported_names()
"""The names that the REPL provides itself."""


def prelude_for(
    contexts: Sequence[ContextPart],
    tools: Sequence[Tool],
    depth: int,
    *,
    typed: bool = False,
    in_order: bool = False,
) -> Prelude:
    """Returns the prelude of a node. Its source is the same for all, but for there being tools.

    Args:
        contexts: the parts of its context.
        tools: those of the request, in its order.
        depth: the node's, which tells what tools it has.
        typed: its answer must match a schema.
        in_order: code waits for each sub-call.
    """
    sources = list(dict.fromkeys(tool.python_source for tool in tools if tool.python_source is not None))
    lines = [
        _set_images(contexts),
        f"_configure({[part.value.name for part in contexts]!r}, typed={typed}, in_order={in_order})",
    ]
    if not tools:
        return Prelude(_SOURCE, "\n\n".join(lines) + "\n")
    lines.append(f"_sources = {sources!r}")
    # The tools of other nodes are compiled, too, so that what is wrong with them is known before anything runs.
    for index, tool in enumerate(tools):
        in_scope = tool.scope.has(depth)
        if tool.python_source is not None:
            source = f"_sources[{sources.index(tool.python_source)}]"
            lines.append(f"_add_tool_source({index}, {tool.name!r}, {source}, {in_scope})")
        elif in_scope:
            lines.append(f"_add_served_tool({tool.name!r}, {tool.description!r}, {tool.schema!r})")
    return Prelude(f"{_SOURCE}\n\n{_TOOLS_SOURCE}", "\n\n".join([*lines, "_link_tools()\n"]))


def make_room_code(names: Sequence[str]) -> str:
    """Returns the code that makes room in the REPL of a conversation for inputs of these names, before they are set."""
    return f"_make_room({list(names)!r})"


def begin_code(contexts: Sequence[ContextPart], *, typed: bool = False) -> str:
    """Returns the code that makes the REPL of a conversation ready for the next completion.

    Args:
        contexts: the new parts of its context.
        typed: its answer must match a schema.
    """
    images = {part.value.name: _sizes(part.image) for part in contexts if part.image}
    return f"_begin_completion({[part.value.name for part in contexts]!r}, {images!r}, typed={typed})"


def _set_images(contexts: Sequence[ContextPart]) -> str:
    images = {part.value.name: _sizes(part.image) for part in contexts if part.image}
    inner = [_sizes(image.info) for part in contexts for image in part.inner_images]
    return f"_set_images({images!r}, {inner!r})" if images or inner else ""


def _sizes(image: ImageInfo) -> tuple[str, int, int]:
    return image.media_type, image.width, image.height
