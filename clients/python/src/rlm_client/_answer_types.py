"""Types of answers: the JSON Schema that the server is asked for, and how its JSON becomes a value of the type."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union

from rlm_client._errors import AnswerTypeError, AnswerValueError

JsonSchema: TypeAlias = Mapping[str, object]
"""A JSON Schema."""

_Build: TypeAlias = Callable[[Any], Any]
_Parts: TypeAlias = tuple[dict[str, Any], _Build]

_PLAIN: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("string", (str,)),
    bool: ("boolean", (bool,)),
    int: ("integer", (int,)),
    float: ("number", (int, float)),
    type(None): ("null", (type(None),)),
}
_TIMES = {dt.date: "date", dt.datetime: "date-time"}
_LISTS = {
    list: list,
    collections.abc.Sequence: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
_DICTS = (dict, collections.abc.Mapping)


@dataclass(frozen=True)
class AnswerType:
    """What an answer must be.

    Args:
        schema_json: the JSON Schema.
        read: makes a value of the answer's JSON.
    """

    schema_json: str
    read: Callable[[str], Any]


def resolve(answer_type: Any) -> AnswerType:
    """Returns what a caller's `answer_type` stands for.

    Args:
        answer_type: a JSON Schema, a pydantic model, a dataclass, or another type that JSON can express. Types that
            this module does not know are left to pydantic, if it is installed.

    Raises:
        AnswerTypeError: there is no JSON Schema for it.
    """
    if isinstance(answer_type, Mapping):
        try:
            return AnswerType(json.dumps(answer_type), json.loads)
        except (TypeError, ValueError) as error:
            raise AnswerTypeError(f"the schema cannot be written as JSON: {error}") from None
    if isinstance(answer_type, str):
        raise AnswerTypeError("a text is no type; give a JSON Schema as a dict, as json.loads makes it of a text")
    if isinstance(answer_type, type) and hasattr(answer_type, "model_json_schema"):
        model: Any = answer_type
        return AnswerType(json.dumps(model.model_json_schema()), model.model_validate_json)
    if isinstance(answer_type, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        raise AnswerTypeError(f"{answer_type} is a function; give a type, as `int`, a dataclass or a pydantic model")
    try:
        return _Types().resolve(answer_type)
    except (AnswerTypeError, TypeError) as error:
        adapted = _resolve_with_pydantic(answer_type)
        if adapted is None:
            raise AnswerTypeError(f"{error}; with pydantic installed, its types can be used as well") from None
        return adapted


def read_value(read: Callable[[str], Any], text: str) -> Any:
    """Returns the value that an answer's JSON stands for.

    Raises:
        AnswerValueError: it matches the schema, but not what the type checks besides.
    """
    try:
        return read(text)
    except ValueError as error:  # pydantic's ValidationError is one, too
        raise AnswerValueError(str(error)) from error


def _resolve_with_pydantic(answer_type: Any) -> AnswerType | None:
    try:
        import pydantic  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - only if it is there
    except ImportError:
        return None
    try:
        adapter = pydantic.TypeAdapter(answer_type)
        return AnswerType(json.dumps(adapter.json_schema()), adapter.validate_json)
    except Exception as error:  # of what is no type, it can be anything
        raise AnswerTypeError(f"{answer_type!r} has no JSON Schema: {error}") from error


class _Types:
    """Goes through a type and those in it. Dataclasses and TypedDicts become definitions, and may be recursive."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._builds: dict[str, _Build] = {}

    def resolve(self, hint: Any) -> AnswerType:
        schema, build = self._parts(hint)
        if self._definitions:
            schema = {"$defs": self._definitions, **schema}
        return AnswerType(json.dumps(schema), lambda text: build(json.loads(text)))

    def _parts(self, hint: Any) -> _Parts:
        if hint is Any or hint is object:
            return {}, lambda value: value
        if isinstance(hint, type) and hint in _PLAIN:
            return self._plain(hint)
        if isinstance(hint, type) and hint in _TIMES:
            return {"type": "string", "format": _TIMES[hint]}, hint.fromisoformat
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}, hint
        if (isinstance(hint, type) and dataclasses.is_dataclass(hint)) or typing.is_typeddict(hint):
            return self._reference(hint)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            schema, build = self._parts(arguments[0])
            texts = [one for one in arguments[1:] if isinstance(one, str)]
            return ({**schema, "description": texts[0]} if texts else schema), build
        if origin is Literal:
            return {"enum": list(arguments)}, _one_of(arguments)
        if origin in (Union, types.UnionType):
            parts = [self._parts(one) for one in arguments]
            return {"anyOf": [schema for schema, _ in parts]}, _first_that_fits([build for _, build in parts])
        base = origin or hint
        if base in _LISTS:
            return self._list(_LISTS[base], arguments)
        if base in _DICTS and (not arguments or arguments[0] is str):
            schema, build = self._parts(arguments[1] if arguments else Any)
            return {"type": "object", "additionalProperties": schema}, lambda value: {
                key: build(one) for key, one in _expect(dict, value).items()
            }
        raise AnswerTypeError(f"{hint} has no JSON Schema that is known")

    def _plain(self, hint: Any) -> _Parts:
        name, kinds = _PLAIN[hint]

        def build(value: Any) -> Any:
            if hint is int and isinstance(value, float) and value.is_integer():
                return int(value)  # to JSON Schema, 3.0 is an integer
            is_other_bool = isinstance(value, bool) and hint is not bool
            if is_other_bool or not isinstance(value, kinds):
                raise ValueError(f"{value!r} is no {name}")
            return float(typing.cast("float", value)) if hint is float else value

        return {"type": name}, build

    def _list(self, kind: type, arguments: tuple[Any, ...]) -> _Parts:
        is_fixed = kind is tuple and bool(arguments) and arguments[-1] is not ...
        if is_fixed:
            parts = [self._parts(one) for one in arguments]
            schemas, builds = [schema for schema, _ in parts], [build for _, build in parts]
            fixed = {"type": "array", "prefixItems": schemas, "minItems": len(parts), "maxItems": len(parts)}
            return fixed, lambda value: tuple(build(one) for build, one in zip(builds, value, strict=True))
        item, build_item = self._parts(arguments[0] if arguments else Any)
        schema = {"type": "array", "items": item} | ({"uniqueItems": True} if kind in (set, frozenset) else {})
        return schema, lambda value: kind(build_item(one) for one in _expect(list, value))

    def _reference(self, hint: Any) -> _Parts:
        name = self._names.get(hint)
        if name is None:
            name = hint.__name__
            while name in self._definitions:
                name += "_"
            self._names[hint] = name
            self._definitions[name] = {}  # so that a type may refer to itself
            self._definitions[name], self._builds[name] = self._object(hint)
        # A type that refers to itself is not built yet.
        return {"$ref": f"#/$defs/{name}"}, lambda value: self._builds[name](value)  # noqa: PLW0108

    def _object(self, hint: Any) -> _Parts:
        try:
            hints = typing.get_type_hints(hint, include_extras=True)
        except NameError as error:
            raise AnswerTypeError(f"{hint.__name__}: {error}") from None
        if dataclasses.is_dataclass(hint):
            fields = [one for one in dataclasses.fields(hint) if one.init]
            names = [one.name for one in fields]
            absent = (dataclasses.MISSING, dataclasses.MISSING)
            required = [one.name for one in fields if (one.default, one.default_factory) == absent]
        else:
            names, required = list(hints), sorted(hint.__required_keys__)
        parts = {name: self._parts(_required(hints[name])) for name in names}
        schema = {
            "type": "object",
            "properties": {name: part for name, (part, _) in parts.items()},
            "required": required,
            "additionalProperties": False,
        }

        def build(value: Any) -> Any:
            given = _expect(dict, value)
            if unknown := set(given) - set(parts):
                raise ValueError(f"{hint.__name__} has no {', '.join(sorted(unknown))}")
            if missing := [name for name in required if name not in given]:
                raise ValueError(f"{hint.__name__} lacks {', '.join(missing)}")
            return hint(**{name: parts[name][1](one) for name, one in given.items()})

        return schema, build


def _required(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is no {kind.__name__}")  # noqa: TRY004 - to those that try alternatives it is one
    return value


def _one_of(choices: tuple[Any, ...]) -> _Build:
    def build(value: Any) -> Any:
        for choice in choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"{value!r} is none of {choices}")

    return build


def _first_that_fits(builds: list[_Build]) -> _Build:
    def build(value: Any) -> Any:
        for one in builds:
            try:
                return one(value)
            except (TypeError, ValueError):
                continue
        raise ValueError(f"{value!r} fits no alternative")

    return build
