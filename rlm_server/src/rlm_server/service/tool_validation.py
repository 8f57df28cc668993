"""Checks the tools of a request."""

from __future__ import annotations

import json
import keyword
import re
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.engine.repl.prelude import REPL_NAMES
from rlm_server.engine.repl.tools import DEFAULT_TIMEOUT_SECONDS, Tool, ToolScope
from rlm_server.engine.schemas.json_schema import InvalidSchemaError, JsonSchema
from rlm_server.service.limits_validation import read_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rlm_common.errors import Violations

_MAX_TOOLS = 50
_MAX_NAME_CHARS = 100
_MAX_DESCRIPTION_CHARS = 10_000
_MAX_SCHEMA_CHARS = 64 * 1024
_MAX_SOURCE_CHARS = 256 * 1024
_MAX_TIMEOUT_SECONDS = 3600.0

_KEPT_NAMES = re.compile(r"(context|history)(_\d+)?")

_SCOPES = {
    pb.TOOL_SCOPE_UNSPECIFIED: ToolScope.ALL,
    pb.TOOL_SCOPE_ROOT: ToolScope.ROOT,
    pb.TOOL_SCOPE_CHILDREN: ToolScope.CHILDREN,
}


def check_tools(
    tools: Sequence[pb.Tool], context_names: Collection[str], violations: Violations, *, client_serves: bool
) -> list[Tool]:
    """Returns what the engine takes; what is wrong goes to `violations`.

    Args:
        tools: the request's.
        context_names: names that parts of the context have.
        violations: collects wrong fields.
        client_serves: whether the client can serve tools.
    """
    if len(tools) > _MAX_TOOLS:
        violations.add("tools", f"has {len(tools)} elements; at most {_MAX_TOOLS} are allowed")
        return []
    sources = {tool.python_source for tool in tools}
    if sum(map(len, sources)) > _MAX_SOURCE_CHARS:
        violations.add("tools", f"have more than {_MAX_SOURCE_CHARS:,} characters of different `python_source`s in all")
    taken = dict.fromkeys(REPL_NAMES, "the REPL has it")
    taken |= dict.fromkeys(context_names, "a part of the context has it")
    checked = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        _check_name(tool.name, f"{path}.name", taken, violations)
        taken.setdefault(tool.name, f"{path} has it")
        violations.check(
            len(tool.description) <= _MAX_DESCRIPTION_CHARS,
            f"{path}.description",
            f"has {len(tool.description):,} characters; at most {_MAX_DESCRIPTION_CHARS:,} are allowed",
        )
        violations.check(tool.scope in _SCOPES, f"{path}.scope", f"is {tool.scope}, which is no scope")
        checked.append(_check_implementation(tool, path, violations, client_serves=client_serves))
    return checked


def _check_name(name: str, path: str, taken: dict[str, str], violations: Violations) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or len(name) > _MAX_NAME_CHARS:
        violations.add(
            path,
            f"{name[:_MAX_NAME_CHARS]!r} must be a Python identifier of at most {_MAX_NAME_CHARS} characters that does "
            "not begin with an underscore and is no keyword",
        )
    elif _KEPT_NAMES.fullmatch(name):
        violations.add(path, f"{name!r} is kept for the parts of the context and of a conversation; give another name")
    elif name in taken:
        violations.add(path, f"{name!r} is taken, as {taken[name]}; give another name")


def _check_implementation(tool: pb.Tool, path: str, violations: Violations, *, client_serves: bool) -> Tool:
    scope = _SCOPES.get(tool.scope, ToolScope.ALL)
    kind = tool.WhichOneof("implementation")
    if kind == "python_source":
        violations.check(bool(tool.python_source.strip()), f"{path}.python_source", "is empty; define the function")
        for name in ("parameters_schema", "timeout"):
            given = tool.HasField("timeout") if name == "timeout" else bool(tool.parameters_schema)
            violations.check(not given, f"{path}.{name}", "is for tools that the client serves; leave it out")
        return Tool(tool.name, tool.description, scope, python_source=tool.python_source)
    if kind is None:
        violations.add(f"{path}.implementation", "is empty; set python_source, or client_served to true")
    elif not tool.client_served:
        violations.add(f"{path}.client_served", "must be true; or give python_source instead")
    elif not client_serves:
        violations.add(f"{path}.client_served", "needs CompleteWithTools, on whose stream calls are answered")
    _check_schema(tool.parameters_schema, f"{path}.parameters_schema", violations)
    timeout_seconds = DEFAULT_TIMEOUT_SECONDS
    if tool.HasField("timeout"):
        timeout_seconds = read_duration(tool.timeout, f"{path}.timeout", violations, zero_allowed=False)
        violations.check(
            timeout_seconds <= _MAX_TIMEOUT_SECONDS,
            f"{path}.timeout",
            f"is {timeout_seconds:g} s; at most {_MAX_TIMEOUT_SECONDS:g} s are allowed",
        )
    return Tool(tool.name, tool.description, scope, schema_json=tool.parameters_schema, timeout_seconds=timeout_seconds)


def _check_schema(text: str, path: str, violations: Violations) -> None:
    if not text:
        return
    if len(text) > _MAX_SCHEMA_CHARS:
        violations.add(path, f"has {len(text):,} characters; at most {_MAX_SCHEMA_CHARS:,} are allowed")
        return
    try:
        schema = json.loads(text)
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            violations.add(path, "must be the schema of an object, whose properties are the arguments by name")
            return
        JsonSchema.parse(text)
    except (ValueError, RecursionError) as error:
        violations.add(path, f"is not JSON: {error}")
        return
    except InvalidSchemaError as error:
        violations.add(path, str(error))
        return
    for name in schema.get("properties", {}):
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            violations.add(
                path, f"has a property {name[:100]!r}; a parameter must be an identifier that begins with no underscore"
            )
