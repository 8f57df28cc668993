"""JSON Schemas of the parameters of Python functions, from their type hints."""

from __future__ import annotations

import collections.abc
import inspect
import json
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from rlm_client._errors import ToolDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def parameters_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the JSON Schema of an object with a function's arguments by name.

    Raises:
        ToolDefinitionError: a parameter cannot be given by name, or its type hint has no JSON Schema.
    """
    name = getattr(function, "__name__", repr(function))
    try:
        parameters = inspect.signature(function).parameters.values()
        hints = typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ToolDefinitionError(f"{name} cannot be a tool: {error}") from None
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            schema["additionalProperties"] = True
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise ToolDefinitionError(f"{name} cannot be a tool: {parameter.name} cannot be given by name")
        try:
            described = type_schema(hints.get(parameter.name, Any))
        except ToolDefinitionError as error:
            raise ToolDefinitionError(f"{name} cannot be a tool: parameter {parameter.name}: {error}") from None
        if parameter.default is inspect.Parameter.empty:
            schema["required"].append(parameter.name)
        elif parameter.default is not None and _is_json(parameter.default):
            described = {**described, "default": parameter.default}
        schema["properties"][parameter.name] = described
    return schema


def type_schema(hint: Any) -> dict[str, Any]:
    """Returns the JSON Schema of the values that a type hint stands for.

    Raises:
        ToolDefinitionError: there is none.
    """
    if hint is Any or hint is object:
        return {}
    if isinstance(hint, type) and hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        properties = {key: type_schema(_required(value)) for key, value in hints.items()}
        return {"type": "object", "properties": properties, "required": sorted(hint.__required_keys__)}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        texts = [one for one in arguments[1:] if isinstance(one, str)]
        return type_schema(arguments[0]) | ({"description": texts[0]} if texts else {})
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [type_schema(one) for one in arguments]}
    base = origin or hint
    if base in _LISTS:
        of_one = [one for one in arguments if one is not ...]
        if len(of_one) > 1:
            return {"type": "array", "prefixItems": [type_schema(one) for one in of_one], "minItems": len(of_one)}
        return {"type": "array", "items": type_schema(of_one[0])} if of_one else {"type": "array"}
    if base in _DICTS:
        if arguments and arguments[0] is not str:
            raise ToolDefinitionError(f"the keys of {hint} must be str, as JSON has it")
        return {"type": "object"} | ({"additionalProperties": type_schema(arguments[1])} if arguments else {})
    raise ToolDefinitionError(f"{hint} has no JSON Schema; use str, int, float, bool, list, dict, Literal, TypedDict")


def _required(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
