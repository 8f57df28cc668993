"""JSON Schemas of what clients give, checked against values that come from models and their code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import jsonschema_rs

from rlm_server.engine.schemas.bounds import SchemaBoundsError, check_bounds
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_PROBLEM_CHARS = 300
_PATTERN_STEPS = 10_000
"""Steps back that the check of one string against a `pattern` may take; a string that needs more does not match."""

_FORMAT_HINTS = {
    "date-time": " (with seconds and an offset, as 2026-01-31T09:30:00Z)",
    "time": " (with seconds and an offset, as 09:30:00Z)",
    "date": " (as 2026-01-31)",
    "duration": " (as P1DT2H)",
}


class InvalidSchemaError(Exception):
    """A text that is no JSON Schema, or one that is not taken; the message says why."""


@dataclass(frozen=True)
class Problem:
    """Why a value does not match.

    Args:
        place: where in the value, as `$.items[3].name`.
        message: what is wrong there.
        is_type: the value is of another type than it should be.
    """

    place: str
    message: str
    is_type: bool = False


@dataclass(frozen=True)
class JsonSchema:
    """A JSON Schema, ready to check values. `parse` makes it.

    Args:
        schema: the schema.
    """

    schema: dict[str, Any]
    _validator: Any = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a schema.

        Raises:
            InvalidSchemaError: it is none, or one that is not taken.
        """
        try:
            schema = json.loads(text)
            if not isinstance(schema, dict):
                raise InvalidSchemaError("is no JSON object; give a schema as an object")
            jsonschema_rs.meta.validate(schema)
            check_bounds(schema)
            validator = jsonschema_rs.validator_for(
                schema,
                validate_formats=True,
                retriever=_refuse_remote,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_PATTERN_STEPS),
            )
        except RecursionError:
            raise InvalidSchemaError("is nested too deeply") from None
        except SchemaBoundsError as error:
            raise InvalidSchemaError(f"is not taken: {error}") from None
        except jsonschema_rs.ValidationError as error:
            message = f"{_place(error.instance_path)}: {preview(error.message, _MAX_PROBLEM_CHARS)}"
            raise InvalidSchemaError(f"is no JSON Schema: {message}") from None
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise InvalidSchemaError(f"is no JSON Schema: {preview(str(error), _MAX_PROBLEM_CHARS)}") from None
        return cls(schema, validator)

    def matches(self, value: object) -> bool:
        """Whether a value matches. It must be what `json.loads` makes, without halves of surrogate pairs."""
        return bool(self._validator.is_valid(value))

    def problems(self, value: object) -> Iterator[Problem]:
        """Yields what is wrong with a value that does not match."""
        for error in self._validator.iter_errors(value):
            inner = _nearest(error)
            message = preview(clean(inner.message), _MAX_PROBLEM_CHARS)
            kind = inner.kind.name
            if kind == "format":
                message += _FORMAT_HINTS.get(getattr(inner.kind, "format", ""), "")
            yield Problem(_place(inner.instance_path), message, is_type=kind == "type")


def _nearest(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Returns what is wrong in the alternative that a value comes nearest to, if it got further into one."""
    branches: list[list[jsonschema_rs.ValidationError]] = getattr(error.kind, "context", [])
    inner = max((one for branch in branches for one in branch), key=lambda one: len(one.instance_path), default=error)
    return _nearest(inner) if len(inner.instance_path) > len(error.instance_path) else error


def _place(path: list[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{preview(part, 50)}" for part in path)


def _refuse_remote(uri: str) -> Any:
    raise ValueError(f"{uri} is not within the schema")
