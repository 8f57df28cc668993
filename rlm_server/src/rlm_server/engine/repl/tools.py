"""Functions that a request adds to the REPL: source that runs in the sandbox, and tools that the client serves."""

from __future__ import annotations

import ast
import enum
import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlm_server.engine.schemas.json_schema import JsonSchema
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.engine.ports.executors import SandboxOpenError

DEFAULT_TIMEOUT_SECONDS = 60.0
"""How long one call of a tool that the client serves may take, unless the request says otherwise."""

_MAX_ERROR_CHARS = 500
_TYPE_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}
_OPENING_TOO_LONG = re.compile(r"INVALID_ARGUMENT: open\.limits: .*(it took longer than .*)", re.DOTALL)
_SOURCE_PROBLEM = re.compile(r"ToolSourceError: tools\[(\d+)\]: (.*)", re.DOTALL)


class ToolScope(enum.Enum):
    """Which nodes have a tool."""

    ALL = enum.auto()
    ROOT = enum.auto()
    CHILDREN = enum.auto()

    def has(self, depth: int) -> bool:
        """Tells whether a node at that depth has the tool."""
        return self is ToolScope.ALL or (self is ToolScope.ROOT) == (depth == 0)


@dataclass(frozen=True)
class Tool:
    """A function for code in the REPL.

    Args:
        name: the function's.
        description: what the model is told of it.
        scope: which nodes have it.
        python_source: defines it, in the sandbox; None for one that the client serves.
        schema_json: JSON Schema of the arguments of one that the client serves; empty takes any by name.
        timeout_seconds: how long a call of one that the client serves may take.
    """

    name: str
    description: str = ""
    scope: ToolScope = ToolScope.ALL
    python_source: str | None = None
    schema_json: str = ""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    @functools.cached_property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the arguments, or None if there is none."""
        return dict(json.loads(self.schema_json)) if self.schema_json else None

    @functools.cached_property
    def _checker(self) -> JsonSchema:
        return JsonSchema.parse(self.schema_json)

    def argument_problem(self, arguments: Mapping[str, object]) -> str:
        """Returns what is wrong with a call's arguments, or an empty string."""
        if self.schema is None:
            return ""
        value = json.loads(clean(json.dumps(dict(arguments), ensure_ascii=False)))
        problem = next(self._checker.problems(value), None)
        if problem is None:
            return ""
        place = problem.place.removeprefix("$")
        return preview(f"arguments{place}: {problem.message}" if place else problem.message, _MAX_ERROR_CHARS)

    def describe(self) -> str:
        """Returns the line, or lines, that the model is told."""
        signature, docstring = ("(**arguments)", "")
        if self.python_source is not None:
            signature, docstring = _signature_in(self.python_source, self.name)
        elif self.schema is not None:
            signature = _signature_of(self.schema)
        description = "\n  ".join((self.description or docstring).strip().splitlines())
        if self.python_source is not None and _is_async(self.python_source, self.name):
            description = f"{description.rstrip()} (await what it returns)".lstrip()
        return f"- `{self.name}{signature}`{f': {description}' if description else ''}"


def tools_section(tools: Sequence[Tool]) -> str:
    """Returns the part of the system message that lists a node's tools; empty if there are none."""
    return "\n".join(tool.describe() for tool in tools)


def blame_source(error: SandboxOpenError, tools: Sequence[Tool]) -> SandboxOpenError:
    """Returns an error that is about a tool if a sandbox was not opened in time, and the source of one was to run."""
    index = next((index for index, tool in enumerate(tools) if tool.python_source is not None), None)
    found = _OPENING_TOO_LONG.search(str(error))
    if index is None or found is None:
        return error
    return type(error)(f"ToolSourceError: tools[{index}]: with the sources of all tools {found[1]}")


def source_problem(error: SandboxOpenError) -> tuple[int, str] | None:
    """Returns the index of the tool, and what is wrong, if a sandbox was not opened as a tool's source failed."""
    found = _SOURCE_PROBLEM.search(str(error))
    return (int(found[1]), found[2]) if found else None


def _signature_of(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    parameters = []
    for name in sorted(properties, key=lambda name: name not in required):
        described = properties[name] if isinstance(properties[name], dict) else {}
        kind = _TYPE_NAMES.get(described["type"]) if isinstance(described.get("type"), str) else None
        text = f"{name}: {kind}" if kind else name
        if name not in required:
            default = repr(described["default"]) if "default" in described else "..."
            text = f"{text} = {default}" if kind else f"{text}={default}"
        parameters.append(text)
    return f"({', '.join(parameters)})"


def _signature_in(source: str, name: str) -> tuple[str, str]:
    """Returns the signature and the docstring of a function, as far as the source shows them."""
    function = _function_in(source, name)
    if function is None:
        return "(...)", ""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(function.args)}){returns}", ast.get_docstring(function) or ""


def _is_async(source: str, name: str) -> bool:
    return isinstance(_function_in(source, name), ast.AsyncFunctionDef)


def _function_in(source: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # the sandbox has a newer Python, and judges what is wrong
    functions = (one for one in reversed(body) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((one for one in functions if one.name == name), None)
