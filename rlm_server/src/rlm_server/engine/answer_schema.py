"""The JSON Schema that an answer must match."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import jsonschema_rs

from rlm_server.engine.answers import AnswerForm
from rlm_server.engine.schema_bounds import SchemaBoundsError, check_bounds
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlm_server.engine.answers import Answer

_MAX_PROBLEMS = 10
_MAX_PROBLEM_CHARS = 300
_MAX_DEPTH = 200
_PATTERN_STEPS = 10_000
"""Steps back that the check of one string against a `pattern` may take; a string that needs more does not match."""

_FENCED = re.compile(r"\A\s*(?:```|~~~)\w*[ \t]*\n(?P<body>.*?)\n[ \t]*(?:```|~~~)\s*\Z", re.DOTALL)


class InvalidSchemaError(Exception):
    """A text that is no JSON Schema, or one that is not taken; the message says why."""


@dataclass(frozen=True)
class CheckedAnswer:
    """An answer, held against a schema.

    Args:
        json_text: the value that matches, as JSON; empty if none does.
        problem: why none does, for the model; empty if one does.
    """

    json_text: str
    problem: str = ""


@dataclass(frozen=True)
class AnswerSchema:
    """A JSON Schema, ready to check answers. `parse` makes it.

    Args:
        text: the schema as JSON, for the prompt.
    """

    text: str
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
        return cls(json.dumps(schema, ensure_ascii=False), validator)

    def check(self, answer: Answer) -> CheckedAnswer:
        """Holds an answer against the schema.

        Text may be meant as JSON, or as a string: words in a reply are read as JSON first, a str that code gives as a
        string first. What matches is taken.
        """
        values = list(_readings(answer))
        for value in values:
            if self._validator.is_valid(value):
                return CheckedAnswer(clean(json.dumps(value, ensure_ascii=False)))
        if not values:
            return CheckedAnswer("", "it is no JSON, or JSON that is nested too deeply")
        # What reads as JSON is most likely meant so.
        value = next((one for one in values if not isinstance(one, str)), values[0])
        return CheckedAnswer("", self._problems(value))

    def _problems(self, value: object) -> str:
        found: list[str] = []
        for error in self._validator.iter_errors(value):
            if len(found) == _MAX_PROBLEMS:
                found.append("- and more")
                break
            inner = _nearest(error)
            found.append(f"- {_place(inner.instance_path)}: {preview(clean(inner.message), _MAX_PROBLEM_CHARS)}")
        return "\n".join(found)


def _nearest(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Returns what is wrong in the alternative that a value comes nearest to, if it got further into one."""
    branches: list[list[jsonschema_rs.ValidationError]] = getattr(error.kind, "context", [])
    inner = max((one for branch in branches for one in branch), key=lambda one: len(one.instance_path), default=error)
    return _nearest(inner) if len(inner.instance_path) > len(error.instance_path) else error


def _readings(answer: Answer) -> Iterator[object]:
    """Yields the values that an answer may be, the likeliest first."""
    if answer.form is AnswerForm.TEXT:
        yield answer.text
    fenced = _FENCED.match(answer.text)
    for text in (answer.text, fenced["body"] if fenced else ""):
        try:
            value = json.loads(text, parse_constant=_refuse_constant) if text else None
        except (ValueError, RecursionError):
            continue
        if "\\ud" in text.lower():  # what may be half of a surrogate pair, which no text can have
            value = json.loads(clean(json.dumps(value, ensure_ascii=False)))
        if text and _depth(value) <= _MAX_DEPTH:
            yield value
    if answer.form is AnswerForm.WRITTEN:
        yield answer.text


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _place(path: list[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{preview(part, 50)}" for part in path)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _refuse_remote(uri: str) -> Any:
    raise ValueError(f"{uri} is not within the schema")
