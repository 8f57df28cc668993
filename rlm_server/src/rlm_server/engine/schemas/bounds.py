"""Keeps out JSON Schemas that could take forever to check a value against, and those that refer to elsewhere.

A validator tries each alternative, and all below it, for each value. Where two alternatives lead back to where they
stand (a tree whose nodes are `anyOf` two kinds of node), the time doubles with each level of the value; alternatives
that each refer to two others double it without any recursion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATHS = 10_000
"""Ways through a schema, each definition counted wherever it is referred to."""

_UNSUPPORTED = ("$id", "id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef")
_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_MAPS = ("dependentSchemas", "dependencies", "patternProperties")
_ALONE = ("contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems")


class SchemaBoundsError(Exception):
    """A schema that is not taken; the message says why, and begins with the place in it."""


def check_bounds(schema: object) -> None:
    """Checks a schema whose form is right.

    Raises:
        SchemaBoundsError: it refers to elsewhere, is too large with all its references, or its alternatives lead back
            to where they stand.
        RecursionError: it is nested too deeply.
    """
    _Walk(schema).check()


class _Walk:
    def __init__(self, root: object) -> None:
        self._root = root
        self._branches: dict[int, list[list[dict[str, Any]]]] = {}
        self._places: dict[int, str] = {}

    def check(self) -> None:
        if not isinstance(self._root, dict):
            return
        self._visit(self._root, "#")
        if self._count_paths(self._root, {}) > MAX_PATHS:
            raise SchemaBoundsError(f"#: has more than {MAX_PATHS:,} ways through its references; make it smaller")
        for node, branches in self._branches.items():
            returning = sum(any(self._leads_to(node, one) for one in branch) for branch in branches)
            if returning > 1:
                raise SchemaBoundsError(
                    f"{self._places[node]}: {returning} alternatives here lead back here, so that checking a value "
                    "could take forever; let one of them do so, as a single object type with optional properties"
                )

    def _visit(self, schema: dict[str, Any], place: str) -> None:
        if id(schema) in self._branches:
            return
        self._places[id(schema)] = place
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                raise SchemaBoundsError(f"{place}: {keyword} is not taken; refer to definitions as #/$defs/NAME")
        self._branches[id(schema)] = branches = [
            [one for one in branch if isinstance(one, dict)] for branch in self._applied(schema, place)
        ]
        for branch in branches:
            for child in branch:
                self._visit(child, f"{place}/..." if place == "#" else place)

    def _applied(self, schema: dict[str, Any], place: str) -> Iterator[list[Any]]:
        """Yields the schemas that a schema applies, those together of which at most one applies to the same value."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield [self._resolve(reference, place)]
        for keyword in _LISTS:
            if isinstance(schema.get(keyword), list):
                yield from ([one] for one in schema[keyword])
        for keyword in (*_SINGLE, *_ALONE):
            if keyword in schema:
                yield [schema[keyword]]
        for keyword in _MAPS:
            if isinstance(schema.get(keyword), dict):
                yield from ([one] for one in schema[keyword].values())
        properties = schema.get("properties")
        yield [*(properties.values() if isinstance(properties, dict) else ()), schema.get("additionalProperties")]
        items = schema.get("items")
        prefix = schema.get("prefixItems")
        several = [*(items if isinstance(items, list) else [items]), *(prefix if isinstance(prefix, list) else ())]
        yield [*several, schema.get("additionalItems")]

    def _resolve(self, reference: str, place: str) -> object:
        if reference != "#" and not reference.startswith("#/"):
            raise SchemaBoundsError(f"{place}: $ref {reference[:100]!r} is not taken; only #/... within the schema is")
        found = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise SchemaBoundsError(f"{place}: $ref {reference[:100]!r} leads nowhere")
        return found

    def _count_paths(self, schema: dict[str, Any], known: dict[int, int]) -> int:
        """Returns the number of ways through a schema; one that leads back to where it came from ends there."""
        node = id(schema)
        if node not in known:
            known[node] = 0
            children = (child for branch in self._branches[node] for child in branch)
            known[node] = 1 + sum(self._count_paths(child, known) for child in children)
        return known[node]

    def _leads_to(self, target: int, start: dict[str, Any]) -> bool:
        seen: set[int] = set()
        waiting = [start]
        while waiting:
            schema = waiting.pop()
            if id(schema) == target:
                return True
            if id(schema) not in seen:
                seen.add(id(schema))
                waiting += [child for branch in self._branches[id(schema)] for child in branch]
        return False
