"""Functions for the code in the REPL: served by this client, or run in the sandbox."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._errors import ToolDefinitionError
from rlm_client._tool_schema import parameters_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SCOPES = {
    "all": pb.TOOL_SCOPE_UNSPECIFIED,
    "root": pb.TOOL_SCOPE_ROOT,
    "children": pb.TOOL_SCOPE_CHILDREN,
}


@dataclass(frozen=True)
class Tool:
    """A function for the code in the REPL. `Tool.served` and `Tool.in_sandbox` make one.

    Args:
        name: what code calls it.
        description: what the model is told of it.
        scope: the nodes that have it: `all`, the `root` only, or its `children` only.
        function: runs in this process, whenever code calls the tool.
        schema: JSON Schema of the arguments by name, if `function` is set.
        timeout_seconds: how long a call of `function` may take. None takes the server's default.
        source: Python source that defines it in the sandbox, if `function` is not set.
    """

    name: str
    description: str = ""
    scope: Literal["all", "root", "children"] = "all"
    function: Callable[..., Any] | None = None
    schema: Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    source: str | None = None

    @classmethod
    def served(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        scope: Literal["all", "root", "children"] = "all",
        timeout_seconds: float | None = None,
    ) -> Tool:
        """Makes a tool of a function that runs in this process.

        Args:
            function: plain or `async`. Its arguments arrive as JSON has them, and what it returns must be what JSON can
                express. What it raises is raised in the sandbox as `ToolError`, with type and text.
            name: default: the function's.
            description: default: the function's docstring.
            scope: which nodes have it.
            timeout_seconds: how long a call may take. Default: the server's, 60 s.

        Raises:
            ToolDefinitionError: its parameters cannot be given by name, or a type hint has no JSON Schema.
        """
        name = name or str(getattr(function, "__name__", ""))
        if name == "<lambda>":
            raise ToolDefinitionError("a lambda has no name that code could call; give one as Tool.served(..., name=)")
        return cls(
            name=name,
            description=inspect.getdoc(function) or "" if description is None else description,
            scope=scope,
            function=function,
            schema=parameters_schema(function),
            timeout_seconds=timeout_seconds,
        )

    @classmethod
    def in_sandbox(
        cls,
        source: str | Callable[..., Any],
        name: str | None = None,
        *,
        description: str = "",
        scope: Literal["all", "root", "children"] = "all",
    ) -> Tool:
        """Makes a tool whose source runs in the sandbox, next to the model's code.

        Args:
            source: Python source that defines a function, or a function whose source can be found. It has the standard
                library, `context` and its other parts, and what the REPL provides, and nothing of this process.
            name: the function's. Default: the one public function that the source defines.
            description: what the model is told. Default: the docstring.
            scope: which nodes have it.

        Raises:
            ToolDefinitionError: the source cannot be found, or the name is not clear.
        """
        if not isinstance(source, str):
            if getattr(source, "__name__", "") == "<lambda>":
                raise ToolDefinitionError("a lambda has no source of its own; define a function with `def`")
            name = name or source.__name__
            try:
                source = textwrap.dedent(inspect.getsource(source))
            except (OSError, TypeError) as error:
                raise ToolDefinitionError(f"the source of {name} cannot be found: {error}") from None
        if name is None:
            names = _public_functions(source)
            if len(names) != 1:
                found = ", ".join(names) or "none"
                raise ToolDefinitionError(f"give the name of the tool; public functions in its source: {found}")
            name = names[0]
        return cls(name=name, description=description, scope=scope, source=source)

    @classmethod
    def all_in_file(cls, path: str | Path) -> list[Tool]:
        """Makes a tool that runs in the sandbox of each public function that a file defines. They share its globals.

        Raises:
            ToolDefinitionError: the file cannot be read, or defines none.
        """
        try:
            source = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ToolDefinitionError(f"{path} cannot be read: {error}") from None
        try:
            names = _public_functions(source)
        except ToolDefinitionError as error:
            raise ToolDefinitionError(f"{path}: {error}") from None
        if not names:
            raise ToolDefinitionError(f"{path} defines no public function")
        return [cls(name=name, source=source) for name in names]

    def to_proto(self) -> pb.Tool:
        """Returns the message."""
        message = pb.Tool(name=self.name, description=self.description, scope=_SCOPES[self.scope])
        if self.source is not None:
            message.python_source = self.source
            return message
        message.client_served = True
        message.parameters_schema = json.dumps(self.schema) if self.schema is not None else ""
        if self.timeout_seconds is not None:
            timeout = duration_pb2.Duration()
            timeout.FromNanoseconds(round(self.timeout_seconds * 1e9))
            message.timeout.CopyFrom(timeout)
        return message


def as_tools(tools: Sequence[Tool | Callable[..., Any]]) -> list[Tool]:
    """Returns tools, those that are plain functions as `Tool.served` makes them.

    Raises:
        ToolDefinitionError: a function cannot be one.
    """
    return [tool if isinstance(tool, Tool) else Tool.served(tool) for tool in tools]


def _public_functions(source: str) -> list[str]:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else error
        raise ToolDefinitionError(f"the source of a tool is no Python{where}: {text}") from None
    functions = (one.name for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    return list(dict.fromkeys(name for name in functions if not name.startswith("_")))
