"""The JSON Schema that an answer must match."""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.answers.answer import AnswerForm
from rlm_server.engine.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlm_server.engine.answers.answer import Answer
    from rlm_server.engine.schemas.json_schema import JsonSchema

_MAX_PROBLEMS = 10
_MAX_DEPTH = 200
_MAX_LITERAL_CHARS = 100_000
_CONSTANT = re.compile(r"\b(?:NaN|Infinity)\b")
_FENCED = re.compile(r"\A\s*(?:```|~~~)\w*[ \t]*\n(?P<body>.*?)\n[ \t]*(?:```|~~~)\s*\Z", re.DOTALL)


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
    """A JSON Schema that answers are held against."""

    schema: JsonSchema

    @property
    def text(self) -> str:
        """The schema as JSON, for the prompt."""
        return json.dumps(self.schema.schema, ensure_ascii=False)

    def check(self, answer: Answer) -> CheckedAnswer:
        """Holds an answer against the schema.

        Text may be meant as JSON, or as a string: words in a reply are read as JSON first, a str that code gives as a
        string first. What matches is taken.
        """
        values = list(_readings(answer))
        for value in values:
            if self.schema.matches(value):
                return CheckedAnswer(clean(json.dumps(value, ensure_ascii=False)))
        if not values:
            return CheckedAnswer("", _why_unread(answer.text))
        # What reads as JSON is most likely meant so, unless the schema wants a text.
        value = next((one for one in values if not isinstance(one, str)), values[0])
        if answer.form is AnswerForm.TEXT and self._is_of_wrong_type(value) and not self._is_of_wrong_type(answer.text):
            value = answer.text
        return CheckedAnswer("", self._problems(value))

    def _is_of_wrong_type(self, value: object) -> bool:
        return any(one.place == "$" and one.is_type for one in self.schema.problems(value))

    def _problems(self, value: object) -> str:
        problems = self.schema.problems(value)
        found = [f"- {one.place}: {one.message}" for one in itertools.islice(problems, _MAX_PROBLEMS)]
        return "\n".join([*found, "- and more"] if next(problems, None) else found)


def _readings(answer: Answer) -> Iterator[object]:
    """Yields the values that an answer may be, the likeliest first."""
    if answer.form is AnswerForm.TEXT:
        yield answer.text
    fenced = _FENCED.match(answer.text)
    for text in (answer.text, fenced["body"] if fenced else ""):
        if not text:
            continue
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            if answer.form is AnswerForm.JSON or (literal := _literal(text)) is None:
                continue
            value = literal[0]
        if "\\ud" in text.lower():  # what may be half of a surrogate pair, which no text can have
            value = json.loads(clean(json.dumps(value, ensure_ascii=False)))
        if _depth(value) <= _MAX_DEPTH:
            yield value
    if answer.form is AnswerForm.WRITTEN:
        yield answer.text


def _literal(text: str) -> tuple[object] | None:
    """Returns the value of a Python literal other than a str, as `{'a': True}`, which models write for JSON."""
    if len(text) > _MAX_LITERAL_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text.strip())
        return None if isinstance(value, str) else (json.loads(json.dumps(value, allow_nan=False)),)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _why_unread(text: str) -> str:
    try:
        json.loads(text)
    except RecursionError:
        pass
    except ValueError as error:
        return f"it is no JSON: {error}"
    else:
        if _CONSTANT.search(text):
            return "it has a NaN or Infinity, for which JSON has no number; give null, a text, or leave it out"
    return "it is JSON that is nested too deeply"


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


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
