"""The functions of the client's that code of a session can call, as its `open` declares them."""

from __future__ import annotations

import json
import keyword
from typing import TYPE_CHECKING

from sandbox_server.model import HostFunction
from sandbox_server.service.field_checks import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rlm_api.sandbox.v1 import execute_service_pb2 as pb
    from rlm_common.errors import Violations

MAX_HOST_FUNCTIONS = 100
MAX_SCHEMA_BYTES = 64 * 1024


def read_functions(functions: Iterable[pb.HostFunction], violations: Violations) -> tuple[HostFunction, ...]:
    """Reads the host functions of the `open` of a session."""
    read: list[HostFunction] = []
    for index, function in enumerate(functions):
        here = f"open.host_functions[{index}]"
        if index == MAX_HOST_FUNCTIONS:
            violations.add("open.host_functions", f"must have at most {MAX_HOST_FUNCTIONS} elements")
            break
        check_name(function.name, f"{here}.name", violations, private_prefix="_")
        duplicate = any(function.name == other.name for other in read)
        violations.check(not duplicate, f"{here}.name", "is given twice; names must be unique")
        _check_schema(function.parameters_schema, f"{here}.parameters_schema", violations)
        read.append(HostFunction(function.name, function.doc, function.parameters_schema))
    return tuple(read)


def _check_schema(text: str, path: str, violations: Violations) -> None:
    """Checks what the sandbox, which reads the schema itself, cannot be asked: its outer shape."""
    if not text:
        return
    if not violations.check(
        len(text.encode()) <= MAX_SCHEMA_BYTES, path, f"must be at most {MAX_SCHEMA_BYTES} bytes; simplify it"
    ):
        return
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        violations.add(path, f"is not JSON: {error}")
        return
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        violations.add(path, 'must be the JSON Schema of an object: {"type": "object", "properties": ...}')
        return
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(one, dict) for one in properties.values()):
        violations.add(path, "must have an object of schemas as `properties`")
        return
    for name in properties:
        if not name.isidentifier() or keyword.iskeyword(name):
            violations.add(path, f"has the property {name[:50]!r}, which is not a name that a parameter can have")
            return
